"""What an agent is to a driver: pure functions, made once."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from kitae.base.algorithm.acting import Acted, ActFn
from kitae.base.algorithm.experience import rows_of
from kitae.base.algorithm.schedule import Schedule
from kitae.base.common.pytrees import same_leaves
from kitae.config import AlgoConfig
from kitae.envs import HostStep
from kitae.types import Info, State

LearnFn = Callable[[State, Any, jax.Array, Any], tuple[State, Any, Info]]


@dataclass(frozen=True)
class Algorithm:
    """An agent as pure functions. It holds no arrays; all seeds of an agent share it.

    Attributes:
        name: Of the agent's class, for messages.
        config: Of the agent. Nothing here depends on its seed.
        experience_type: What is stored of a step: a NamedTuple class.
        explore: Acts in training.
        select_action: Acts as well as the agent can.
        make_storage: `(shares) -> storage`, the pure functions of the memory, `init`
            and `add` among them; `shares` counts the devices that share the memory.
        compose_learn: `(storage) -> learn(state, memory, key)`, which returns
            `(state, memory, info)`.
        restart: `(memory) -> memory`, where all environments are reset.
        schedule: When it learns.
        initial_hidden_state: `(n_rows) -> hidden_state`; None: nothing is remembered.
    """

    name: str
    config: AlgoConfig
    experience_type: Any
    explore: ActFn
    select_action: ActFn
    make_storage: Callable[[int], Any]
    compose_learn: Callable[[Any], Callable[..., tuple[State, Any, Info]]]
    restart: Callable[[Any], Any]
    schedule: Schedule
    initial_hidden_state: Callable[[int], Any]

    def make_learn(self, storage: Any) -> LearnFn:
        """Returns `learn(state, memory, key_data, iteration)`, pure.

        Args:
            storage: See `make_storage`.
        """
        learn = self.compose_learn(storage)

        def checked(
            state: State, memory: Any, key_data: jax.Array, iteration: Any
        ) -> tuple[State, Any, Info]:
            # A user's functions may assign to the state they are given: keep another.
            before = jax.tree.map(lambda leaf: leaf, state)
            key = jax.random.fold_in(jax.random.wrap_key_data(key_data), iteration)
            state, memory, info = learn(state, memory, key)
            return same_leaves(state, before, "update_step"), memory, info

        return checked

    def nothing_remembered(self, n_rows: int) -> tuple[Any, Any]:
        """Returns the hidden state at the start, and that an episode begins everywhere.

        Both are None for an agent that remembers nothing.
        """
        hidden_state = self.initial_hidden_state(n_rows)
        return hidden_state, None if hidden_state is None else np.ones(n_rows, bool)

    def rows(self, observation: Any, acted: Acted, step: Any) -> Any:
        """Builds the rows to store of a vector step, an `EnvStep` or a `HostStep`."""
        return rows_of(self.experience_type, observation, acted, step)

    def empty_rows(self, observation: Any, acted: Any) -> tuple[Any, np.ndarray]:
        """Returns rows of zeros, and that none of them counts.

        Args:
            observation: `[n_rows, ...]`, any.
            acted: What acting on it gives, or the shapes of that.
        """
        n_rows = self.config.env_cfg.n_rows
        flags, floats = np.zeros(n_rows, bool), np.zeros(n_rows, np.float32)
        step = HostStep(observation, observation, floats, flags, flags, ~flags)
        rows = self.rows(observation, acted, step)
        zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), rows)
        return zeros, flags
