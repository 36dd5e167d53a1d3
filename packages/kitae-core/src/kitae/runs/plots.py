"""Plots of runs as files, for papers and for a look in between."""

import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from kitae.base.rundir.files import write_file
from kitae.config import check_int
from kitae.runs.curves import Band, Curve, aggregate, group_runs, read_curve, smoothed
from kitae.runs.figures import (
    COLOURS,
    STYLES,
    X_LABELS,
    Y_LABELS,
    draw_run,
    label_axes,
    literal,
    render,
    thinned,
    window_for,
)
from kitae.runs.listing import read_config

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIZE = (6.4, 4.2)
CONFIDENCE = 0.95


def plot_runs(
    run_dirs: Iterable[str | Path],
    out: str | Path,
    *,
    metric: str = "episode_return",
    x: Literal["env_steps", "seconds"] = "env_steps",
    smooth: int | None = None,
) -> list[Path]:
    """Draws learning curves. Needs `pip install "kitae-core[plot]"`.

    One run is drawn as it was measured, with its running mean. Of several, runs that
    differ in their seed alone are drawn together: the interquartile mean over them and
    its 95% bootstrap interval, over the range that all of them have. A run that has no
    point yet is left out.

    Args:
        run_dirs: The runs' directories.
        out: The file, which is replaced: `.png` or `.svg`; without a suffix, both.
        metric: As for `read_curve`.
        x: What it is drawn over.
        smooth: Points in the running mean, at least 1. Default: a tenth of a run's
            episodes, at most 100; for other metrics 1.

    Returns:
        The files written.

    Raises:
        ValueError: There is no run, no point of any, or no such metric; `out` is of
            another kind, or a file is damaged.
        FileNotFoundError: A run has no config.
        OSError: A file could not be written; what was there before still is.
        ImportError: The extra is not installed.

    Example:
        >>> plot_runs(["runs/first"], "first.svg")  # doctest: +SKIP
        [PosixPath('first.svg')]
    """
    run_dirs, outputs = list(map(Path, run_dirs)), _outputs(Path(out))
    if smooth is not None:
        check_int("smooth", smooth, 1)
    groups = {}
    for label, paths in group_runs(run_dirs).items():
        curves = [read_curve(path, metric, x) for path in paths]
        groups[label] = [curve for curve in curves if len(curve.x)]
    drawn = {label: curves for label, curves in groups.items() if curves}
    if not drawn:
        raise ValueError(f"run_dirs must hold {metric}, got {list(map(str, run_dirs))}")

    def draw(axes: "Axes") -> None:
        label_axes(axes, X_LABELS[x], Y_LABELS.get(metric, metric))
        if len(run_dirs) == 1:
            ((label, (curve,)),) = drawn.items()
            seed = read_config(run_dirs[0]).get("seed")
            window = window_for(curve, metric, smooth)
            draw_run(axes, curve, metric, window, COLOURS[0])
            _legend(axes, f"{label}, seed {seed}")
            return
        for i, (label, curves) in enumerate(drawn.items()):
            even = [smoothed(c, window_for(c, metric, smooth)) for c in curves]
            _draw_group(axes, label, even, i)
        _legend(axes, "interquartile mean over runs, 95% bootstrap interval")

    for path in outputs:
        kind = "png" if path.suffix == ".png" else "svg"
        content = render(draw, kind, SIZE)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, content, synced=False)
    return outputs


def _outputs(out: Path) -> list[Path]:
    if out.suffix in (".png", ".svg"):
        return [out]
    if out.suffix:
        raise ValueError(f"out must end in .png, in .svg or in neither, got {out}")
    return [out.with_name(out.name + suffix) for suffix in (".png", ".svg")]


def _draw_group(axes: "Axes", label: str, curves: list[Curve], index: int) -> None:
    """Draws runs that differ in their seed alone."""
    colour = COLOURS[index % len(COLOURS)]
    style = STYLES[index // len(COLOURS) % len(STYLES)]
    if len(curves) == 1:
        line = thinned(curves[0])
        axes.plot(line.x, line.y, style, color=colour, label=_label(label, 1))
        return
    band: Band = aggregate(curves, confidence=CONFIDENCE)
    axes.fill_between(band.x, band.low, band.high, color=colour, alpha=0.2, lw=0)
    axes.plot(band.x, band.iqm, style, color=colour, label=_label(label, band.n))


def _label(group: str, n_runs: int) -> str:
    label = f"{literal(group)}, {n_runs} run{'s' if n_runs > 1 else ''}"
    return textwrap.fill(label, 70)


def _legend(axes: "Axes", title: str) -> None:
    """Writes the legend below the axes, where it covers nothing."""
    figure = axes.get_figure()
    assert figure is not None
    figure.legend(
        axes.lines,
        [str(line.get_label()) for line in axes.lines],
        title=textwrap.fill(literal(title), 70),
        loc="outside lower center",
    )
