"""The CSV files of a run, read as columns of numbers."""

import csv
import os
from array import array
from pathlib import Path

import numpy as np

from kitae.base.rundir.tables import LARGEST, whole_lines

METRICS, EPISODES = "metrics.csv", "episodes.csv"
EVALUATIONS = "evaluations.csv"
STEP = "env_step"
Columns = dict[str, np.ndarray]


def read_metrics(run_dir: Path) -> Columns:
    """Reads a run's `metrics.csv`, which may be being written.

    Returns:
        `[n_rows]` float64 of each column by its name, NaN where a cell is empty;
        `env_step` and `seconds` are there in any case, and finite.

    Raises:
        ValueError: The file is damaged.
    """
    return _read(run_dir / METRICS, (STEP, "seconds"))


def read_episodes(run_dir: Path) -> Columns:
    """Reads a run's `episodes.csv`; see `read_metrics`.

    Returns:
        `[n_episodes]` float64 of each column by its name; `env_step`, `return` and
        `length` are there in any case, and finite.

    Raises:
        ValueError: The file is damaged.
    """
    return _read(run_dir / EPISODES, (STEP, "return", "length"))


def read_evaluations(run_dir: Path) -> Columns:
    """Reads a run's `evaluations.csv`; see `read_metrics`.

    Returns:
        `[n_evaluations]` float64 of each column by its name; `env_step`, `seconds` and
        `return_mean` are there in any case, and finite.

    Raises:
        ValueError: The file is damaged.
    """
    return _read(run_dir / EVALUATIONS, (STEP, "seconds", "return_mean"))


def _read(path: Path, required: tuple[str, ...]) -> Columns:
    if not os.path.lexists(path):
        return {name: np.empty(0) for name in required}
    try:
        # Of the last line a training may have written a part.
        rows = csv.reader(whole_lines(path))
        header = next(rows, None)
        if not header:
            raise ValueError("it has no header")
        cells = array("d")
        for row in rows:
            if len(row) != len(header):
                raise ValueError(
                    f"a row has {len(row)} cells, the header {len(header)}"
                )
            cells.extend(float(cell or "nan") for cell in row)
        table = np.array(cells).reshape(-1, len(header))
        columns = dict(zip(header, table.T, strict=True))
        for name in required:
            if not np.isfinite(columns[name]).all():
                raise ValueError(f"a row has no {name}")
        if (np.abs(table[np.isfinite(table)]) > LARGEST).any():
            raise ValueError(f"a number is larger than {LARGEST:g}")
        if (columns[STEP] < 0).any():
            raise ValueError(f"{STEP} is below 0")
    except (OSError, ValueError, KeyError, csv.Error) as error:
        raise ValueError(f"{path} is damaged: {error!r:.300}") from None
    return columns


def running_mean(values: np.ndarray, window: int) -> np.ndarray:
    """Returns at each value the mean of the last `window` ones, itself included.

    Args:
        values: `[n]`.
        window: At least 1. At the start, where there are fewer, the mean is of those.

    Example:
        >>> running_mean(np.array([1.0, 3.0, 5.0, 7.0]), 2).tolist()
        [1.0, 2.0, 4.0, 6.0]
    """
    total = np.concatenate([[0.0], np.cumsum(values)])
    end = np.arange(1, len(values) + 1)
    start = np.maximum(end - window, 0)
    return (total[end] - total[start]) / (end - start)
