"""The one place through which the command writes."""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any

from rich.console import Console, RenderableType
from rich.text import Text

from kitae.base.rundir.output import guarded, visible

COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def say(line: object) -> None:
    """Prints one line, with what a terminal would obey escaped."""
    print(visible(line))


def complain(message: object) -> None:
    """Prints an error in one line on stderr, as `say` does."""
    text = re.sub(r"\s*\n\s*", " ", str(message)) or repr(message)
    print(f"kitae: {visible(text)}", file=sys.stderr)


def warning(message: Any, *_: Any, **__: Any) -> str:
    """Formats a warning; further lines are indented: they cannot pass for another."""
    lines = COLOURS.sub("", str(message)).split("\n")
    text = "\n  ".join(visible(line.strip()) for line in lines)
    return f"kitae: warning: {text}\n"


def cell(text: object, style: str = "") -> Text:
    """Returns text for a table, with what a terminal would obey escaped."""
    return Text(visible(text), style)


def show(renderable: RenderableType, *, cut: bool = True) -> None:
    """Prints a table or another drawing of rich.

    Args:
        renderable: Text in it that comes from elsewhere must be made by `cell` or
            `visible`.
        cut: Whether lines end at the console's width.
    """
    Console(soft_wrap=not cut).print(renderable)


@contextmanager
def guarded_streams() -> Iterator[None]:
    """Guards stdout and stderr, for all that writes to them while the command runs."""
    with redirect_stderr(guarded(sys.stderr)):
        output = guarded(sys.stdout, "standard output")
        with redirect_stdout(output):
            try:
                yield
            finally:
                output.flush()
