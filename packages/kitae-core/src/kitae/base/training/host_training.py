"""What the drivers of environments on the host have in common."""

from typing import Any

import numpy as np

from kitae.base.algorithm.acting import Acted
from kitae.base.algorithm.state import TrainingState
from kitae.base.training.functions import CompiledFunctions
from kitae.base.training.host_environments import HostEnvironments
from kitae.types import Info

# What to act on: the observation, what is remembered, and where episodes begin. The
# latter two are None for an agent that remembers nothing.
ActsOn = tuple[Any, Any, Any]


class HostTraining:
    """A training on the host, one step of which is taken at a time.

    Args:
        functions: Of the agent, compiled.
        environments: Of this training.
        training: Where it begins; its arrays are given up.

    Attributes:
        functions: The same.
        algorithm: Of the agent.
        environments: The same; they have the newest counters.
        held: The newest state, but for its counters: see `training`.
        statistics: See `kitae.base.training.driver.Driver`, as `info` and `is_sound`.
    """

    is_sound = True

    def __init__(
        self,
        functions: CompiledFunctions,
        environments: HostEnvironments,
        training: TrainingState,
    ) -> None:
        self.functions = functions
        self.algorithm = functions.algorithm
        self.environments = environments
        self.held = training
        self.statistics = environments.statistics
        self.info: Info | None = None

    @property
    def step(self) -> int:
        """Environment steps so far."""
        return self.environments.counters.step

    @property
    def training(self) -> TrainingState:
        """The newest state."""
        return self.held._replace(counters=self.environments.counters)

    def settle(self) -> None:
        """Adds the rows of the newest step to the memory."""
        self.held = self.functions.settled(self.held)

    def begin(self) -> ActsOn:
        """Resets the environments: no sequence of rows continues across that."""
        self.held = self.functions.restarted(self.held)
        n_rows = self.algorithm.config.env_cfg.n_rows
        remembered = self.algorithm.nothing_remembered(n_rows)
        return self.environments.reset(), *remembered

    def take(self, observation: Any, acted: Acted, actions: np.ndarray) -> ActsOn:
        """Takes one vector step, whose rows are then pending.

        Args:
            observation: What was acted on.
            acted: What was chosen.
            actions: Its `env_actions`, on the host.
        """
        step = self.environments.step(actions)
        rows = self.algorithm.rows(observation, acted, step)
        self.held = self.held._replace(pending=(rows, step.valid))
        hidden_state = acted.next_hidden_state
        return (
            step.observation,
            hidden_state,
            None if hidden_state is None else step.first,
        )
