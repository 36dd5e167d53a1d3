"""Names of runs, which are paths below `runs/`."""

import unicodedata

MAX_NAME_BYTES = 255


def checked_run_name(run_name: str) -> str:
    """Returns `run_name` if it names a directory inside `runs/`.

    Raises:
        ValueError: It does not; the message gives the reason.

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
