"""The reference driver: one vector step after the other."""

from collections.abc import Callable
from typing import Any

import numpy as np

from kitae.base.algorithm.acting import Acted
from kitae.base.algorithm.state import TrainingState
from kitae.base.training.driver import Advance
from kitae.base.training.functions import CompiledFunctions, act_arguments
from kitae.base.training.host_environments import HostEnvironments
from kitae.base.training.host_training import ActsOn, HostTraining

# Some hundred microseconds.
MAX_LOOKS = 1_000


class StepByStep(HostTraining):
    """Takes vector steps one by one. All other drivers give what this one gives.

    Off-policy, a step acts, sends off an update from all the rows so far, and steps the
    environments while the device learns. Only the actions are read back at every step.
    On-policy, the update comes before the action that its policy should choose.

    Args:
        functions: Of the agent, compiled.
        environments: Of this training.
        training: Where it begins; its arrays are given up.
    """

    def __init__(
        self,
        functions: CompiledFunctions,
        environments: HostEnvironments,
        training: TrainingState,
    ) -> None:
        super().__init__(functions, environments, training)
        self._acts_on: ActsOn
        self.reset()

    def advance(self, until: int, interrupted: Callable[[], bool]) -> Advance:
        """Takes one vector step."""
        before, observation = self.step, self._acts_on[0]
        due = self.environments.update_due
        overlaps = self.algorithm.schedule.overlaps
        if due and not overlaps:
            self._learn()
        acted = self._act(add=not due)
        actions = read_soon(acted.env_actions)
        if due and overlaps:
            self._learn()
        elif not due:
            self.settle()
        self._acts_on = self.take(observation, acted, actions)
        return Advance(before, {})

    def reset(self) -> None:
        """Resets the environments."""
        self._acts_on = self.begin()

    def finish(self) -> None:
        """Learns from the last rollout, which may be full by now."""
        if not self.algorithm.schedule.overlaps and self.environments.update_due:
            self._learn()

    def _act(self, *, add: bool) -> Acted:
        """Acts; adds the rows of the last step in the same program where that is asked.

        Rows that an update takes first are added by the update.
        """
        functions, training = self.functions, self.training
        names = training.names
        args = act_arguments(training, *self._acts_on)
        if not add or training.pending is None or not functions.act.traceable:
            return functions.act(*args, names=names)
        added = training.memory, *training.pending
        memory, acted = functions.act.and_add(added, *args, names=names)
        self.held = self.held._replace(memory=memory, pending=None)
        return acted

    def _learn(self) -> None:
        """Adds the rows of the last step and learns, in one program.

        It is sent off before the environments step: what the host does next, it does
        while the device works.
        """
        training = self.training
        state, memory, self.info = self.functions.learn(
            training.keys.learn,
            training.counters.iteration % 2**32,
            training.state,
            training.memory,
            *(training.pending or self.functions.empty_rows(training)),
        )
        self.held = training._replace(state=state, memory=memory, pending=None)
        self.environments.learned()


def read_soon(array: Any) -> np.ndarray:
    """Reads an array that is about to be there, and stays awake for it a little while.

    To fall asleep and be woken takes longer than a small network takes to act.
    """
    is_ready = getattr(array, "is_ready", None)  # numpy's always are
    looks = 0
    while is_ready is not None and not is_ready() and looks < MAX_LOOKS:
        looks += 1
    return np.asarray(array)
