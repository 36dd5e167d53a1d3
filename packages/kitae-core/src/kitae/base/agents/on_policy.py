"""Agents that learn from what they just did, and then forget it."""

from collections.abc import Callable
from typing import Any

import jax

from kitae.base.agents.base import BaseAgent
from kitae.base.agents.interfaces import AlgoType
from kitae.base.algorithm.on_policy import OnPolicySchedule, on_policy_learn
from kitae.buffer import Experience, Rollout, rollout_storage
from kitae.config import AlgoConfig
from kitae.config.schedule import held_rows
from kitae.types import ExploreFn, Info, State


class OnPolicyAgent(BaseAgent):
    """Base of agents that learn from whole rollouts.

    A training begins with an empty rollout. Each environment takes `max_buffer_size`
    steps; `process_experience` sees them together as
    `[max_buffer_size, n_envs, ...]`, where `n_envs` counts each agent of each
    environment; `update_step` then sees batches of `batch_size` rows, `n_epochs` times
    over the shuffled rollout. `skip_steps` and `start_step` have no meaning here. See
    `kitae.base.BaseAgent` for the arguments.

    Args:
        whole_sequences: Whether environments are shuffled instead of rows, as a
            recurrent agent needs it. A batch then has the whole rollouts of some
            environments, `[max_buffer_size, batch_size // max_buffer_size, ...]`, and
            `experience.hidden_state[0]` is what the agent remembered at their start.

    Raises:
        ValueError: The config can never update, or its batches do not divide the
            rollout; the fields are named.
    """

    algo_type = AlgoType.ON_POLICY

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
        whole_sequences: bool = False,
    ) -> None:
        self._whole_sequences = whole_sequences
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
        if self._whole_sequences and update.batch_size % update.max_buffer_size:
            raise ValueError(
                f"batch_size = {update.batch_size} must be a multiple of "
                f"max_buffer_size = {update.max_buffer_size}, since whole_sequences "
                "puts the whole rollouts of some environments into a batch"
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
            self._whole_sequences,
        )

    def restart_memory(self, memory: Any) -> Any:
        """Returns an empty rollout: none continues across this moment."""
        return self.make_storage().clear(memory)
