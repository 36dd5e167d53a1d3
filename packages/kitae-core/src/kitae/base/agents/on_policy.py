"""Agents that learn from what they just did, and then forget it."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kitae.base.agents.base import BaseAgent
from kitae.base.agents.interfaces import AlgoType
from kitae.buffer import Rollout, rollout_storage
from kitae.config import AlgoConfig
from kitae.config.schedule import held_rows
from kitae.types import Info, ProcessExperienceFn, State, UpdateStepFn


def on_policy_learn(
    rollout: Rollout,
    process_experience: ProcessExperienceFn,
    update_step: UpdateStepFn,
    n_epochs: int,
    batch_size: int,
) -> Callable[[State, Any, jax.Array], tuple[State, Any, Info]]:
    """Composes one update: process the rollout, then passes over its shuffled rows.

    Args:
        rollout: The storage.
        process_experience: The user's; its leaves are `[length, n_envs, ...]`, in and
            out.
        update_step: The user's; its leaves are `[batch_size, ...]`.
        n_epochs: Passes over the rollout.
        batch_size: Rows in one gradient update; divides the rollout's rows.

    Returns:
        The pure `learn(state, memory, key) -> (state, memory, info)`; the memory
        comes back empty, and `info` is the mean over all gradient updates.
    """

    def learn(state: State, memory: Any, key: jax.Array) -> tuple[State, Any, Info]:
        process_key, epochs_key = jax.random.split(key)
        processed = process_experience(state, process_key, memory.data)
        rows = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), processed)
        n_rows = jax.tree.leaves(rows)[0].shape[0]

        def minibatch(
            state: State, order_and_key: tuple[jax.Array, jax.Array]
        ) -> tuple[State, Info]:
            order, key = order_and_key
            batch = jax.tree.map(lambda x: x[order], rows)
            return update_step(state, key, batch)

        def epoch(state: State, key: jax.Array) -> tuple[State, Info]:
            order_key, update_key = jax.random.split(key)
            every_row = jnp.arange(n_rows, dtype=jnp.int32)
            order = jax.random.permutation(order_key, every_row)
            order = order.reshape(-1, batch_size)
            keys = jax.random.split(update_key, order.shape[0])
            return jax.lax.scan(minibatch, state, (order, keys))

        keys = jax.random.split(epochs_key, n_epochs)
        state, infos = jax.lax.scan(epoch, state, keys)
        return state, rollout.clear(memory), jax.tree.map(jnp.mean, infos)

    return learn


class OnPolicyAgent(BaseAgent):
    """Base of agents that learn from whole rollouts.

    A training begins with an empty rollout. Each environment takes `max_buffer_size`
    steps; `process_experience` sees them together as
    `[max_buffer_size, n_envs, ...]`, where `n_envs` counts each agent of each
    environment; `update_step` then sees batches of `batch_size` rows, `n_epochs` times
    over the shuffled rollout. `skip_steps` and `start_step` have no meaning here. See
    `kitae.base.BaseAgent` for the arguments.

    Raises:
        ValueError: The config can never update, or its batches do not divide the
            rollout; the fields are named.
    """

    algo_type = AlgoType.ON_POLICY
    learns_while_env_steps = False

    def _check_config(self, config: AlgoConfig) -> None:
        update, (rows, counted) = config.update_cfg, held_rows(config)
        if rows % update.batch_size:
            raise ValueError(
                f"batch_size = {update.batch_size} must divide the rollout of "
                f"{counted} transitions"
            )
        steps = update.max_buffer_size * config.env_cfg.n_envs
        if steps > config.train_cfg.n_env_steps:
            raise ValueError(
                f"n_env_steps = {config.train_cfg.n_env_steps} ends before the first "
                f"rollout of max_buffer_size * n_envs = {steps} environment steps is "
                "full"
            )
        if config.skip_steps != 1 or config.start_step != -1:
            raise ValueError(
                "skip_steps and start_step have no meaning for an on-policy agent, "
                f"got {config.skip_steps} and {config.start_step}; leave them at 1 "
                "and -1"
            )

    def _storage(self, shares: int = 1) -> Rollout:
        return rollout_storage(
            self.config.update_cfg.max_buffer_size, self.config.env_cfg.n_rows // shares
        )

    def _compose_learn(
        self, storage: Rollout
    ) -> Callable[..., tuple[State, Any, Info]]:
        update = self.config.update_cfg
        return on_policy_learn(
            storage,
            self.process_experience_fn,
            self.update_step_fn,
            update.n_epochs,
            update.batch_size,
        )

    def _begin(self) -> None:
        super()._begin()
        # The environments start anew: a rollout must not run on across that.
        self.memory, self._pending = self._storage().clear(self.memory), None
        self.rows[:] = 0

    def _update_due(self) -> bool:
        # The host knows which rows it added: the device need not be asked.
        return bool(np.all(self.rows >= self.config.update_cfg.max_buffer_size))

    def _next_iterations(
        self, step: int, iteration: int, left: int
    ) -> tuple[int, int, bool]:
        length = self.config.update_cfg.max_buffer_size
        # A training that is resumed may go on within a rollout.
        held = (int(self.rows[0]) + iteration - self.iteration) % length
        if left < length - held:
            return 1, left, False
        return (length - held, 1, True) if held else (length, left // length, True)

    def _taken(self, valid: np.ndarray, n_steps: int) -> None:
        super()._taken(valid, n_steps)
        self.rows = self.rows + valid

    def _passed(self, iterations: int, updates: int) -> None:
        super()._passed(iterations, updates)
        self.rows = (self.rows + iterations) % self.config.update_cfg.max_buffer_size

    def _updates_each_time(self) -> int:
        update, (rows, _) = self.config.update_cfg, held_rows(self.config)
        return update.n_epochs * (rows // update.batch_size)
