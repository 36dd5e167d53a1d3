"""Learning from whole rollouts: what an update is, and when it is due."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kitae.base.algorithm.schedule import Plan, plan_groups
from kitae.base.algorithm.state import Counters
from kitae.base.algorithm.updates import gradient_updates, processed_by
from kitae.buffer import Rollout
from kitae.config import AlgoConfig
from kitae.config.schedule import held_rows
from kitae.types import Info, ProcessExperienceFn, State, UpdateStepFn


def on_policy_learn(
    rollout: Rollout,
    process_experience: ProcessExperienceFn,
    update_step: UpdateStepFn,
    n_epochs: int,
    batch_size: int,
    whole_sequences: bool = False,
) -> Callable[[State, Any, jax.Array], tuple[State, Any, Info]]:
    """Composes one update: process the rollout, then passes over its shuffled rows.

    Args:
        rollout: The storage.
        process_experience: The user's; its leaves are `[length, n_envs, ...]`, in and
            out; see `processed_by`.
        update_step: The user's; its leaves are `[batch_size, ...]`, or for whole
            sequences `[length, batch_size // length, ...]`. Its info may end the
            update, see `gradient_updates`.
        n_epochs: Passes over the rollout.
        batch_size: Rows in one gradient update; divides the rollout's rows.
        whole_sequences: Whether environments are shuffled, not rows.

    Returns:
        The pure `learn(state, memory, key) -> (state, memory, info)`; the memory
        comes back empty, and `info` is the mean over all gradient updates.
    """

    def learn(state: State, memory: Any, key: jax.Array) -> tuple[State, Any, Info]:
        process_key, epochs_key = jax.random.split(key)
        state, processed = processed_by(
            process_experience, state, process_key, memory.data
        )
        # Of sequences, an environment is what is shuffled.
        rows = processed if whole_sequences else jax.tree.map(_flat, processed)
        length, n_envs = jax.tree.leaves(processed)[0].shape[:2]
        n, size = n_envs * length, batch_size
        if whole_sequences:
            n, size = n_envs, batch_size // length

        def minibatch(
            state: State, order_and_key: tuple[jax.Array, jax.Array]
        ) -> tuple[State, Info]:
            order, key = order_and_key
            batch = jax.tree.map(
                lambda x: x[:, order] if whole_sequences else x[order], rows
            )
            return update_step(state, key, batch)

        def epoch(key: jax.Array) -> tuple[jax.Array, jax.Array]:
            order_key, update_key = jax.random.split(key)
            order = jax.random.permutation(order_key, jnp.arange(n, dtype=jnp.int32))
            return order.reshape(-1, size), jax.random.split(update_key, n // size)

        epochs = jax.vmap(epoch)(jax.random.split(epochs_key, n_epochs))
        epochs = jax.tree.map(_flat, epochs)
        state, info = gradient_updates(minibatch, state, epochs)
        return state, rollout.clear(memory), info

    return learn


def _flat(x: jax.Array) -> jax.Array:
    """Returns `[length, n, ...]` as `[length * n, ...]`."""
    return x.reshape(-1, *x.shape[2:])


class OnPolicySchedule:
    """An update when every environment has given `max_buffer_size` rows.

    Args:
        config: Of the agent.
    """

    overlaps = False

    def __init__(self, config: AlgoConfig) -> None:
        update, (n_rows, _) = config.update_cfg, held_rows(config)
        self._n_envs = config.env_cfg.n_envs
        self._length = update.max_buffer_size
        self._each_time = update.n_epochs * (n_rows // update.batch_size)

    def due(self, counters: Counters) -> bool:
        """Whether the rollout is full; the device need not be asked."""
        return bool(np.all(counters.rows >= self._length))

    def plan(self, counters: Counters, left: int) -> Plan:
        """Plans the rest of a rollout that was begun, then whole ones."""
        held = int(counters.rows[0]) % self._length
        return plan_groups(self._length, held, left, update_at=self._length - 1)

    def after_reset(self, counters: Counters) -> Counters:
        """Begins a rollout: none continues across a reset of all environments."""
        return counters._replace(rows=np.zeros_like(counters.rows))

    def after_step(
        self, counters: Counters, valid: np.ndarray, n_steps: int
    ) -> Counters:
        """Counts a vector step and its rows."""
        step, iteration, updates, rows = counters
        return Counters(step + n_steps, iteration + 1, updates, rows + valid)

    def after_update(self, counters: Counters) -> Counters:
        """Counts the gradient updates of one update, which empties the rollout."""
        return counters._replace(
            updates=counters.updates + self._each_time,
            rows=np.zeros_like(counters.rows),
        )

    def after_iterations(
        self, counters: Counters, n_iterations: int, n_updates: int
    ) -> Counters:
        """Counts iterations, and what they leave in the rollout."""
        return Counters(
            counters.step + n_iterations * self._n_envs,
            counters.iteration + n_iterations,
            counters.updates + n_updates * self._each_time,
            (counters.rows + n_iterations) % self._length,
        )
