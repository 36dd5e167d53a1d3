"""Finding runs, and what each of them is; only values are read, never code."""

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

from kitae.base.rundir import checkpoint
from kitae.base.rundir.directory import CONFIG, is_locked
from kitae.base.rundir.files import read_file
from kitae.base.rundir.system import SYSTEM
from kitae.config import check_int
from kitae.config.config import MAX_SEED
from kitae.config.serial import MAX_JSON_BYTES, strict_json
from kitae.config.typed import place
from kitae.runs.tables import (
    EPISODES,
    METRICS,
    STEP,
    read_episodes,
    read_metrics,
    running_mean,
)

UNKNOWN = "unknown"
RECENT = 100  # episodes in a mean return
State = Literal["finished", "interrupted", "running", "only begun", "damaged"]
T = TypeVar("T")


@dataclass(frozen=True)
class RunSummary:
    """What a run's directory says about it.

    Attributes:
        run_dir: The directory.
        name: Its path below the folder it was found in.
        algorithm: The class of the agent, "unknown" if no file says it.
        task: The environment's id, "unknown" if the config cannot be read.
        seed: Of the config, -1 if that cannot be read.
        env_steps: Environment steps that were taken, as far as it is written.
        wanted_steps: `train_cfg.n_env_steps`, 0 if the config cannot be read.
        episodes: Training episodes that ended.
        last_return: Mean undiscounted return of the last 100 of them; None: none ended.
        best_return: The highest mean of 100 that follow each other, of all if there
            are fewer; None: none ended.
        seconds: Of training, as its metrics say.
        state: "finished": there is a checkpoint of the wanted steps or, as after
            `train_seeds`, no checkpoint but metrics of them. "running": a process
            writes into it. "interrupted": it can continue from a checkpoint. "only
            begun": it would begin anew. "damaged": a file cannot be read.
        modified: When one of its files was last written, in UTC.
        problem: What is damaged, a line for each file; "" if nothing is.
    """

    run_dir: Path
    name: str
    algorithm: str
    task: str
    seed: int
    env_steps: int
    wanted_steps: int
    episodes: int
    last_return: float | None
    best_return: float | None
    seconds: float
    state: State
    modified: datetime
    problem: str = ""


def find_runs(root: str | Path = "runs") -> list[RunSummary]:
    """Finds every run below a folder, those in folders of their own included.

    Args:
        root: The folder, which may be a run itself; one that is not there has no runs.

    Returns:
        One for each run, by name. A run that cannot be read is there too, as damaged.

    Example:
        >>> find_runs("nowhere")
        []
    """
    root = Path(root)
    found = []
    for folder, folders, files in os.walk(root):
        if "checkpoints" in folders or {CONFIG, METRICS, EPISODES} & set(files):
            run_dir = Path(folder)
            name = run_dir.relative_to(root).as_posix()
            with suppress(FileNotFoundError):  # removed meanwhile
                found.append(read_run(run_dir, None if name == "." else name))
    return sorted(found, key=lambda run: run.name)


def read_run(run_dir: str | Path, name: str | None = None) -> RunSummary:
    """Reads what a run's directory says, whatever state it is in.

    A training that writes into it meanwhile is not disturbed.

    Args:
        run_dir: The directory.
        name: What it is called. Default: its last part.

    Raises:
        FileNotFoundError: There is no such directory.
    """
    run_dir = Path(run_dir)
    if not run_dir.is_dir():
        raise FileNotFoundError(f"there is no run in {run_dir}")
    problems: list[str] = []

    def attempt(read: Callable[[Path], T], default: T) -> T:
        try:
            return read(run_dir)
        except (OSError, ValueError) as error:
            problems.append(str(error))
            return default

    running = is_locked(run_dir)
    task, seed, wanted_steps = attempt(_read_facts, (UNKNOWN, -1, 0))
    no_rows = {name: np.empty(0) for name in (STEP, "seconds", "return")}
    metrics = attempt(read_metrics, no_rows)
    episodes = attempt(read_episodes, no_rows)
    # A training removes old checkpoints: one that is gone meanwhile is not damage.
    saved = None if running else attempt(_last_saved, None)
    written = int(max(table[STEP].max(initial=0.0) for table in (metrics, episodes)))
    means = running_mean(episodes["return"], RECENT)
    last = best = None
    if len(means):
        last = float(means[-1])
        best = float(means[RECENT - 1 :].max(initial=last))
    return RunSummary(
        run_dir=run_dir,
        name=name or run_dir.resolve().name,
        algorithm=algorithm_of(run_dir),
        task=task,
        seed=seed,
        env_steps=max(written, saved or 0),
        wanted_steps=wanted_steps,
        episodes=len(means),
        last_return=last,
        best_return=best,
        seconds=float(metrics["seconds"].max(initial=0.0)),
        state=_state(bool(problems), running, saved, written, wanted_steps),
        modified=_modified(run_dir),
        problem="\n".join(problems),
    )


def read_config(run_dir: str | Path) -> dict[str, Any]:
    """Reads a run's `config.json` as plain values.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It is not strict JSON, or not an object.
    """
    return read_json(Path(run_dir) / CONFIG, dict)


def read_system(run_dir: str | Path) -> list[Any]:
    """Reads what a run was trained on, `system.json`: a list, oldest first.

    Raises:
        FileNotFoundError: There is none: it was trained by an older version.
        ValueError: It is not strict JSON, or not a list.
    """
    return read_json(Path(run_dir) / SYSTEM, list)


def algorithm_of(run_dir: str | Path) -> str:
    """Returns the class of a run's agent, as its files name it, or "unknown"."""
    run_dir = Path(run_dir)
    with suppress(OSError, ValueError):
        for entry in reversed(read_system(run_dir)):
            return _agent(entry)
    with suppress(OSError, ValueError):
        return _agent(checkpoint.read(run_dir).facts)
    return UNKNOWN


def flat_fields(config: dict[str, Any]) -> dict[str, Any]:
    """Returns the fields of a config by their paths, in their order.

    Example:
        >>> flat_fields({"seed": 0, "algo_params": {"gamma": 0.99}})
        {'seed': 0, 'algo_params.gamma': 0.99}
    """
    fields, left = {}, [("", config)]
    while left:  # without recursion: a file may be nested as deeply as it likes
        name, value = left.pop()
        if isinstance(value, dict) and value:
            left += [(place(name, key), part) for key, part in reversed(value.items())]
        else:
            fields[name] = value
    return fields


def read_json(path: Path, kind: type[T], max_bytes: int = MAX_JSON_BYTES) -> T:
    """Reads a file of strict JSON that holds a dict, or a list.

    Args:
        path: The file.
        kind: What it holds.
        max_bytes: How large it may be.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It is damaged.
    """
    try:
        value = strict_json(read_file(path, max_bytes), max_bytes)
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from None
    if not isinstance(value, kind):
        raise ValueError(f"{path} is damaged: it holds no {kind.__name__}")
    return value


def _read_facts(run_dir: Path) -> tuple[str, int, int]:
    config = read_config(run_dir)
    try:
        task = config["env_cfg"]["task_name"]
        seed, steps = config["seed"], config["train_cfg"]["n_env_steps"]
        if not isinstance(task, str):
            raise ValueError(f"env_cfg.task_name must be a name, got {task!r:.80}")
        check_int("seed", seed, 0, MAX_SEED)
        check_int("train_cfg.n_env_steps", steps, 1)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{run_dir / CONFIG} is damaged: {error!r:.300}") from None
    return task, seed, steps


def _last_saved(run_dir: Path) -> int | None:
    """Returns the step of the newest checkpoint; None: there is none."""
    return checkpoint.read(run_dir).step if checkpoint.steps(run_dir) else None


def _agent(facts: Any) -> str:
    name = facts.get("agent") if isinstance(facts, dict) else None
    if not isinstance(name, str):
        raise ValueError("no agent is named")
    return name


def _state(
    damaged: bool, running: bool, saved: int | None, written: int, wanted: int
) -> State:
    if damaged:
        return "damaged"
    if running:
        return "running"
    if (written if saved is None else saved) >= wanted:
        return "finished"
    return "only begun" if saved is None else "interrupted"


def _modified(run_dir: Path) -> datetime:
    newest = run_dir.stat().st_mtime
    for name in (CONFIG, METRICS, EPISODES):
        with suppress(FileNotFoundError):
            newest = max(newest, (run_dir / name).lstat().st_mtime)
    return datetime.fromtimestamp(newest, UTC)
