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
from kitae.runs.evaluations import Evaluation, read_evaluations
from kitae.runs.listing import RunSummary, find_runs, read_config, read_run
from kitae.runs.page import write_report
from kitae.runs.plots import plot_runs

__all__ = [
    "Band",
    "Curve",
    "Evaluation",
    "RunSummary",
    "aggregate",
    "find_runs",
    "group_runs",
    "interval",
    "iqm",
    "plot_runs",
    "read_config",
    "read_curve",
    "read_evaluations",
    "read_run",
    "smoothed",
    "write_report",
]
