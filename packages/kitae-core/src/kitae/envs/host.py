"""One way to step any Gymnasium vector environment, whatever its autoreset mode."""

import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import gymnasium as gym
import jax
import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv

from kitae.config import check_number
from kitae.envs.checks import (
    check_fixed_size,
    checked_actions,
    checked_flags,
    checked_reset,
    checked_reward,
    checked_step,
    env_actions,
)
from kitae.envs.guards import guard_of
from kitae.envs.observations import ObservationCheck


class HostStep(NamedTuple):
    """What one vector step gave; every array `[n_envs, ...]`, on the host.

    Where there are several agents in an environment, one agent's rows follow another's:
    `[n_agents * n_envs, ...]`.

    Attributes:
        observation: What to act on next.
        next_observation: The true successor of the step, at an episode's end the
            final observation.
        reward: float32.
        terminated: bool, the episode ended here.
        truncated: bool, the episode was cut off here (and did not end).
        valid: bool, the step was a transition; false where the environment spent it
            on a reset, and for an agent that was not there. Until it is there again
            such an agent is marked as ended.
    """

    observation: Any
    next_observation: Any
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    valid: np.ndarray

    @property
    def first(self) -> np.ndarray:
        """Bool `[n_envs]`: where an episode begins with `observation`."""
        # Where the next step is spent on a reset, the one after it begins the episode.
        return self.terminated | self.truncated | ~self.valid

    def of_envs(self, n_agents: int) -> "HostStep":
        """Returns what the step was of whole environments; every array `[n_envs]`.

        An episode ends when no agent is left; it was truncated if one of the last was.

        Args:
            n_agents: Agents in each environment. The reward of several is their mean,
                to which one that was not there adds 0; and there are no observations.
        """
        if n_agents == 1:
            return self

        def by_agent(rows: np.ndarray) -> Any:
            return rows.reshape(n_agents, -1)

        ended = by_agent(self.terminated | self.truncated).all(axis=0)
        terminated = by_agent(self.terminated).all(axis=0)
        return HostStep(
            observation=None,
            next_observation=None,
            reward=by_agent(self.reward * self.valid).mean(axis=0, dtype=np.float64),
            terminated=terminated,
            truncated=ended & ~terminated,
            valid=by_agent(self.valid).any(axis=0),
        )


def _autoreset_mode(env: VectorEnv) -> AutoresetMode:
    declared = env.metadata.get("autoreset_mode")
    try:
        return AutoresetMode(declared)
    except ValueError:
        modes = ", ".join(f"AutoresetMode.{mode.name}" for mode in AutoresetMode)
        raise ValueError(
            f"{type(env.unwrapped).__name__}.metadata['autoreset_mode'] must say what "
            f"a step after an episode's end does, one of {modes}; got {declared!r}"
        ) from None


class HostEnv:
    """A vector environment behind one face.

    It settles what differs between environments: when they reset, where they put the
    final observation, from which number their actions count; and it refuses what
    does not fit the spaces, before it reaches an agent: see
    `kitae.envs.observations.ObservationCheck`. Observations are copied, so an
    environment may use its own arrays again; the members of a `SyncVectorEnv` may too.

    An environment that raises is named: see `kitae.envs.guards`. If it has a process
    and does not answer, that is an error within `worker_timeout`; the processes are
    then ended, and the vector is closed.

    Args:
        env: The environment; whoever passes it closes it.
        worker_timeout: Seconds to wait for an answer of an environment that has a
            process of its own, above 0.

    Raises:
        ValueError: The environment does not say how it resets, its observations are
            no arrays of one shape, or `worker_timeout` is out of range.

    Warns:
        RuntimeWarning: The processes were forked, and may wait for ever for a lock
            that a thread of JAX held just then.
    """

    def __init__(self, env: VectorEnv, worker_timeout: float = 120.0) -> None:
        check_number("worker_timeout", worker_timeout, 0.0, open_low=True)
        self.env = env
        self.n_envs = env.num_envs
        self._mode = _autoreset_mode(env)
        check_fixed_size(env.single_observation_space, "observation")
        self._name = type(env.unwrapped).__name__
        self._check = ObservationCheck(env.single_observation_space)
        self._guard = guard_of(env, worker_timeout)
        self._ended = np.zeros(self.n_envs, bool)
        self._steps = 0

    def reset(self, seed: np.random.SeedSequence) -> Any:
        """Starts every environment anew, each with a seed of its own.

        Args:
            seed: From which the environments' seeds are drawn.

        Returns:
            The observations to act on.

        Raises:
            ValueError: An observation is not what the space allows, or not finite.
            RuntimeError: An environment's process died, or does not answer in time.
        """
        self._ended = np.zeros(self.n_envs, bool)
        self._steps = 0
        with self._guard("at the reset"):
            result = self.env.reset(seed=self._seeds(seed))
        return self._observation(checked_reset(result, self._name)[0])

    def step(self, actions: np.ndarray) -> HostStep:
        """Takes one step in each environment.

        Args:
            actions: `[n_envs, ...]`; for a discrete space indices from 0.

        Raises:
            ValueError: An action, an observation, a reward or a flag is not what the
                spaces and Gymnasium allow; environment and step are named.
            RuntimeError: An environment's process died, or does not answer in time; or
                an environment raised SystemExit.
        """
        where = f"at vector step {self._steps}"
        space = self.env.single_action_space
        actions = checked_actions(actions, space, self.n_envs, where)
        with self._guard(where):
            result = self.env.step(env_actions(actions, space))
        raw, reward, terminated, truncated, infos = checked_step(result, self._name)
        self._steps += 1
        observation = self._observation(raw)
        reward = checked_reward(reward, self.n_envs, where)
        terminated = checked_flags(terminated, self.n_envs, "terminated", where)
        truncated = checked_flags(truncated, self.n_envs, "truncated", where)
        truncated &= ~terminated
        ended = terminated | truncated
        next_observation = observation
        if self._mode is AutoresetMode.NEXT_STEP:
            valid = ~self._ended
        else:
            valid = np.ones(self.n_envs, bool)
            if ended.any():
                observation, next_observation = self._begun(
                    raw, observation, infos, ended, where
                )
        self._ended = ended
        return HostStep(
            observation, next_observation, reward, terminated, truncated, valid
        )

    def _observation(self, raw: Any) -> Any:
        return self._check(raw, self.n_envs, self._steps)

    def _begun(
        self, raw: Any, observation: Any, infos: Any, ended: np.ndarray, where: str
    ) -> tuple[Any, Any]:
        """Returns what to act on and the successors, where episodes begin at once."""
        if self._mode is AutoresetMode.SAME_STEP:
            return observation, self._with_final(raw, observation, infos, ended)
        with self._guard(where):
            result = self.env.reset(options={"reset_mask": ended.copy()})
        return self._observation(checked_reset(result, self._name)[0]), observation

    def _with_final(
        self, raw: Any, observation: Any, infos: Any, ended: np.ndarray
    ) -> Any:
        infos = infos if isinstance(infos, Mapping) else {}
        final, has_final = infos.get("final_obs"), infos.get("_final_obs")
        if final is None or has_final is None or not has_final[ended].all():
            raise ValueError(
                f"{self._name} resets in the step that ends an episode, but "
                "infos['final_obs'] does not hold the final observation"
            )
        envs, space = np.flatnonzero(ended), self.env.single_observation_space
        rows = [final[env] for env in envs]
        if _share_memory(rows, raw):
            raise ValueError(
                f"{self._name} resets in the step that ends an episode, but "
                "infos['final_obs'] is the array of the observations, in which the "
                "reset's are by now: copy final observations before the reset"
            )
        stacked = self._check(stack(rows, space), len(envs), self._steps, envs=envs)
        if not self._guard.copies_final:
            self._warn_if_reset(stacked, jax.tree.map(lambda x: x[envs], observation))

        def replace(column: np.ndarray, rows: np.ndarray) -> np.ndarray:
            column = column.copy()
            column[envs] = rows
            return column

        return jax.tree.map(replace, observation, stacked)

    def _warn_if_reset(self, final: Any, following: Any) -> None:
        """Warns, once, if final observations are just those after the reset."""
        pairs = zip(jax.tree.leaves(final), jax.tree.leaves(following), strict=True)
        if all(np.array_equal(one, other) for one, other in pairs):
            self._guard.copies_final = True
            warnings.warn(
                f"{self._name} gives final observations that equal those after the "
                "reset. If its environments change one array in place, they are lost: "
                "Gymnasium's workers send them after the reset. Make the vector by "
                'make_vec_env(..., vectorization_mode="async")',
                RuntimeWarning,
                stacklevel=5,
            )

    def _seeds(self, seed: np.random.SeedSequence) -> Any:
        seeds = [int(word) for word in seed.generate_state(self.n_envs)]
        if isinstance(self.env.unwrapped, SyncVectorEnv | AsyncVectorEnv):
            return seeds
        # An environment with one generator for all of its members takes one number.
        return seeds[0]


def _share_memory(one: Any, other: Any) -> bool:
    """Whether arrays of two pytrees lie in the same memory."""
    return any(
        np.may_share_memory(a, b)
        for a in jax.tree.leaves(one)
        for b in jax.tree.leaves(other)
        if isinstance(a, np.ndarray) and isinstance(b, np.ndarray)
    )


def stack(rows: list[Any], space: gym.Space) -> Any:
    """Puts elements of a space together, as vectors of environments do."""
    empty = gym.vector.utils.create_empty_array(space, n=len(rows))
    return gym.vector.utils.concatenate(space, rows, empty)
