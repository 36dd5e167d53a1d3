"""The directory of a run: whose it is, and what is written into it first."""

import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from kitae.base.rundir.checkpoint import steps
from kitae.base.rundir.files import write_file
from kitae.config import AlgoConfig
from kitae.config.serial import config_to_json

CONFIG = "config.json"
LOCK = ".lock"
# Whoever looks whether a run is locked has its lock for a moment: that is no training.
PATIENCE_SECONDS = 0.2


def shown(path: Path) -> Path:
    """Returns a path for people to read: from the working directory on, if it is there.

    Example:
        >>> shown(Path("runs/first").absolute())
        PosixPath('runs/first')
    """
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def runs_root() -> Path:
    """Where runs are kept: `runs/` in the working directory, as an absolute path."""
    return Path("runs").absolute()


def new_run_dir(root: Path, run_name: str, config: AlgoConfig) -> Path:
    """Makes the run's directory, a new one: `<run_name>`, else `<run_name>-2`, ...

    Args:
        root: Where runs are kept, absolute.
        run_name: Checked before.
        config: Written into it as `config.json`.

    Returns:
        The directory.

    Raises:
        NotADirectoryError: A file is where it, or a folder above it, would be.
        OSError: The config could not be written; it is named.
    """
    wanted = root / run_name
    for folder in (wanted, *wanted.parents):
        if folder.is_file():
            raise NotADirectoryError(
                f"the run's directory would be {shown(wanted)}, but {shown(folder)} is "
                "a file"
            )
    content, run_dir, copy = config_to_json(config), wanted, 1
    while True:
        run_dir.mkdir(parents=True, exist_ok=True)
        try:
            # Who makes this file has the directory: of two runs at the same moment one.
            # The directory itself may be there before, such as for videos.
            (run_dir / CONFIG).open("x").close()
            break
        except FileExistsError:
            copy += 1
            run_dir = wanted.with_name(f"{wanted.name}-{copy}")
    try:
        write_file(run_dir / CONFIG, content)
    except BaseException:
        (run_dir / CONFIG).unlink(missing_ok=True)
        raise
    return run_dir


def only_begun(run_dir: Path) -> bool:
    """Whether a run was begun there that ended before its first checkpoint."""
    return (run_dir / CONFIG).exists() and not steps(run_dir)


@contextmanager
def locked(run_dir: Path) -> Iterator[None]:
    """Keeps every other process from writing into a run's directory.

    The operating system gives the lock back when a process ends, however it ends.

    Raises:
        FileNotFoundError: There is no such directory.
        RuntimeError: Another has it.
        ValueError: A link or something else is in the lock's place.
        OSError: The file system has no locks, or cannot be written; the lock is named.
    """
    if not run_dir.is_dir():
        raise FileNotFoundError(f"there is no run in {shown(run_dir)}")
    path = run_dir / LOCK
    if not _may_lock(path):
        raise ValueError(f"{path} is a link or not a regular file: remove it")
    lock = FileLock(path)
    try:
        lock.acquire(timeout=PATIENCE_SECONDS, poll_interval=PATIENCE_SECONDS / 10)
    except Timeout:
        raise RuntimeError(
            f"{shown(run_dir)} is being written by another training: wait until it "
            "ends, or take another run_name"
        ) from None
    except (OSError, NotImplementedError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OSError(
            getattr(error, "errno", None),
            f"the run could not be locked: {reason}. Keep runs/ on a file system that "
            "has locks and can be written, such as a local disk",
            str(path),
        ) from error
    try:
        yield
    finally:
        lock.release()


def is_locked(run_dir: Path) -> bool:
    """Whether a process is writing into a run's directory; nothing is changed there.

    Where the lock cannot be tried, as on a disk that is read-only, nobody is.
    """
    path = run_dir / LOCK
    if not (path.exists() and _may_lock(path)):
        return False
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    except (OSError, NotImplementedError):
        return False
    lock.release()
    return False


def _may_lock(path: Path) -> bool:
    """Whether a regular file is there, or nothing yet."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except FileNotFoundError:
        return True
