"""Agents that learn from what they just did, and then forget it."""

from collections.abc import Callable
from typing import Any

import jax

from kitae.base.agents.base import BaseAgent
from kitae.base.agents.interfaces import AlgoType
from kitae.base.algorithm.on_policy import OnPolicySchedule, on_policy_learn
from kitae.buffer import Rollout, rollout_storage
from kitae.config import AlgoConfig
from kitae.config.schedule import held_rows
from kitae.types import Info, State


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

    def check_config(self, config: AlgoConfig) -> None:
        """Refuses a config that can never update, or whose batches do not fit.

        Raises:
            ValueError: It cannot; the fields are named.
        """
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

    def make_schedule(self) -> OnPolicySchedule:
        """Returns when the agent learns."""
        return OnPolicySchedule(self.config)

    def make_storage(self, shares: int = 1) -> Rollout:
        """Returns the rollout; its parts are pure functions.

        Args:
            shares: Devices that the rollout is split over.
        """
        return rollout_storage(
            self.config.update_cfg.max_buffer_size, self.config.env_cfg.n_rows // shares
        )

    def compose_learn(
        self, storage: Any
    ) -> Callable[[State, Any, jax.Array], tuple[State, Any, Info]]:
        """Returns `learn(state, memory, key) -> (state, memory, info)`, pure."""
        update = self.config.update_cfg
        return on_policy_learn(
            storage,
            self.process_experience_fn,
            self.update_step_fn,
            update.n_epochs,
            update.batch_size,
        )

    def restart_memory(self, memory: Any) -> Any:
        """Returns an empty rollout: none continues across this moment."""
        return self.make_storage().clear(memory)
