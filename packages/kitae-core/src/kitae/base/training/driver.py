"""What the loop of a training asks of a driver."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from kitae.base.algorithm.state import TrainingState
from kitae.base.recording.statistics import EpisodeStatistics
from kitae.types import Info


class Advance(NamedTuple):
    """What a driver did in one call.

    Attributes:
        before: Environment steps before the newest vector step that may cross a
            period of the log or of the checkpoints.
        infos: Of each update, `[n_updates]` by name, on the host. Empty: see
            `Driver.info`.
    """

    before: int
    infos: dict[str, Any]


class Driver(Protocol):
    """Steps the environments of a training and learns, in the order of an iteration.

    Attributes:
        statistics: Of the episodes of this training.
        info: Of the newest update, on the device. None: there was none yet, or
            `Advance` has it.
        is_sound: Whether what it holds may be saved. False: the environments gave what
            they must not give, and the update has used it.
    """

    statistics: EpisodeStatistics
    info: Info | None
    is_sound: bool

    @property
    def step(self) -> int:
        """Environment steps so far."""
        ...

    @property
    def training(self) -> TrainingState:
        """The newest state, also where `advance` has raised."""
        ...

    def advance(self, until: int, interrupted: Callable[[], bool]) -> Advance:
        """Takes steps until the host has something to do.

        Args:
            until: Environment steps at which the training ends.
            interrupted: Whether it is to end early.
        """
        ...

    def settle(self) -> None:
        """Adds the rows that are pending to the memory, for a checkpoint."""
        ...

    def reset(self) -> None:
        """Resets the environments, if they are not part of a checkpoint."""
        ...

    def finish(self) -> None:
        """Makes an update that the last step has made due."""
        ...
