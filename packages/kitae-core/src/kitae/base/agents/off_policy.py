"""Agents that learn from a replay of what they did."""

from collections.abc import Callable
from typing import Any

import jax

from kitae.base.agents.base import BaseAgent
from kitae.base.agents.interfaces import AlgoType
from kitae.base.algorithm.off_policy import OffPolicySchedule, off_policy_learn
from kitae.buffer import Experience, Replay, uniform_replay
from kitae.config import AlgoConfig
from kitae.config.schedule import held_rows, off_policy_updates
from kitae.types import ExploreFn, Info, State


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

    def check_config(self, config: AlgoConfig) -> None:
        """Refuses a config that can never update.

        Raises:
            ValueError: It cannot; the fields are named.
        """
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

    def make_schedule(self) -> OffPolicySchedule:
        """Returns when the agent learns."""
        return OffPolicySchedule(self.config)

    def make_storage(self, shares: int = 1) -> Replay:
        """Returns the replay; its parts are pure functions.

        Args:
            shares: Devices that the replay is split over.
        """
        return self._replay_factory(
            self.config,
            self.config.env_cfg.n_rows // shares,
            self.config.update_cfg.batch_size // shares,
        )

    def compose_learn(
        self, storage: Any
    ) -> Callable[[State, Any, jax.Array], tuple[State, Any, Info]]:
        """Returns `learn(state, memory, key) -> (state, memory, info)`, pure."""
        return off_policy_learn(
            storage,
            self.process_experience_fn,
            self.update_step_fn,
            self.config.update_cfg.n_epochs,
        )

    def restart_memory(self, memory: Any) -> Any:
        """Returns a memory in which no sequence continues across this moment."""
        return self.make_storage().cut(memory)
