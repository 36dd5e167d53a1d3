"""Learning from a replay: what an update is, and when it is due."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from kitae.base.algorithm.schedule import Plan, plan_groups
from kitae.base.algorithm.state import Counters
from kitae.base.algorithm.updates import gradient_updates, processed_by
from kitae.buffer import Replay
from kitae.config import AlgoConfig
from kitae.config.schedule import warm_up
from kitae.types import Info, ProcessExperienceFn, State, UpdateStepFn

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
        process_experience: The user's; see `processed_by`.
        update_step: The user's; its info may end the update, see `gradient_updates`.
        n_epochs: Gradient updates, each on a fresh batch.

    Returns:
        The pure `learn(state, memory, key) -> (state, memory, info)`; `info` is
        the mean over the epochs.
    """

    def epoch(carry: tuple[State, Any], keys: jax.Array) -> tuple[Any, Info]:
        state, memory = carry
        sample_key, process_key, update_key = keys
        experience = storage.sample(memory, sample_key)
        state, processed = processed_by(
            process_experience, state, process_key, experience
        )
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
        metrics = {name: value for name, value in info.items() if name != PRIORITIES}
        return (state, memory), metrics

    def learn(state: State, memory: Any, key: jax.Array) -> tuple[State, Any, Info]:
        # One split for all: each call of the generator costs more than a sample.
        epochs = jax.random.split(key, (n_epochs, 3))
        (state, memory), info = gradient_updates(epoch, (state, memory), epochs)
        return state, memory, info

    return learn


class OffPolicySchedule:
    """An update every `skip_steps` vector steps, once the warm-up is over.

    Of several agents, those that have left take no part in a step that is counted: the
    first update also waits until a batch of rows is there.

    Args:
        config: Of the agent.
    """

    overlaps = True

    def __init__(self, config: AlgoConfig) -> None:
        self._n_envs = config.env_cfg.n_envs
        self._several = config.env_cfg.n_agents > 1
        self._batch_size = config.update_cfg.batch_size
        self._n_epochs = config.update_cfg.n_epochs
        self._skip = config.skip_steps
        self._warm_up = warm_up(config)

    def due(self, counters: Counters) -> bool:
        """Whether to learn before the next vector step."""
        if counters.step < self._warm_up or counters.iteration % self._skip:
            return False
        if not self._several or counters.updates:
            return True
        return int(counters.rows.sum()) >= self._batch_size

    def plan(self, counters: Counters, left: int) -> Plan:
        """Plans the warm-up, then groups of `skip_steps` that begin with an update."""
        done = counters.iteration % self._skip
        if counters.step - done * self._n_envs >= self._warm_up:
            return plan_groups(self._skip, done, left, update_at=0)
        wait = max(0, -(-(self._warm_up - counters.step) // self._n_envs))
        wait += -(counters.iteration + wait) % self._skip
        return Plan(1, min(wait, left), False, 0, 0, 0)

    def after_reset(self, counters: Counters) -> Counters:
        """Returns the counters as they are."""
        return counters

    def after_step(
        self, counters: Counters, valid: np.ndarray, n_steps: int
    ) -> Counters:
        """Counts a vector step, and the rows of several agents."""
        step, iteration, updates, rows = counters
        rows = rows + valid if self._several else rows
        return Counters(step + n_steps, iteration + 1, updates, rows)

    def after_update(self, counters: Counters) -> Counters:
        """Counts the gradient updates of one update."""
        step, iteration, updates, rows = counters
        rows = np.zeros_like(rows) if self._several else rows
        return Counters(step, iteration, updates + self._n_epochs, rows)

    def after_iterations(
        self, counters: Counters, n_iterations: int, n_updates: int
    ) -> Counters:
        """Counts iterations of one agent in each environment."""
        return counters._replace(
            step=counters.step + n_iterations * self._n_envs,
            iteration=counters.iteration + n_iterations,
            updates=counters.updates + n_updates * self._n_epochs,
        )
