"""Learning curves of runs, over several seeds too, and how sure one can be of them."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from kitae.config import check_int, check_number
from kitae.config.config import MAX_SEED
from kitae.config.typed import short
from kitae.runs.listing import UNKNOWN, algorithm_of, flat_fields, read_config
from kitae.runs.tables import (
    STEP,
    read_episodes,
    read_evaluations,
    read_metrics,
    running_mean,
)

RESAMPLES = 2_000
OF_EPISODES = {"episode_return": "return", "episode_length": "length"}
OF_EVALUATIONS = {"eval_return": "return_mean", "eval_return_std": "return_std"}
ABSENT = object()


@dataclass(frozen=True)
class Curve:
    """What one run's files hold of one metric.

    Attributes:
        x: `[n]` float64, ascending: environment steps, or seconds of training.
        y: `[n]` float64, the metric.
    """

    x: np.ndarray
    y: np.ndarray


@dataclass(frozen=True)
class Band:
    """What several runs have in common.

    Attributes:
        x: `[n_points]` float64, as the curves'.
        iqm: `[n_points]` float64, the interquartile mean over the runs.
        low: `[n_points]` float64, the lower end of its interval.
        high: `[n_points]` float64, the upper end.
        n: How many runs.
    """

    x: np.ndarray
    iqm: np.ndarray
    low: np.ndarray
    high: np.ndarray
    n: int


def read_curve(
    run_dir: str | Path,
    metric: str = "episode_return",
    x: Literal["env_steps", "seconds"] = "env_steps",
    smooth: int = 1,
) -> Curve:
    """Reads a curve of a run, which may still be training.

    Args:
        run_dir: The run's directory.
        metric: "episode_return" or "episode_length", with a point for each episode;
            "eval_return" or "eval_return_std", with one for each evaluation; or another
            column of `metrics.csv`, with one for each row that has it.
        x: What it is drawn over. Seconds of an episode are found between those of the
            rows of `metrics.csv`; episodes after the last row have none, and are left
            out.
        smooth: Points, at least 1. Each is the mean of the last so many; 1: as written.

    Raises:
        ValueError: There is no such metric, or a file is damaged.

    Example:
        >>> read_curve("runs/first", "loss", smooth=10).y[-1]  # doctest: +SKIP
    """
    check_int("smooth", smooth, 1)
    if x not in ("env_steps", "seconds"):
        raise ValueError(f'x must be "env_steps" or "seconds", got {x!r}')
    metrics = read_metrics(Path(run_dir))
    if metric in OF_EPISODES:
        table = read_episodes(Path(run_dir))
        values = table[OF_EPISODES[metric]]
    elif metric in OF_EVALUATIONS:
        table = read_evaluations(Path(run_dir))
        values = table.get(OF_EVALUATIONS[metric])
    else:
        table, values = metrics, metrics.get(metric)
    if values is None:
        known = [
            *OF_EPISODES,
            *OF_EVALUATIONS,
            *(name for name in metrics if name not in OF_EPISODES),
        ]
        raise ValueError(f"metric must be one of {known}, got {metric!r}")
    at = table[STEP]
    if x == "seconds":
        steps, seconds = (np.insert(metrics[key], 0, 0.0) for key in (STEP, "seconds"))
        at = np.where(at <= steps[-1], np.interp(at, steps, seconds), np.nan)
    there = np.isfinite(values) & np.isfinite(at)
    return smoothed(Curve(at[there], values[there]), smooth)


def smoothed(curve: Curve, window: int) -> Curve:
    """Returns a curve of which each point is the mean of the last `window` ones."""
    return curve if window == 1 else Curve(curve.x, running_mean(curve.y, window))


def iqm(values: np.ndarray) -> np.ndarray:
    """Returns the interquartile mean over the first axis (Agarwal et al., 2021).

    A quarter of the values, rounded down, is left out at each end, so of fewer than
    four none is: it is their mean.

    Args:
        values: `[n, ...]`.

    Example:
        >>> float(iqm(np.array([0.0, 10.0, 20.0, 990.0])))
        15.0
    """
    cut = len(values) // 4
    return np.sort(values, axis=0)[cut : len(values) - cut].mean(axis=0)


def aggregate(
    curves: Sequence[Curve],
    n_points: int = 200,
    confidence: float = 0.95,
    seed: int = 0,
) -> Band:
    """Finds what runs have in common: the IQM over them, and how sure it is.

    Each curve is drawn in straight lines over a grid of the range that all of them
    have; of runs of unequal lengths that ends with the shortest. The interval is a
    percentile bootstrap of 2,000 resamples of whole runs (Agarwal et al., 2021), and
    says nothing where there is one run: it is then as narrow as the curve.

    Args:
        curves: One of each run, none empty; smooth ones, since between two points a
            straight line says little of noise.
        n_points: Of the grid, at least 2.
        confidence: Of the interval, in (0, 1).
        seed: Of the resamples.

    Raises:
        ValueError: There is no curve, an empty one, or no range that all have.
    """
    check_int("n_points", n_points, 2)
    if not curves or any(len(curve.x) == 0 for curve in curves):
        raise ValueError("curves must be at least one, each with at least one point")
    start = max(float(curve.x[0]) for curve in curves)
    end = min(float(curve.x[-1]) for curve in curves)
    if start > end:
        raise ValueError(
            f"curves must overlap, but one begins at {start:g} and one ends at {end:g}"
        )
    grid = np.linspace(start, end, n_points)
    values = np.stack([_at(curve, grid) for curve in curves])
    low, high = _bootstrap(values, iqm, confidence, seed)
    return Band(grid, iqm(values), low, high, len(curves))


def interval(
    returns: np.ndarray | Sequence[float], confidence: float = 0.95, seed: int = 0
) -> tuple[float, float, float]:
    """Returns the mean of returns, and a percentile bootstrap's interval of it.

    Args:
        returns: `[n]`, at least one.
        confidence: Of the interval, in (0, 1).
        seed: Of the resamples.

    Returns:
        Mean, lower and upper end.

    Raises:
        ValueError: There are no returns, or they are not a list of them.

    Example:
        >>> interval([200.0, 200.0, 200.0])
        (200.0, 200.0, 200.0)
    """
    values = np.asarray(returns, np.float64)
    if values.ndim != 1 or len(values) == 0:
        raise ValueError(f"returns must be [n], n at least 1, got {list(values.shape)}")
    low, high = _bootstrap(values, np.mean, confidence, seed)
    return float(values.mean()), float(low), float(high)


def group_runs(run_dirs: Iterable[str | Path]) -> dict[str, list[Path]]:
    """Puts runs together that differ in nothing but their seed.

    Args:
        run_dirs: The runs' directories.

    Returns:
        The directories of each group by its label, groups and runs in the order given.
        A label is the agent's class and the task; where that is the same of several
        groups, also the fields of the configs in which these differ.

    Raises:
        FileNotFoundError: A run has no config.
        ValueError: A config is damaged.
    """
    groups: list[tuple[str, dict[str, Any], list[Path]]] = []
    for run_dir in map(Path, run_dirs):
        config = read_config(run_dir)
        fields = flat_fields({name: config[name] for name in config if name != "seed"})
        task = str(fields.get("env_cfg.task_name", "an unknown task"))
        title = f"{algorithm_of(run_dir).replace(UNKNOWN, 'unknown agent')} on {task}"
        for known, theirs, runs in groups:
            if (known, theirs) == (title, fields):
                runs.append(run_dir)
                break
        else:
            groups.append((title, fields, [run_dir]))
    named: dict[str, list[Path]] = {}
    for title, fields, runs in groups:
        alike = [theirs for other, theirs, _ in groups if other == title]
        label = title + _differences(fields, alike)
        # Values are cut where they are long, and may then look the same.
        named[label if label not in named else f"{label} #{len(named)}"] = runs
    return named


def _at(curve: Curve, grid: np.ndarray) -> np.ndarray:
    # Environments end episodes in one step: of these, the last says it for all.
    last = np.append(np.diff(curve.x) > 0, True)
    return np.interp(grid, curve.x[last], curve.y[last])


def _bootstrap(
    values: np.ndarray,
    statistic: Callable[[np.ndarray], Any],
    confidence: float,
    seed: int,
) -> np.ndarray:
    """Returns `[2, ...]`, the ends of the percentile interval of `[n, ...]` values."""
    check_number("confidence", confidence, 0, 1, open_low=True, open_high=True)
    check_int("seed", seed, 0, MAX_SEED)
    draw, n = np.random.default_rng(seed), len(values)
    resampled = [statistic(values[draw.integers(n, size=n)]) for _ in range(RESAMPLES)]
    return np.quantile(resampled, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)


def _differences(fields: dict[str, Any], alike: list[dict[str, Any]]) -> str:
    """Says how a group differs from those of the same title, as ` (rate 0.1, ...)`."""
    parts = []
    for path in dict.fromkeys(path for theirs in alike for path in theirs):
        value, name = fields.get(path, ABSENT), path.rpartition(".")[2]
        if any(theirs.get(path, ABSENT) != value for theirs in alike):
            parts.append(f"no {name}" if value is ABSENT else f"{name} {short(value)}")
    return f" ({', '.join(parts)})" if parts else ""
