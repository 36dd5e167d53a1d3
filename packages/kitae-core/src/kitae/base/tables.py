"""CSV files that a resumed run goes on writing."""

import csv
import io
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TextIO

from kitae.base.files import replace_text


class Table:
    """A CSV file that a resumed run goes on writing.

    Args:
        path: The file, which is written anew.
        columns: Its header.
        kept: The rows it begins with.
    """

    def __init__(
        self, path: Path, columns: list[str], kept: list[dict[str, str]]
    ) -> None:
        content = io.StringIO()
        writer = csv.DictWriter(content, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(kept)
        replace_text(path, content.getvalue())
        self._file: TextIO = path.open("a", newline="", encoding="utf-8")
        self._writer = csv.DictWriter(self._file, columns, extrasaction="ignore")

    def write(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Writes rows, and hands them to the operating system."""
        self._writer.writerows(rows)
        self._file.flush()

    def sync(self) -> None:
        """Waits until they are on the disk."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def rows_until(path: Path, env_step: int) -> list[dict[str, str]]:
    """Reads the rows of a CSV file that belong to a run as it was at `env_step`.

    The run that wrote the others went on past the checkpoint it is resumed from.

    Raises:
        ValueError: The file is damaged.
    """
    if not path.exists():
        return []
    try:
        content = path.read_text(encoding="utf-8")
        # A killed run may have left a part of its last line.
        whole = io.StringIO(content[: content.rfind("\n") + 1])
        return [
            row for row in csv.DictReader(whole) if int(row["env_step"]) <= env_step
        ]
    except (ValueError, KeyError, TypeError, csv.Error) as error:
        raise ValueError(f"{path} is damaged: {error!r}") from None
