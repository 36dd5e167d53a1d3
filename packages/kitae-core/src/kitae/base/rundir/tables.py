"""CSV files that a resumed run continues."""

import csv
import io
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from kitae.base.rundir.files import not_written, open_end, read_file, write_file

MAX_TABLE_BYTES = 2**32
# Larger than any sum of float32 numbers that a run could add up.
LARGEST = 1e100


class Table:
    """A CSV file that a resumed run continues.

    A file that is there stays as it is until `begin`: a training that is refused before
    its first step drops no rows.

    Args:
        path: The file.
        columns: Its header.
        kept: The rows it begins with.
    """

    def __init__(
        self, path: Path, columns: list[str], kept: list[dict[str, str]]
    ) -> None:
        self._path = path
        self._columns = columns
        self._kept: list[dict[str, str]] = kept
        self._file: io.FileIO | None = None
        if not os.path.lexists(path):
            self.begin()

    def begin(self) -> None:
        """Writes the file anew, with its header and the rows that are kept.

        Raises:
            OSError: It could not be written; the file is named.
        """
        if self._file is not None:
            return
        content = io.StringIO()
        csv.DictWriter(content, self._columns).writeheader()
        content.write(self._lines(self._kept))
        write_file(self._path, content.getvalue(), synced=False)
        self._file, self._kept = open_end(self._path), []

    def write(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Writes rows, and hands them to the operating system.

        Raises:
            OSError: They could not be written, and no part of them is there; the file
                is named.
        """
        content = memoryview(self._lines(rows).encode())
        if not content:
            return
        self.begin()
        assert self._file is not None
        descriptor = self._file.fileno()
        end = os.fstat(descriptor).st_size
        try:
            while content:
                content = content[os.write(descriptor, content) :]
        except OSError as error:
            os.truncate(descriptor, end)
            raise not_written(error, self._path) from error

    def sync(self) -> None:
        """Waits until they are on the disk.

        Raises:
            OSError: They could not be written; the file is named.
        """
        self.begin()
        assert self._file is not None
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise not_written(error, self._path) from error

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None:
            self._file.close()

    def _lines(self, rows: Iterable[Mapping[str, Any]]) -> str:
        content = io.StringIO()
        csv.DictWriter(content, self._columns, extrasaction="ignore").writerows(rows)
        return content.getvalue()


def whole_lines(path: Path) -> io.StringIO:
    """Reads a CSV file, less a last line of which only a part was written.

    Raises:
        ValueError: It is not UTF-8, not a regular file, or too large.
        OSError: It cannot be read.
    """
    content = read_file(path, MAX_TABLE_BYTES)
    return io.StringIO(content[: content.rfind(b"\n") + 1].decode(), newline="")


def rows_until(
    path: Path, env_step: int, numbers: Iterable[str] = ()
) -> list[dict[str, str]]:
    """Reads the rows of a CSV file that belong to a run as it was at `env_step`.

    The run that wrote the others went on past the checkpoint it is resumed from.

    Args:
        path: The file.
        env_step: Environment steps.
        numbers: Columns besides `env_step` that must hold finite numbers.

    Raises:
        ValueError: The file is damaged.
    """
    if not os.path.lexists(path):
        return []
    try:
        rows = [
            row
            for row in csv.DictReader(whole_lines(path))
            if int(row["env_step"]) <= env_step
        ]
        for name in numbers:
            for row in rows:
                if not math.fabs(float(row[name])) <= LARGEST:
                    raise ValueError(f"{name} is {row[name]:.40}")
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise ValueError(f"{path} is damaged: {error!r:.300}") from None
    return rows
