"""What a training shows of itself while it runs."""

import contextlib
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from kitae.base.rundir.output import guarded, visible

REFRESH_SECONDS = 0.25
NOTEBOOK_SECONDS = 1.0
# Without a terminal: of many rows in a short time, one line tells enough.
LINE_SECONDS = 5.0
SPARKS = "▁▂▃▄▅▆▇█"
ASCII_SPARKS = "_.-=+*%#"
MAX_SPARKS = 32


@dataclass
class Progress:
    """How far a training is.

    Attributes:
        name: Of the run.
        first: Environment steps at which this training began.
        step: Environment steps so far.
        until: Environment steps at which it ends.
        seconds: Since it began.
        updates: Gradient updates since it began.
        episodes: Episodes that ended since it began.
        episode_return: Mean of the newest ones, None before the first.
        episode_length: Likewise, in environment steps.
        metrics: Of the newest update, and the agent's own.
        returns: `episode_return` as it was, at equal parts of the training.
        evaluation: Mean return of the newest evaluation, None before the first.
    """

    name: str
    first: int
    step: int
    until: int
    seconds: float = 0.0
    updates: int = 0
    episodes: int = 0
    episode_return: float | None = None
    episode_length: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    returns: list[float] = field(default_factory=list)
    evaluation: float | None = None

    @property
    def share(self) -> float:
        """Of all environment steps, in [0, 1]."""
        return min(self.step / max(self.until, 1), 1.0)

    @property
    def speed(self) -> float:
        """Environment steps in a second."""
        return (self.step - self.first) / max(self.seconds, 1e-9)

    @property
    def update_speed(self) -> float:
        """Gradient updates in a second."""
        return self.updates / max(self.seconds, 1e-9)

    @property
    def left(self) -> str:
        """Time left at this speed, as hours, minutes and seconds."""
        if self.step <= self.first:
            return "-:--:--"
        seconds = round(max(self.until - self.step, 0) / max(self.speed, 1e-9))
        return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"

    def note_return(self) -> None:
        """Keeps the return for the sparkline, where the next part has begun."""
        if self.episode_return is None:
            return
        whole = max(self.until - self.first, 1)
        part = MAX_SPARKS * (self.step - self.first) // whole
        if part > len(self.returns) or not self.returns:
            self.returns.append(self.episode_return)


def sparkline(values: list[float], bars: str = SPARKS) -> str:
    """Draws values as a row of bars, the lowest of them as the lowest bar.

    Args:
        values: Finite numbers.
        bars: From the lowest to the highest, at least one.

    Example:
        >>> sparkline([1.0, 2.0, 4.5])
        '▁▃█'
    """
    if not values:
        return ""
    low, high = min(values), max(values)
    top = len(bars) - 1
    scale = top / (high - low) if high > low else 0.0
    return "".join(bars[round((value - low) * scale)] for value in values)


def number(value: float) -> str:
    """Writes a number shortly.

    Example:
        >>> number(12_345.6), number(123.45), number(0.01234), number(1.2e-7)
        ('12,346', '123.5', '0.0123', '1.2e-07')
    """
    size = abs(value)
    if size >= 1_000:
        return f"{value:,.0f}"
    if size >= 10:
        return f"{value:.1f}"
    return f"{value:.3g}"


def line(progress: Progress) -> str:
    """Tells of a training in one line of plain text."""
    parts = [f"{progress.step:,}/{progress.until:,}"]
    if progress.episode_return is not None:
        parts.append(f"return {number(progress.episode_return)}")
    if progress.evaluation is not None:
        parts.append(f"evaluation {number(progress.evaluation)}")
    parts += _metrics(progress)
    parts += [_speeds(progress), f"{progress.left} left"]
    return f"{visible(progress.name)}  {'  '.join(parts)}"


def _metrics(progress: Progress) -> list[str]:
    return [
        f"{visible(name)} {number(value)}" for name, value in progress.metrics.items()
    ]


def _speeds(progress: Progress) -> str:
    return f"{progress.speed:,.0f} steps/s  {progress.update_speed:,.0f} updates/s"


def panel(progress: Progress) -> Group:
    """Draws a training in four lines."""
    head = Table.grid(padding=(0, 2))
    head.add_column(style="bold", no_wrap=True)
    head.add_column(max_width=32)  # what gives way where there is no room
    head.add_column(no_wrap=True)
    head.add_column(no_wrap=True)
    head.add_row(
        Text(visible(progress.name)),
        ProgressBar(total=1.0, completed=progress.share),
        f"{progress.step:,}/{progress.until:,}",
        f"{progress.left} left",
    )
    learning = Text("  ".join(_metrics(progress)) or "no update yet", style="dim")
    speeds = Text(_speeds(progress), style="dim")
    return Group(head, _Episodes(progress), learning, speeds)


@dataclass(frozen=True)
class _Episodes:
    """One line on the episodes, with bars that the terminal's encoding has."""

    progress: Progress

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> RenderResult:
        progress = self.progress
        if progress.episode_return is None or progress.episode_length is None:
            yield Text("no episode has ended yet", style="dim")
            return
        bars = ASCII_SPARKS if options.ascii_only else SPARKS
        yield Text.assemble(
            "return ",
            (number(progress.episode_return), "bold green"),
            f"  {sparkline(progress.returns, bars)}  ",
            f"length {number(progress.episode_length)}  ",
            f"{progress.episodes:,} episodes",
            *_evaluation(progress),
        )


def _evaluation(progress: Progress) -> list[Any]:
    if progress.evaluation is None:
        return []
    return ["  evaluation ", (number(progress.evaluation), "bold green")]


class Display(Protocol):
    """A way to show a training.

    Attributes:
        live: Whether it is worth the while to be told between rows.
    """

    live: bool

    def show(self, progress: Progress) -> None:
        """Shows how far it is; called a few times in a second, if `live`."""

    def row(self, progress: Progress) -> None:
        """Takes note that a row of the metrics was written."""

    def close(self, progress: Progress) -> None:
        """Shows it for the last time."""


class Nothing:
    """Shows nothing."""

    live = False

    def show(self, progress: Progress) -> None:
        """Does nothing."""

    row = close = show


class Terminal:
    """Four lines of a terminal, drawn again and again."""

    live = True

    def __init__(self, console: Console) -> None:
        self._live = Live(
            console=console, auto_refresh=False, vertical_overflow="visible"
        )
        self._live.start()

    def show(self, progress: Progress) -> None:
        """Draws it anew."""
        self._live.update(panel(progress), refresh=True)

    def row(self, progress: Progress) -> None:
        """Does nothing: it is shown anyway."""

    def close(self, progress: Progress) -> None:
        """Leaves it as it is at last."""
        self.show(progress)
        self._live.stop()


class Lines:
    """Plain lines, for files and other programs: one for a row, but not too many."""

    live = False

    def __init__(self, console: Console) -> None:
        self._console = console
        self._last = time.perf_counter()
        self._shown = -1

    def show(self, progress: Progress) -> None:
        """Does nothing between rows."""

    def row(self, progress: Progress) -> None:
        """Prints a line, unless one was printed a moment ago."""
        if time.perf_counter() - self._last >= LINE_SECONDS:
            self._print(progress)

    def close(self, progress: Progress) -> None:
        """Prints the last line."""
        if progress.step != self._shown:
            self._print(progress)

    def _print(self, progress: Progress) -> None:
        self._last, self._shown = time.perf_counter(), progress.step
        self._console.print(
            line(progress), markup=False, highlight=False, soft_wrap=True
        )


class Notebook:
    """One output of a notebook's cell, replaced again and again."""

    live = True

    def __init__(self) -> None:
        from IPython.display import display

        self._handle: Any = display(self._text(""), raw=True, display_id=True)
        self._last = 0.0

    def show(self, progress: Progress) -> None:
        """Replaces what is shown, at most once in a second."""
        if time.perf_counter() - self._last >= NOTEBOOK_SECONDS:
            self.close(progress)

    def row(self, progress: Progress) -> None:
        """Does nothing: it is shown anyway."""

    def close(self, progress: Progress) -> None:
        """Replaces it, whenever the last time was."""
        self._last = time.perf_counter()
        console = Console(width=100, no_color=True, force_jupyter=False)
        with console.capture() as captured:
            console.print(panel(progress))
        # Whatever is wrong with the way to the page, the training continues.
        with contextlib.suppress(Exception):
            self._handle.update(self._text(captured.get()), raw=True)

    @staticmethod
    def _text(text: str) -> dict[str, str]:
        return {"text/plain": text}


def open_display(shown: bool) -> Display:
    """Returns the way to show a training that suits where it runs."""
    if not shown:
        return Nothing()
    # Whatever becomes of who reads it, the training goes to its end.
    console = Console(file=guarded(sys.stdout, "standard output"))
    if console.is_jupyter:
        with contextlib.suppress(ImportError):
            return Notebook()
    if console.is_terminal and not console.is_dumb_terminal:
        return Terminal(console)
    return Lines(console)
