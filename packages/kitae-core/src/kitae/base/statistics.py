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


class EpisodeStatistics:
    """Counts while the environments step.

    Args:
        n_envs: Parallel environments.
    """

    def __init__(self, n_envs: int) -> None:
        self.returns: list[float] = []
        self.lengths: list[int] = []
        self.env_steps: list[int] = []
        self.envs: list[int] = []
        self._return = np.zeros(n_envs)
        self._length = np.zeros(n_envs, np.int64)

    def __len__(self) -> int:
        """Episodes that ended so far."""
        return len(self.returns)

    @property
    def unfinished(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns and lengths so far of the episodes that have not ended."""
        return self._return, self._length

    @unfinished.setter
    def unfinished(self, values: tuple[np.ndarray, np.ndarray]) -> None:
        self._return, self._length = (np.array(value) for value in values)

    def record(self, step: HostStep, env_steps: int) -> None:
        """Takes in one vector step.

        Args:
            step: What the environments gave.
            env_steps: The agent's environment steps, this one's included.
        """
        self._return += step.reward * step.valid
        self._length += step.valid
        ended = (step.terminated | step.truncated) & step.valid
        if not ended.any():
            return
        for env in np.flatnonzero(ended):
            self.returns.append(float(self._return[env]))
            self.lengths.append(int(self._length[env]))
            self.env_steps.append(env_steps)
            self.envs.append(int(env))
        self._return[ended] = 0.0
        self._length[ended] = 0

    def record_many(
        self, reward: np.ndarray, ended: np.ndarray, env_steps: np.ndarray
    ) -> None:
        """Takes in many vector steps, every one of them a transition everywhere.

        Args:
            reward: `[n_steps, n_envs]`.
            ended: `[n_steps, n_envs]` bool, whether the episode ended there.
            env_steps: `[n_steps]`, the agent's environment steps after each.
        """
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
        self.returns += returns[order].tolist()
        self.lengths += lengths[order].tolist()
        self.env_steps += env_steps[time[order]].tolist()
        self.envs += env[order].tolist()

    def history(self, env_steps: int, updates: int) -> History:
        """Returns all that was counted."""
        return History(
            env_steps=env_steps,
            updates=updates,
            episode_return=np.array(self.returns, np.float64),
            episode_length=np.array(self.lengths, np.int64),
            episode_env_step=np.array(self.env_steps, np.int64),
        )
