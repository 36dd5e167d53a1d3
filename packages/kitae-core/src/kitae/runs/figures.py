"""Figures: one run's curve, a histogram; the settings of matplotlib for them.

Nothing of pyplot is used, so no window is opened and nothing outlives a call.
"""

import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from kitae.runs.curves import OF_EPISODES, Curve, smoothed

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Of Okabe and Ito (2008), told apart by the colour-blind; without yellow and black,
# which fade on white and on dark pages.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
STYLES = ("-", "--", ":", "-.")
X_LABELS = {"env_steps": "environment steps", "seconds": "training time (s)"}
Y_LABELS = {
    "episode_return": "return of an episode",
    "episode_length": "length of an episode (steps)",
    "eval_return": "mean return of an evaluation",
    "steps_per_second": "environment steps per second",
}
MAX_SMOOTH = 100
MAX_POINTS = 1_000
MAX_LABEL = 120
RC = {
    "svg.hashsalt": "kitae",  # else the names in a file are drawn at random
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.2,
    "legend.frameon": False,
}


def render(
    draw: Callable[["Axes"], None],
    kind: Literal["png", "svg"],
    size: tuple[float, float],
    rc: dict[str, Any] | None = None,
) -> bytes:
    """Draws a figure; the same one is the same bytes.

    Args:
        draw: Called with the axes.
        kind: Of picture.
        size: Width and height in inches.
        rc: Settings of matplotlib's.

    Raises:
        ImportError: The extra is not installed.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError(
            'plots need matplotlib: pip install "kitae-core[plot]"'
        ) from None
    content = io.BytesIO()
    settings: Any = {**RC, **(rc or {})}
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure.add_subplot())
        written = {"png": "Software", "svg": "Date"}  # by whom, when: left out
        figure.savefig(content, format=kind, dpi=150, metadata={written[kind]: None})
    return content.getvalue()


def label_axes(axes: "Axes", x_label: str, y_label: str) -> None:
    """Writes what the axes are, and numbers that can be read at a glance."""
    axes.set_xlabel(literal(x_label))
    axes.set_ylabel(literal(y_label))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: readable(value))


def draw_run(axes: "Axes", curve: Curve, metric: str, window: int, colour: str) -> None:
    """Draws one run: what was measured lightly, and its running mean.

    Args:
        axes: Drawn on.
        curve: At least one point.
        metric: What it is of.
        window: Points in the running mean.
        colour: Of both.
    """
    unit = "episodes" if metric in OF_EPISODES else "values"
    raw, mean = thinned(curve), thinned(smoothed(curve, window))
    if window == 1:
        axes.plot(raw.x, raw.y, color=colour, label=unit)
        return
    axes.plot(raw.x, raw.y, ".", color=colour, alpha=0.3, mew=0, label=unit)
    axes.plot(mean.x, mean.y, color=colour, label=f"mean of the last {window} {unit}")


def window_for(curve: Curve, metric: str, smooth: int | None = None) -> int:
    """Returns over how many points to smooth.

    Args:
        curve: What is to be smoothed.
        metric: What it is of.
        smooth: What the user said. None: a tenth of the episodes, at most 100; rows of
            `metrics.csv`, which are means already, stay as they are.

    Example:
        >>> window_for(Curve(np.arange(500.0), np.zeros(500)), "episode_return")
        50
    """
    if smooth is not None:
        return smooth
    return max(1, min(MAX_SMOOTH, len(curve.x) // 10)) if metric in OF_EPISODES else 1


def thinned(curve: Curve) -> Curve:
    """Returns at most 1,000 points of a curve, evenly taken, the ends among them."""
    if len(curve.x) <= MAX_POINTS:
        return curve
    taken = np.linspace(0, len(curve.x) - 1, MAX_POINTS).round().astype(int)
    return Curve(curve.x[taken], curve.y[taken])


def readable(value: float) -> str:
    """Writes a number as it is read at a glance.

    Example:
        >>> [readable(value) for value in (0.25, 500.0, -1_500.0, 100_000.0, 2e6)]
        ['0.25', '500', '−1.5k', '100k', '2M']
    """
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= unit:
            return f"{value / unit:g}{name}".replace("-", "−")
    return f"{value:g}".replace("-", "−")


def literal(text: str) -> str:
    r"""Returns a text that is drawn as it stands: no formula, and not too long.

    Example:
        >>> literal("reward in $")
        'reward in \\$'
    """
    shown = "".join(letter if letter.isprintable() else "\ufffd" for letter in text)
    if len(shown) > MAX_LABEL:
        shown = shown[: MAX_LABEL - 1] + "…"
    return shown.replace("$", r"\$")
