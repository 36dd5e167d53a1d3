"""Text for people: a write that fails ends nothing, and no name forges a line."""

import os
import sys
import unicodedata
from contextlib import suppress
from typing import Any

# Control and format characters, lone surrogates, and what separates lines.
ESCAPED = ("Cc", "Cf", "Cs", "Zl", "Zp")


def visible(text: object) -> str:
    r"""Returns text as one line without anything that a terminal would obey.

    Names of runs, tasks and agents, and what errors say, may come from files of others.
    Control characters, format characters such as those that turn the direction of
    writing, lone surrogates and line breaks are escaped as Python writes them.

    Args:
        text: Anything, of which `str` is shown.

    Example:
        >>> print(visible("run\x1b[31m\nrun 2"))
        run\x1b[31m\nrun 2
    """
    return "".join(
        letter.encode("unicode_escape").decode()
        if unicodedata.category(letter) in ESCAPED
        else letter
        for letter in str(text)
    )


class Output:
    """A text stream that drops what cannot be written, where another would raise.

    Once a write fails (the reader is gone, the disk is full), everything after it is
    dropped, and one line on stderr says so. For a character that the stream's encoding
    lacks it writes "?". Everything else is the stream's.

    Args:
        stream: Where to write, such as `sys.stdout`; None: nowhere.
        name: What to call it on stderr; None: nothing is said.
    """

    def __init__(self, stream: Any, name: str | None) -> None:
        self._stream = open(os.devnull, "w") if stream is None else stream  # noqa: SIM115
        self._name = name
        self._lost = False

    def write(self, text: str) -> int:
        """Writes text; whole lines are handed to the operating system at once."""
        if self._lost:
            return len(text)
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        try:
            self._stream.write(text.encode(encoding, "replace").decode(encoding))
            if "\n" in text:
                self._stream.flush()
        except (OSError, ValueError) as error:  # the latter of a closed stream
            self._lose(error)
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Writes several pieces of text."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Hands what was written to the operating system."""
        if self._lost:
            return
        try:
            self._stream.flush()
        except (OSError, ValueError) as error:
            self._lose(error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _lose(self, error: OSError | ValueError) -> None:
        self._lost = True
        _discard_buffer(self._stream)
        if self._name is not None:
            why = getattr(error, "strerror", None) or error
            guarded(sys.stderr).write(
                f"kitae: {self._name} can no longer be written ({why}): from here on "
                "it is dropped\n"
            )


def guarded(stream: Any, name: str | None = None) -> Any:
    """Returns a stream whose writes never raise; see `Output`.

    Args:
        stream: Such as `sys.stdout`.
        name: What to call it on stderr; None: nothing is said.
    """
    # Of a display of rich that redirects prints, what it prints to itself.
    stream = getattr(stream, "rich_proxied_file", stream)
    return stream if isinstance(stream, Output) else Output(stream, name)


def _discard_buffer(stream: Any) -> None:
    """Empties a stream's buffer, which Python would try to write once more as it ends.

    That would fail again, and give the process exit status 120.
    """
    with suppress(OSError, ValueError, AttributeError):
        target = stream.fileno()
        inheritable = os.get_inheritable(target)
        kept, nowhere = os.dup(target), os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, target, inheritable)
            stream.flush()
        finally:
            os.dup2(kept, target, inheritable)
            os.close(kept)
            os.close(nowhere)
