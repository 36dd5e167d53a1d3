"""What the benchmarks share: sides in processes of their own, and how figures look."""

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PACKAGES = (
    "jax",
    "gymnasium",
    "stable-baselines3",
    "torch",
    "sbx-rl",
    "rejax",
    "gymnax",
    "flashbax",
    "rlax",
)


@dataclasses.dataclass(frozen=True)
class Row:
    """What was measured of Kitae and of a peer, turn by turn, in one run.

    Attributes:
        what: Was done, in words.
        against: The peer.
        unit: Of the figures: steps/s, of which more is better; else of time.
        ours: Kitae's.
        theirs: The peer's, each taken right before or after ours.
        target: The ratio that is asked for, if one is.
        remark: Where one side does more, or less, than the other.
    """

    what: str
    against: str
    unit: str
    ours: list[float]
    theirs: list[float]
    target: float | None = None
    remark: str = ""

    @property
    def faster(self) -> list[float]:
        """How many times as fast Kitae is, turn by turn."""
        if self.unit == "steps/s":
            return ratios(self.ours, self.theirs)
        return ratios(self.theirs, self.ours)


HEADING = (
    "| what | against | unit | Kitae | the other | times as fast | asked | |\n"
    "|---|---|---|---|---|---|---|---|"
)


def as_table(rows: Iterable[Row]) -> str:
    """Returns a Markdown table of medians, with their extremes."""
    lines = [HEADING]
    for row in rows:
        digits = 0 if row.unit == "steps/s" else 2
        asked, verdict = "", ""
        if row.target is not None:
            reached = statistics.median(row.faster) >= row.target
            asked, verdict = f"{row.target:.3g}", "yes" if reached else "**no**"
        against = f"{row.against} ({row.remark})" if row.remark else row.against
        lines.append(
            f"| {row.what} | {against} | {row.unit} | {spread(row.ours, digits)} "
            f"| {spread(row.theirs, digits)} | {spread(row.faster, 2)} | {asked} "
            f"| {verdict} |"
        )
    return "\n".join(lines)


def read_rows(path: Path) -> list[Row]:
    """Reads what `report` has written."""
    if not path.exists():
        return []
    stored = json.loads(path.read_text(encoding="utf-8"))
    names = {field.name for field in dataclasses.fields(Row)}
    return [Row(**{k: v for k, v in row.items() if k in names}) for row in stored]


def report(
    rows: list[Row], versions: dict[str, dict[str, str]], args: argparse.Namespace
) -> None:
    """Prints a table, beside an earlier run's if asked; adds to a JSON file if asked.

    Args:
        rows: What was measured.
        versions: Of each side.
        args: With what `add_arguments` has added.
    """
    for name, found in versions.items():
        print(f"{name}: {', '.join(f'{k} {v}' for k, v in found.items())}")
    print(as_table(rows))
    if args.than:
        earlier = {(row.what, row.against): row for row in read_rows(args.than)}
        for row in rows:
            if (row.what, row.against) in earlier:
                before = statistics.median(earlier[row.what, row.against].faster)
                now = statistics.median(row.faster)
                print(f"{row.what}, {row.against}: {before:.2f} before, {now:.2f} now")
    if args.json:
        new = {(row.what, row.against) for row in rows}
        kept = []
        if args.json.exists():
            kept = json.loads(args.json.read_text(encoding="utf-8"))
        kept = [row for row in kept if (row["what"], row["against"]) not in new]
        kept += [{**dataclasses.asdict(row), "versions": versions} for row in rows]
        args.json.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what `report` needs."""
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--than", type=Path, help="compare with the figures of a file")


def python_of(environment: str) -> str:
    """Returns the interpreter of an environment of hatch's, making it if need be."""
    show = "import sys; print(sys.executable)"
    found = subprocess.run(
        [ROOT / "tools/hatch", "-q", "run", f"{environment}:python", "-c", show],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return found.stdout.splitlines()[-1]


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

    def turn(self, size: int) -> Any:
        """Asks for a turn; returns what `serve`'s function returned."""
        assert self.process.stdin is not None
        print(size, file=self.process.stdin, flush=True)
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


@contextmanager
def opened(commands: dict[str, list[str]]) -> Iterator[dict[str, Side]]:
    """Starts sides by their commands, in a folder that is gone afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        sides = {name: Side(command, folder) for name, command in commands.items()}
        try:
            yield sides
        finally:
            for side in sides.values():
                side.close()


def alternate(
    sides: dict[str, Side], turns: int, size: Callable[[str], int]
) -> dict[str, list[Any]]:
    """Lets sides take turns; returns what each answered, turn by turn.

    Args:
        sides: By name.
        turns: Of each.
        size: Of a turn, by the side's name: what its function is called with.
    """
    answers: dict[str, list[Any]] = {name: [] for name in sides}
    for _ in range(turns):
        for name, side in sides.items():
            answers[name].append(side.turn(size(name)))
    return answers


def measured(
    pythons: dict[str, str],
    script: str,
    turns: int,
    size: int,
    *arguments: str,
    first: int | None = None,
) -> tuple[dict[str, list[Any]], dict[str, dict[str, str]]]:
    """Lets sides take turns, after one each that does not count: it compiles.

    Args:
        pythons: The interpreter of each side.
        script: Which serves a side that is named by `--side`.
        turns: Of each.
        size: Of a turn.
        *arguments: Further ones of the script.
        first: Size of the turn that does not count. Default: as the others.

    Returns:
        Of each side what it answered, turn by turn, and its versions.
    """
    commands = {
        name: [python, script, "--side", name, *arguments]
        for name, python in pythons.items()
    }
    with opened(commands) as sides:
        alternate(sides, 1, lambda _: first or size)
        found = alternate(sides, turns, lambda _: size)
        return found, {name: side.versions for name, side in sides.items()}


def from_cold(command: list[str]) -> tuple[float, str]:
    """Runs a process without a compilation cache.

    Python keeps the bytecode of what it imports, as it does at an installation: the
    first run of a command writes it, and is no measure of the others.

    Returns:
        Seconds from its start until it wrote its last line, and that line.
    """
    last, at = "", 0.0
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        process = subprocess.Popen(
            command, cwd=folder, env=uncached(), stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        for line in process.stdout:
            last, at = line, time.perf_counter()
        if process.wait():
            raise SystemExit(f"it failed: {command}")
    return at - start, last.strip()


def seconds(function: Callable[..., Any], *args: Any) -> float:
    """Times one call."""
    start = time.perf_counter()
    function(*args)
    return time.perf_counter() - start


def serve(turn: Callable[[int], Any]) -> None:
    """Calls `turn` with the number in each line of the input; answers in JSON.

    Args:
        turn: Takes the size of a turn; returns what can be written as JSON.
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


def versions_of(python: str) -> dict[str, str]:
    """Returns what `versions` does in another interpreter."""
    show = "import bench_sides, json; print(json.dumps(bench_sides.versions()))"
    folder = Path(__file__).parent
    done = subprocess.run(
        [python, "-c", show], cwd=folder, check=True, stdout=subprocess.PIPE, text=True
    )
    return json.loads(done.stdout)


def uncached() -> dict[str, str]:
    """Returns the environment without a compilation cache that outlives a process.

    A cache of Python's own bytecode is as everyone has it.
    """
    without = ("JAX_COMPILATION_CACHE_DIR", "PYTHONDONTWRITEBYTECODE")
    kept = {k: v for k, v in os.environ.items() if k not in without}
    return kept | {"JAX_ENABLE_COMPILATION_CACHE": "false"}


def spread(values: Iterable[float], digits: int = 0) -> str:
    """Returns the median and the extremes, in words."""
    values = list(values)
    middle = f"{statistics.median(values):,.{digits}f}"
    return f"{middle} ({min(values):,.{digits}f} to {max(values):,.{digits}f})"


def ratios(ours: Iterable[float], theirs: Iterable[float]) -> list[float]:
    """Returns the ratio of each turn."""
    return [mine / other for mine, other in zip(ours, theirs, strict=True)]
