"""The directory of a run: its name, and what is written into it first."""

import unicodedata
from pathlib import Path

from kitae.config import AlgoConfig
from kitae.config.serial import config_to_json

MAX_NAME_BYTES = 255


def runs_root() -> Path:
    """Where runs are kept: `runs/` in the working directory."""
    return Path("runs")


def checked_run_name(run_name: str) -> str:
    """Returns `run_name` if it names a directory inside `runs/`.

    Raises:
        ValueError: It does not; the reason is told.

    Example:
        >>> checked_run_name("dqn/cartpole-0")
        'dqn/cartpole-0'
        >>> checked_run_name("../elsewhere")
        Traceback (most recent call last):
        ...
        ValueError: run_name '../elsewhere' must not have a part '..'
    """
    if not isinstance(run_name, str) or not run_name:
        raise ValueError(f"run_name must be a name, got {run_name!r}")
    name = unicodedata.normalize("NFC", run_name)
    if any(unicodedata.category(letter).startswith("C") for letter in name):
        raise ValueError(f"run_name {run_name!r} must not have control characters")
    if "\\" in name or ":" in name or name.startswith("/"):
        raise ValueError(f"run_name {run_name!r} must be a relative path with '/' only")
    for part in name.split("/"):
        if part in ("", ".", ".."):
            raise ValueError(f"run_name {run_name!r} must not have a part {part!r}")
        if len(part.encode()) > MAX_NAME_BYTES:
            raise ValueError(
                f"run_name has a part of {len(part.encode())} bytes, at most "
                f"{MAX_NAME_BYTES} are allowed: {part[:40]!r}..."
            )
    return name


def new_run_dir(run_name: str, config: AlgoConfig) -> Path:
    """Makes the run's directory, a new one: `<run_name>`, else `<run_name>-2`, ...

    Args:
        run_name: Checked before.
        config: Written into it as `config.json`.

    Returns:
        The directory.
    """
    wanted = runs_root() / run_name
    content, run_dir, copy = config_to_json(config), wanted, 1
    while True:
        run_dir.mkdir(parents=True, exist_ok=True)
        try:
            # Who makes this file has the directory: of two runs at the same moment one.
            # The directory itself may be there before, for the videos of environments.
            with (run_dir / "config.json").open("x", encoding="utf-8") as file:
                file.write(content)
            return run_dir
        except FileExistsError:
            copy += 1
            run_dir = wanted.with_name(f"{wanted.name}-{copy}")
