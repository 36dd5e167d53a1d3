"""What the benchmarks share: sides in processes of their own, and how figures look."""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable
from importlib import metadata
from typing import Any

PACKAGES = ("jax", "gymnasium", "stable-baselines3", "torch", "rejax", "gymnax")


class Side:
    """One side in a process of its own, idle while others have their turns.

    Args:
        command: Starts a process that calls `serve`.
        folder: Where it works.

    Attributes:
        versions: Of Python and of the packages that it has.
    """

    def __init__(self, command: list[str], folder: str) -> None:
        self.process = subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.versions: dict[str, str] = self._answer()

    def turn(self, n_env_steps: int) -> Any:
        """Asks for a turn; returns what `serve`'s function returned."""
        assert self.process.stdin is not None
        print(n_env_steps, file=self.process.stdin, flush=True)
        return self._answer()

    def close(self) -> None:
        """Ends the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"it ended early: {self.process.args}")
        return json.loads(line)


def serve(turn: Callable[[int], Any]) -> None:
    """Calls `turn` with the number in each line of the input; answers in JSON.

    Args:
        turn: Takes environment steps; returns what can be written as JSON.
    """
    print(json.dumps(versions()), flush=True)
    for line in sys.stdin:
        print(json.dumps(turn(int(line))), flush=True)


def versions() -> dict[str, str]:
    """Returns the versions of Python and of what is installed of `PACKAGES`."""
    found = {"python": sys.version.split()[0]}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def uncached() -> dict[str, str]:
    """Returns the environment without a compilation cache that outlives a process."""
    kept = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    return kept | {"JAX_ENABLE_COMPILATION_CACHE": "false"}


def spread(values: Iterable[float], digits: int = 0) -> str:
    """Returns the median and the extremes, in words."""
    values = list(values)
    middle = f"{statistics.median(values):,.{digits}f}"
    return f"{middle:>9} ({min(values):,.{digits}f} to {max(values):,.{digits}f})"


def ratios(ours: Iterable[float], theirs: Iterable[float]) -> list[float]:
    """Returns the ratio of each turn."""
    return [mine / other for mine, other in zip(ours, theirs, strict=True)]
