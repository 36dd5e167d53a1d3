"""Returns and lengths of episodes, counted by ourselves in every autoreset mode."""

from dataclasses import dataclass

import numpy as np

from kitae.envs import HostStep


@dataclass(frozen=True)
class History:
    """What a training did.

    Attributes:
        env_steps: Environment steps taken in this call.
        updates: Gradient updates made in this call.
        episode_return: `[n_episodes]` float64, undiscounted, of each episode that
            ended in this call, in order; of several agents the mean.
        episode_length: `[n_episodes]` int64, in environment steps.
        episode_env_step: `[n_episodes]` int64, the agent's environment steps when the
            episode ended, counted over all of its training.
    """

    env_steps: int
    updates: int
    episode_return: np.ndarray
    episode_length: np.ndarray
    episode_env_step: np.ndarray


# Vector steps that wait to be counted together.
MAX_WAITING = 1_024


class EpisodeStatistics:
    """Counts while the environments step.

    Args:
        n_envs: Parallel environments.
    """

    def __init__(self, n_envs: int) -> None:
        self._returns: list[float] = []
        self._lengths: list[int] = []
        self._env_steps: list[int] = []
        self._envs: list[int] = []
        self._return = np.zeros(n_envs)
        self._length = np.zeros(n_envs, np.int64)
        self._waiting: list[tuple] = []

    def __len__(self) -> int:
        """Episodes that ended so far."""
        return len(self.returns)

    @property
    def returns(self) -> list[float]:
        """Of each episode that ended, in order."""
        self._settle()
        return self._returns

    @property
    def lengths(self) -> list[int]:
        """Of each episode that ended, in environment steps."""
        self._settle()
        return self._lengths

    @property
    def env_steps(self) -> list[int]:
        """The agent's environment steps when each episode ended."""
        self._settle()
        return self._env_steps

    @property
    def envs(self) -> list[int]:
        """The environment of each episode that ended."""
        self._settle()
        return self._envs

    @property
    def unfinished(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns and lengths so far of the episodes that have not ended."""
        self._settle()
        return self._return, self._length

    @unfinished.setter
    def unfinished(self, values: tuple[np.ndarray, np.ndarray]) -> None:
        self._settle()
        self._return, self._length = (np.array(value) for value in values)

    def record(self, step: HostStep, env_steps: int) -> None:
        """Takes in one vector step, which is counted once somebody looks.

        Args:
            step: What the environments gave.
            env_steps: The agent's environment steps, this one's included.
        """
        counted = step.reward, step.terminated, step.truncated, step.valid, env_steps
        self._waiting.append(counted)
        if len(self._waiting) == MAX_WAITING:
            self._settle()

    def _settle(self) -> None:
        """Counts the steps that wait: together, since each by itself takes longer."""
        if not self._waiting:
            return
        *columns, env_steps = zip(*self._waiting, strict=True)
        reward, terminated, truncated, valid = map(np.array, columns)
        self._waiting.clear()
        gained, ended = reward * valid, (terminated | truncated) & valid
        start, ends = 0, np.flatnonzero(ended.any(axis=1)) + 1
        for end in np.union1d(ends, len(ended)).tolist():
            # In order of time: the same bits, however many steps have waited.
            gains = np.vstack([self._return, gained[start:end]])
            self._return = np.add.accumulate(gains)[-1]
            self._length = self._length + valid[start:end].sum(axis=0)
            over = ended[end - 1]
            self._returns += self._return[over].tolist()
            self._lengths += self._length[over].tolist()
            self._env_steps += [env_steps[end - 1]] * np.count_nonzero(over)
            self._envs += np.flatnonzero(over).tolist()
            self._return[over], self._length[over] = 0.0, 0
            start = end

    def record_many(
        self, reward: np.ndarray, ended: np.ndarray, env_steps: np.ndarray
    ) -> None:
        """Takes in many vector steps, every one of them a transition everywhere.

        Args:
            reward: `[n_steps, n_envs]`.
            ended: `[n_steps, n_envs]` bool, whether the episode ended there.
            env_steps: `[n_steps]`, the agent's environment steps after each.
        """
        self._settle()
        total = self._return + np.cumsum(reward, axis=0, dtype=np.float64)
        count = self._length + np.arange(1, len(reward) + 1)[:, None]
        env, time = np.nonzero(ended.T)  # env after env, each in order of time
        first = np.diff(env, prepend=-1) != 0
        last = np.diff(env, append=-1) != 0
        returns, lengths = total[time, env], count[time, env]
        before_return, before_length = np.roll(returns, 1), np.roll(lengths, 1)
        self._return, self._length = total[-1].copy(), count[-1].copy()
        self._return[env[last]] -= returns[last]
        self._length[env[last]] -= lengths[last]
        returns = np.where(first, returns, returns - before_return)
        lengths = np.where(first, lengths, lengths - before_length)
        order = np.argsort(time, kind="stable")
        self._returns += returns[order].tolist()
        self._lengths += lengths[order].tolist()
        self._env_steps += env_steps[time[order]].tolist()
        self._envs += env[order].tolist()

    def history(self, env_steps: int, updates: int) -> History:
        """Returns all that was counted."""
        return History(
            env_steps=env_steps,
            updates=updates,
            episode_return=np.array(self.returns, np.float64),
            episode_length=np.array(self.lengths, np.int64),
            episode_env_step=np.array(self.env_steps, np.int64),
        )
