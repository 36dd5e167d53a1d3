"""When an agent learns."""

from typing import NamedTuple, Protocol

import numpy as np

from kitae.base.algorithm.state import Counters


class Plan(NamedTuple):
    """Iterations that come next.

    Attributes:
        size: Iterations in a group, at least 1.
        n_groups: Groups, at least 1.
        learns: Whether a group has an update.
        done: Iterations of the group that were run before. Only one group by itself has
            any.
        cut: Iterations that it leaves out at its end. Likewise.
        n_updates: Updates that are run: one for each group, if it learns, but for an
            update that is among what was done or is left out.
    """

    size: int
    n_groups: int
    learns: bool
    done: int
    cut: int
    n_updates: int

    @property
    def n_iterations(self) -> int:
        """Iterations that are run."""
        return self.size * self.n_groups - self.done - self.cut


def plan_groups(size: int, done: int, left: int, update_at: int) -> Plan:
    """Plans the rest of a group that was begun, or else whole groups.

    Args:
        size: Iterations in a group.
        done: Those of the group that was begun.
        left: Iterations until the training ends, at least 1.
        update_at: Which of its iterations a group learns in.
    """
    if not done and left >= size:
        n_groups = left // size
        return Plan(size, n_groups, True, 0, 0, n_groups)
    end = min(size, done + left)
    learns = done <= update_at < end
    return Plan(size, 1, True, done, size - end, int(learns))


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
