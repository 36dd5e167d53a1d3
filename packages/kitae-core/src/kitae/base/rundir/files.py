"""Files of a run: written whole or not at all, and read only if they are files.

Nothing here follows a link. A file that is written gets a new, random name and takes
the old one's place when it is complete, so a link in its place is replaced and what it
points to stays as it is.
"""

import contextlib
import errno
import io
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

# Systems without one of these have nothing that it would keep out.
_FLAGS = ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_BINARY")
_SAFE = sum(getattr(os, name, 0) for name in _FLAGS)
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _SAFE
_SHOWN = 40  # letters of a file's name in that of its temporary
_ADVICE = {
    errno.ENOSPC: "; free some space on that disk and try again",
    errno.EDQUOT: "; free some of your quota on that disk and try again",
    errno.EROFS: "; that disk can only be read",
}


@contextlib.contextmanager
def new_file(path: Path, *, synced: bool = True) -> Iterator[BinaryIO]:
    """Opens a new file that replaces `path` once the body has ended without an error.

    Whoever reads `path` meanwhile sees the old file or the new one, whole. After an
    error there is only the old one.

    Args:
        path: The file. A link there is replaced, not followed.
        synced: Whether to wait until the content is on the disk.

    Raises:
        OSError: It could not be written; the file is named.
    """
    token = secrets.token_hex(8)
    temporary = path.with_name(f".{path.name[:_SHOWN]}.{token}.tmp")
    try:
        descriptor = os.open(temporary, _NEW, 0o666)
        try:
            with open(descriptor, "wb") as file:
                yield file
                file.flush()
                if synced:
                    os.fsync(descriptor)
            temporary.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
    except OSError as error:
        raise not_written(error, path) from error


def write_file(path: Path, content: bytes | str, *, synced: bool = True) -> None:
    """Writes a file as `new_file` does; a text as UTF-8.

    Raises:
        OSError: It could not be written; the file is named.
    """
    with new_file(path, synced=synced) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def not_written(error: OSError, path: Path) -> OSError:
    """Returns the error of a file that could not be written: named, and with advice."""
    reason = f"{error.strerror or error}{_ADVICE.get(error.errno or 0, '')}"
    message = f"{path.name} could not be written: {reason}"
    return OSError(error.errno, message, str(path))


def open_file(path: Path) -> io.BufferedReader:
    """Opens a file to read, without following a link or waiting as for a named pipe.

    Raises:
        ValueError: It is a link or not a regular file; it is named.
        OSError: It cannot be opened.
    """
    return open(_descriptor(path, os.O_RDONLY), "rb")


def open_end(path: Path) -> io.FileIO:
    """Opens a file that is there to write at its end, without a buffer.

    Raises:
        ValueError: It is a link or not a regular file; it is named.
        OSError: It cannot be opened.
    """
    return io.FileIO(_descriptor(path, os.O_WRONLY | os.O_APPEND), "ab")


def _descriptor(path: Path, flags: int) -> int:
    try:
        descriptor = os.open(path, flags | _SAFE)
    except OSError as error:
        if path.is_symlink():
            raise ValueError(f"{path} is a link, which is not followed") from None
        if error.errno == errno.ENXIO:  # a socket, or a pipe that nobody reads
            raise ValueError(f"{path} is not a regular file") from None
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ValueError(f"{path} is not a regular file")
    return descriptor


def read_file(path: Path, max_bytes: int) -> bytes:
    """Reads a file, as `open_file` opens it.

    Raises:
        ValueError: It is not a regular file, or has more than `max_bytes`; it is named.
        OSError: It cannot be read.
    """
    with open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > max_bytes:
            raise ValueError(
                f"{path} is too large: it has {size:,} bytes, at most {max_bytes:,} "
                "are read"
            )
        return file.read(max_bytes)  # of one that grows meanwhile, no more


def check_folder(path: Path) -> Path:
    """Returns the path of a folder of a run, which need not be there.

    Raises:
        ValueError: It is a link: what is written or removed there is not the run's.
    """
    if path.is_symlink():
        raise ValueError(
            f"{path} is a link, which is not followed: it must be a folder of the run"
        )
    return path


def remove_any(path: Path) -> None:
    """Removes a folder, a file or a link, if there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def move_folder(source: Path, target: Path, *, first: str) -> None:
    """Renames a folder of a run; `target` must not be there.

    On an overlay file system, as in a container, a folder of the image cannot be
    renamed. It is copied, and then removed.

    Args:
        source: The folder.
        target: Its new path, in the same folder.
        first: The file in it that is removed first after a copy: a folder without it
            is not whole.

    Raises:
        OSError: It could not be moved, and still is at `source`.
    """
    try:
        source.rename(target)
        return
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
    copy = target.with_name(f".{target.name.lstrip('.')}.tmp")
    remove_any(copy)
    try:
        shutil.copytree(source, copy, symlinks=True)
        copy.rename(target)
    except BaseException:
        shutil.rmtree(copy, ignore_errors=True)
        raise
    (source / first).unlink(missing_ok=True)
    remove_any(source)


def sync_folder(path: Path) -> None:
    """Waits until a directory's names are on the disk, where a system can tell."""
    with contextlib.suppress(PermissionError):  # directories of Windows
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
