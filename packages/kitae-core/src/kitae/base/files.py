"""Files that are on the disk when it is said that they are."""

import contextlib
import os
from pathlib import Path


def write_synced(path: Path, content: bytes) -> None:
    """Writes a file and waits until it is on the disk."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def replace_text(path: Path, content: str) -> None:
    """Writes a file anew; whoever reads it sees the old or the new one, whole."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(content, encoding="utf-8", newline="")
    temporary.replace(path)


def sync_folder(path: Path) -> None:
    """Waits until a directory's names are on the disk, where a system can tell."""
    with contextlib.suppress(PermissionError):  # directories of Windows
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
