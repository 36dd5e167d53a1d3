"""`kitae runs`, `kitae plot` and `kitae report`: what runs left, to look at."""

from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console
from rich.table import Table

from kitae.algos.cli.settings import RunDir, check_run
from kitae.algos.cli.terminal import cell, say, show
from kitae.base.rundir.directory import CONFIG
from kitae.runs import find_runs, plot_runs, write_report

WIDE = 110  # columns of a terminal
STYLES = {
    "finished": "green",
    "running": "bold cyan",
    "interrupted": "yellow",
    "only begun": "yellow",
    "damaged": "bold red",
}


def runs(root: tyro.conf.Positional[Path] = Path("runs")) -> None:
    """Lists the runs in a folder, the newest last.

    Args:
        root: The folder.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"there is no folder {root}")
    found = sorted(find_runs(root), key=lambda run: run.modified)
    # Runs are mostly named by them.
    wide = Console().width >= WIDE
    columns = ["run", *(["agent", "task", "seed"] if wide else [])]
    table = Table(*columns, box=None, header_style="bold")
    for name in ("steps", "return", "best", "time"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("state", no_wrap=True)
    for run in found:
        minutes, seconds = divmod(round(run.seconds), 60)
        table.add_row(
            cell(run.name),
            *(map(cell, [run.algorithm, run.task, run.seed]) if wide else []),
            f"{run.env_steps:,}",
            _return(run.last_return),
            _return(run.best_return),
            f"{minutes}:{seconds:02}",
            cell(run.state, STYLES[run.state]),
        )
    if found:
        show(table)
    else:
        say(f"no runs in {root}")
    for run in found:
        for problem in filter(None, run.problem.split("\n")):
            say(f"{run.name}: {problem}")


def _return(value: float | None) -> str:
    return "" if value is None else f"{value:,.1f}"


def plot(
    run_dirs: Annotated[
        tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[RUN_DIR ...]")
    ],
    out: Path = Path("learning-curves"),
    metric: str = "episode_return",
    x: Literal["env_steps", "seconds"] = "env_steps",
    smooth: int | None = None,
) -> None:
    """Draws the learning curves of runs, as PNG and SVG.

    Args:
        run_dirs: The runs' directories; of a folder of runs, all that are in it. Those
            that differ in their seed alone are drawn together: their interquartile
            mean, with its 95 % bootstrap interval.
        out: The file: of .png or .svg only this; without a suffix, both.
        metric: episode_return, episode_length or a column of metrics.csv.
        x: What it is drawn over.
        smooth: Points in the running mean, at least 1. Default: a tenth of a run's
            episodes, at most 100.
    """
    if not run_dirs:
        raise ValueError("plot needs the directories of runs, such as runs/*")
    for path in plot_runs(_expanded(run_dirs), out, metric=metric, x=x, smooth=smooth):
        say(path)


def _expanded(paths: tuple[Path, ...]) -> list[Path]:
    found = []
    for path in paths:
        runs = [] if (path / CONFIG).exists() else [r.run_dir for r in find_runs(path)]
        if not runs:
            check_run(path)
        found += runs or [path]
    return found


def report(
    run_dir: RunDir,
    out: Annotated[Path | None, tyro.conf.arg(metavar="PATH")] = None,
) -> None:
    """Writes one page of HTML on a run: curves, evaluations, config, system, videos.

    Args:
        run_dir: The run's directory.
        out: The file. Default: <run_dir>/report.html.
    """
    check_run(run_dir)
    say(write_report(run_dir, out))
