"""The reference driver: one vector step after the other."""

from collections.abc import Callable
from typing import Any

import numpy as np

from kitae.base.algorithm.acting import Acted
from kitae.base.algorithm.state import TrainingState
from kitae.base.training.driver import Advance
from kitae.base.training.functions import CompiledFunctions, act_arguments
from kitae.base.training.host_environments import HostEnvironments
from kitae.types import Info

# Some hundred microseconds.
MAX_LOOKS = 1_000


class StepByStep:
    """Takes vector steps one by one. All other drivers give what this one gives.

    Off-policy, a step acts, sends off an update from all the rows so far, and steps the
    environments while the device learns. Only the actions are read back at every step.
    On-policy, the update comes before the action that its policy should choose.

    Args:
        functions: Of the agent, compiled.
        environments: Of this training.
        training: Where it begins; its arrays are given up.
    """

    is_sound = True

    def __init__(
        self,
        functions: CompiledFunctions,
        environments: HostEnvironments,
        training: TrainingState,
    ) -> None:
        self._functions = functions
        self._algorithm = functions.algorithm
        self._environments = environments
        self._training = training
        self._acts_on: tuple[Any, Any, Any]
        self.statistics = environments.statistics
        self.info: Info | None = None
        self.reset()

    @property
    def step(self) -> int:
        """Environment steps so far."""
        return self._environments.counters.step

    @property
    def training(self) -> TrainingState:
        """The newest state."""
        return self._training._replace(counters=self._environments.counters)

    def advance(self, until: int, interrupted: Callable[[], bool]) -> Advance:
        """Takes one vector step."""
        environments, before = self._environments, self.step
        observation, due = self._acts_on[0], environments.update_due
        overlaps = self._algorithm.schedule.overlaps
        if due and not overlaps:
            self._learn()
        acted = self._act(add=not due)
        actions = read_soon(acted.actions)
        if due and overlaps:
            self._learn()
        elif not due:
            self.settle()
        step = environments.step(actions)
        rows = self._algorithm.rows(observation, acted, step)
        self._training = self._training._replace(pending=(rows, step.valid))
        hidden_state = acted.next_hidden_state
        first = None if hidden_state is None else step.first
        self._acts_on = step.observation, hidden_state, first
        return Advance(before, {})

    def settle(self) -> None:
        """Adds the rows of the newest step to the memory."""
        self._training = self._functions.settled(self._training)

    def reset(self) -> None:
        """Resets the environments: no sequence of rows continues across that."""
        self._training = self._functions.restarted(self._training)
        n_rows = self._algorithm.config.env_cfg.n_rows
        remembered = self._algorithm.nothing_remembered(n_rows)
        self._acts_on = self._environments.reset(), *remembered

    def finish(self) -> None:
        """Learns from the last rollout, which may be full by now."""
        if not self._algorithm.schedule.overlaps and self._environments.update_due:
            self._learn()

    def _act(self, *, add: bool) -> Acted:
        """Acts; adds the rows of the last step in the same program where that is asked.

        Rows that an update takes first are added by the update.
        """
        functions, training = self._functions, self.training
        names = training.names
        args = act_arguments(training, *self._acts_on)
        if not add or training.pending is None or not functions.act.traceable:
            return functions.act(*args, names=names)
        added = training.memory, *training.pending
        memory, acted = functions.act.and_add(added, *args, names=names)
        self._training = self._training._replace(memory=memory, pending=None)
        return acted

    def _learn(self) -> None:
        """Adds the rows of the last step and learns, in one program.

        It is sent off before the environments step: what the host does next, it does
        while the device works.
        """
        training = self.training
        state, memory, self.info = self._functions.learn(
            training.keys.learn,
            training.counters.iteration % 2**32,
            training.state,
            training.memory,
            *(training.pending or self._functions.empty_rows(training)),
        )
        self._training = training._replace(state=state, memory=memory, pending=None)
        self._environments.learned()


def read_soon(array: Any) -> np.ndarray:
    """Reads an array that is about to be there, and stays awake for it a little while.

    To fall asleep and be woken takes longer than a small network takes to act.
    """
    is_ready = getattr(array, "is_ready", None)  # numpy's always are
    looks = 0
    while is_ready is not None and not is_ready() and looks < MAX_LOOKS:
        looks += 1
    return np.asarray(array)
