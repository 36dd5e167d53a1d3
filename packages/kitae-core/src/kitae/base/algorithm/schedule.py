"""When an agent learns."""

from typing import NamedTuple, Protocol

import numpy as np

from kitae.base.algorithm.state import Counters


class Plan(NamedTuple):
    """Iterations that come next.

    Attributes:
        size: Iterations in a group, at least 1.
        n_groups: Groups, at least 1.
        learns: Whether each group has an update.
    """

    size: int
    n_groups: int
    learns: bool


class Schedule(Protocol):
    """Counts the steps of a training, and says when an update is due.

    Attributes:
        overlaps: Whether an update uses the rows of earlier steps only, so that it can
            run while the environments step. Otherwise the newest step is part of it.
    """

    @property
    def overlaps(self) -> bool:
        """See the class."""
        ...

    def due(self, counters: Counters) -> bool:
        """Whether to learn now."""
        ...

    def plan(self, counters: Counters, left: int) -> Plan:
        """Plans iterations in which every step is a transition.

        Args:
            counters: How far the training is.
            left: Iterations until it ends, at least 1.
        """
        ...

    def after_reset(self, counters: Counters) -> Counters:
        """Counts that the environments were reset."""
        ...

    def after_step(
        self, counters: Counters, valid: np.ndarray, n_steps: int
    ) -> Counters:
        """Counts a vector step.

        Args:
            counters: Before it.
            valid: `[n_rows]` bool, which rows it gave.
            n_steps: Environment steps.
        """
        ...

    def after_update(self, counters: Counters) -> Counters:
        """Counts an update."""
        ...

    def after_iterations(
        self, counters: Counters, n_iterations: int, n_updates: int
    ) -> Counters:
        """Counts iterations in which every step was a transition, and their updates."""
        ...
