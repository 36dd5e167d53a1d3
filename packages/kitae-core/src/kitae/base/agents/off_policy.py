"""Agents that learn from a replay of what they did."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kitae.base.agents.base import BaseAgent
from kitae.base.agents.interfaces import AlgoType
from kitae.buffer import Experience, Replay, uniform_replay
from kitae.config import AlgoConfig
from kitae.config.schedule import (
    held_rows,
    off_policy_due,
    off_policy_updates,
    warm_up,
)
from kitae.types import ExploreFn, Info, ProcessExperienceFn, State, UpdateStepFn

PRIORITIES = "priorities"


def off_policy_learn(
    storage: Replay,
    process_experience: ProcessExperienceFn,
    update_step: UpdateStepFn,
    n_epochs: int,
) -> Callable[[State, Any, jax.Array], tuple[State, Any, Info]]:
    """Composes one update: `n_epochs` times sample, process, step.

    Args:
        storage: The replay. If it has priorities, `update_step` gives the sampled rows
            new ones as `info["priorities"]`, `[batch_size]`.
        process_experience: The user's.
        update_step: The user's.
        n_epochs: Gradient updates, each on a fresh batch.

    Returns:
        The pure `learn(state, memory, key) -> (state, memory, info)`; `info` is
        the mean over the epochs.
    """

    def epoch(carry: tuple[State, Any], keys: jax.Array) -> tuple[Any, Info]:
        state, memory = carry
        sample_key, process_key, update_key = keys
        experience = storage.sample(memory, sample_key)
        processed = process_experience(state, process_key, experience)
        state, info = update_step(state, update_key, processed)
        if storage.update_priorities is None:
            return (state, memory), info
        if PRIORITIES not in info:
            raise ValueError(
                "with a prioritised replay, update_step must return "
                f"info[{PRIORITIES!r}], got info with {sorted(info)}"
            )
        priorities = info[PRIORITIES]
        memory = storage.update_priorities(memory, experience.index, priorities)
        told = {name: value for name, value in info.items() if name != PRIORITIES}
        return (state, memory), told

    def learn(state: State, memory: Any, key: jax.Array) -> tuple[State, Any, Info]:
        # One split for all: each call of the generator costs more than a sample.
        epochs = jax.random.split(key, (n_epochs, 3))
        if n_epochs == 1:
            (state, memory), info = epoch((state, memory), epochs[0])
        else:
            (state, memory), infos = jax.lax.scan(epoch, (state, memory), epochs)
            info = jax.tree.map(jnp.mean, infos)
        return state, memory, info

    return learn


def uniform_replay_factory(config: AlgoConfig, n_envs: int, batch_size: int) -> Replay:
    """Makes the replay that draws transitions uniformly, the plainest one."""
    return uniform_replay(config.update_cfg.max_buffer_size, n_envs, batch_size)


class OffPolicyAgent(BaseAgent):
    """Base of agents that learn from a replay.

    Before a vector step, if `batch_size` transitions are held, `start_step` were
    taken, and `skip_steps` vector steps went by, the agent makes `n_epochs` gradient
    updates on fresh batches, while the environments step. A subclass overrides
    `explore` and `select_action`; see `kitae.base.BaseAgent` for the arguments.

    Args:
        replay_factory: `(config, n_envs, batch_size) -> kitae.buffer.Replay`, where
            `n_envs` counts each agent of each environment. What its `sample` returns is
            what `process_experience` is given. With a prioritised replay, `update_step`
            returns the priorities of the batch as `info["priorities"]`,
            `[batch_size]`. Default: a uniform replay of `max_buffer_size` time steps,
            whose sample is a batch of `experience_type`.

    Raises:
        ValueError: The config can never update; the fields are named.
    """

    algo_type = AlgoType.OFF_POLICY
    learns_while_env_steps = True

    def __init__(
        self,
        run_name: str,
        config: AlgoConfig,
        train_state_factory: Callable[..., State],
        explore_factory: Callable[[AlgoConfig], ExploreFn],
        process_experience_factory: Callable[[AlgoConfig], Callable],
        update_step_factory: Callable[[AlgoConfig], Callable],
        *,
        preprocess_fn: Callable | None = None,
        tabulate: bool = False,
        experience_type: type = Experience,
        replay_factory: Callable[
            [AlgoConfig, int, int], Replay
        ] = uniform_replay_factory,
    ) -> None:
        self._replay_factory = replay_factory
        super().__init__(
            run_name,
            config,
            train_state_factory,
            explore_factory,
            process_experience_factory,
            update_step_factory,
            preprocess_fn=preprocess_fn,
            tabulate=tabulate,
            experience_type=experience_type,
        )

    def _check_config(self, config: AlgoConfig) -> None:
        update, (capacity, counted) = config.update_cfg, held_rows(config)
        if update.batch_size > capacity:
            raise ValueError(
                f"batch_size = {update.batch_size} can never be filled: the replay "
                f"holds {counted} transitions"
            )
        if off_policy_updates(config) == 0:
            raise ValueError(
                f"n_env_steps = {config.train_cfg.n_env_steps} ends before the first "
                f"update, which waits for start_step = {config.start_step} environment "
                f"steps and batch_size = {update.batch_size} transitions, and then "
                f"falls on a multiple of skip_steps = {config.skip_steps} vector steps "
                f"of n_envs = {config.env_cfg.n_envs}"
            )

    def _storage(self, shares: int = 1) -> Replay:
        return self._replay_factory(
            self.config,
            self.config.env_cfg.n_rows // shares,
            self.config.update_cfg.batch_size // shares,
        )

    def _begin(self) -> None:
        super()._begin()
        # The environments start anew: no sequence of rows runs on across that.
        self._take_in(update=False)
        self.memory = self._storage().cut(self.memory)

    def _compose_learn(self, storage: Any) -> Callable[..., tuple[State, Any, Info]]:
        return off_policy_learn(
            storage,
            self.process_experience_fn,
            self.update_step_fn,
            self.config.update_cfg.n_epochs,
        )

    def _taken(self, valid: np.ndarray, n_steps: int) -> None:
        super()._taken(valid, n_steps)
        if self.config.env_cfg.n_agents > 1:
            self.rows = self.rows + valid

    def _update_due(self) -> bool:
        due = off_policy_due(self.config, self.iteration, self.step)
        if self.config.env_cfg.n_agents == 1 or self.updates:
            return due
        # In a step that was counted, agents that had left took no part.
        return due and int(self.rows.sum()) >= self.config.update_cfg.batch_size

    def _next_iterations(
        self, step: int, iteration: int, left: int
    ) -> tuple[int, int, bool]:
        n_envs, skip = self.config.env_cfg.n_envs, self.config.skip_steps
        wait = max(0, -(-(warm_up(self.config) - step) // n_envs))
        wait += -(iteration + wait) % skip
        if wait:
            return 1, min(wait, left), False
        return min(skip, left), max(1, left // skip), True

    def _updates_each_time(self) -> int:
        return self.config.update_cfg.n_epochs
