"""Looking at runs: what there are, how they learned, plots and reports of them."""

from kitae.runs.curves import (
    Band,
    Curve,
    aggregate,
    group_runs,
    interval,
    iqm,
    read_curve,
    smoothed,
)
from kitae.runs.listing import RunSummary, find_runs, read_config, read_run

__all__ = [
    "Band",
    "Curve",
    "RunSummary",
    "aggregate",
    "find_runs",
    "group_runs",
    "interval",
    "iqm",
    "read_config",
    "read_curve",
    "read_run",
    "smoothed",
]
