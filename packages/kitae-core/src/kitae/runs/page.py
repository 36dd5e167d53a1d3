"""A run as one page of HTML that needs nothing else, to be kept and sent."""

import base64
import os
import re
import reprlib
import stat
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

from kitae.base.rundir.files import check_folder, read_file, write_file
from kitae.runs.curves import OF_EPISODES, Curve, read_curve, smoothed
from kitae.runs.evaluations import Evaluation, read_evaluations
from kitae.runs.figures import (
    X_LABELS,
    Y_LABELS,
    draw_run,
    label_axes,
    readable,
    render,
    window_for,
)
from kitae.runs.listing import (
    flat_fields,
    read_config,
    read_run,
    read_system,
)
from kitae.runs.tables import STEP, read_metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes

REPORT = "report.html"
EMBEDDED_BYTES = 30_000_000
SIZE = (4.6, 3.0)
BINS = 20
# Colours that stand for the page's own, which follow its scheme, light or dark.
INK, ACCENT = "#0a0b0c", "#0d0e0f"
RC = {
    "svg.fonttype": "none",  # text that can be read, in the page's font
    "savefig.transparent": True,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": INK,
}
NOT_DRAWN = {STEP, "updates", "seconds", "episodes", *OF_EPISODES}
T = TypeVar("T")

_repr = reprlib.Repr()
_repr.maxlevel, _repr.maxlist, _repr.maxother = 3, 20, 200


def write_report(run_dir: str | Path, out: str | Path | None = None) -> Path:
    """Writes a page about a run. Needs `pip install "kitae-core[report]"`.

    The page loads nothing and runs nothing. Videos of more than 30 MB in all are not
    in it but linked, and have to stay where they are. The page says what cannot be read
    of the run.

    Args:
        run_dir: The run's directory; a training may be going on there.
        out: The file, which is replaced. Default: `report.html` in the directory.

    Returns:
        The file.

    Raises:
        FileNotFoundError: There is no such directory.
        OSError: The page could not be written; what was there before still is.
        ImportError: The extra is not installed.

    Example:
        >>> write_report("runs/first")  # doctest: +SKIP
        PosixPath('runs/first/report.html')
    """
    template = _template()
    run_dir = Path(run_dir)
    out = run_dir / REPORT if out is None else Path(out)
    html = template.render(_content(run_dir, out.parent))
    out.parent.mkdir(parents=True, exist_ok=True)
    # JSON may hold halves of characters, which no file can.
    write_file(out, html.encode("utf-8", "replace"), synced=False)
    return out


def _template() -> Any:
    try:
        import jinja2
        import matplotlib  # noqa: F401, which the plots need
    except ImportError:
        raise ImportError(
            'reports need jinja2 and matplotlib: pip install "kitae-core[report]"'
        ) from None
    source = Path(__file__).with_name("report.html.jinja").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.from_string(source)


def _content(run_dir: Path, folder: Path) -> dict[str, Any]:
    """Returns what the template shows of a run, on a page that lies in `folder`."""
    run = read_run(run_dir)
    problems = run.problem.splitlines()

    def attempt(read: Callable[[Path], T], default: T) -> T:
        try:
            return read(run_dir)
        except FileNotFoundError:
            return default
        except (OSError, ValueError) as error:
            if str(error) not in problems:
                problems.append(str(error))
            return default

    evaluations = attempt(read_evaluations, [])
    content = {
        "run": run,
        "time": readable_time(run.seconds),
        "curves": attempt(_curves, []),
        "evaluations": evaluations,
        "histogram": _histogram(evaluations[-1]) if evaluations else "",
        "config": _sections(attempt(read_config, {})),
        "system": list(map(_entry, attempt(read_system, []))),
        "videos": attempt(lambda run_dir: _videos(run_dir, folder), []),
    }
    return {**content, "problems": problems}


def readable_time(seconds: float) -> str:
    """Writes a time as it is read at a glance.

    Example:
        >>> [readable_time(seconds) for seconds in (3.21, 65.0, 7_260.0)]
        ['3.2 s', '1 min 5 s', '2 h 1 min']
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def _curves(run_dir: Path) -> list[dict[str, str]]:
    """Draws every metric that has points; returns `title`, `how` and `svg` of each."""
    names = [name for name in read_metrics(run_dir) if name not in NOT_DRAWN]
    figures = []
    for metric in (*OF_EPISODES, "eval_return", *names):
        curve = read_curve(run_dir, metric)
        if len(curve.x):
            figures.append(_curve(curve, metric, f"c{len(figures)}"))
    return figures


def _curve(curve: Curve, metric: str, name: str) -> dict[str, str]:
    window = window_for(curve, metric)
    title = Y_LABELS[metric].capitalize() if metric in Y_LABELS else metric
    how = f"dots: episodes; line: mean of the last {window}" if window > 1 else ""

    def draw(axes: "Axes") -> None:
        label_axes(axes, X_LABELS["env_steps"], "")
        draw_run(axes, curve, metric, window, ACCENT)

    y = smoothed(curve, window).y
    alt = (
        f"{title} over {readable(curve.x[-1])} environment steps: {readable(y[0])} at "
        f"the start, {readable(y[-1])} at the end, at least {readable(y.min())}, at "
        f"most {readable(y.max())}"
    )
    return {"title": title, "how": how, "svg": _svg(draw, name, alt)}


def _histogram(evaluation: Evaluation) -> str:
    low, high = min(evaluation.returns), max(evaluation.returns)

    def draw(axes: "Axes") -> None:
        label_axes(axes, "return of an episode", "episodes")
        axes.hist(evaluation.returns, BINS if low < high else 1, color=ACCENT)

    alt = f"histogram of returns from {readable(low)} to {readable(high)}"
    return _svg(draw, "h", alt)


def _svg(draw: Callable[["Axes"], None], name: str, alt: str) -> str:
    """Draws a figure in the colours of the page, with ids that begin with `name`."""
    text = render(draw, "svg", SIZE, RC).decode()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    text = re.sub(r'( id="|url\(#|href="#)', rf"\g<1>{name}-", text)
    text = text.replace(INK, "currentColor").replace(ACCENT, "var(--accent)")
    return text.replace("<svg ", f'<svg role="img" aria-label="{escape(alt)}" ', 1)


def _sections(config: dict[str, Any]) -> dict[str, list[tuple[str, str]]]:
    """Returns the rows of the config's tables: of the whole, and of each part."""
    parts = {name: part for name, part in config.items() if isinstance(part, dict)}
    whole = {name: value for name, value in config.items() if name not in parts}
    sections = {"config": _fields(whole)} if whole else {}
    return sections | {name: _fields(part) for name, part in parts.items()}


def _entry(entry: Any) -> tuple[str, list[tuple[str, str]]]:
    """Returns title and rows of an entry of `system.json`; packages by their names."""
    if not isinstance(entry, dict):
        return "damaged", _fields(entry)
    rows = {name: value for name, value in entry.items() if name != STEP}
    packages = rows.pop("packages", {})
    rows |= packages if isinstance(packages, dict) else {}
    texts = [(name, _shown(value)) for name, value in rows.items()]
    return f"from environment step {_shown(entry.get(STEP))}", texts


def _fields(part: Any) -> list[tuple[str, str]]:
    fields = flat_fields(part) if isinstance(part, dict) else {"": part}
    return [(name, _shown(value)) for name, value in fields.items()]


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else _repr.repr(value)
    return text if len(text) <= 1_000 else text[:999] + "…"


def _videos(run_dir: Path, folder: Path) -> list[dict[str, str]]:
    """Returns `name` and `src` of each video; no link is followed, nor one of a folder.

    Raises:
        ValueError: The folder `videos` is a link.
    """
    root = check_folder(run_dir / "videos")
    videos = sorted(
        path
        for place, _, names in os.walk(root)  # which follows no links
        for name in names
        if (path := Path(place, name)).suffix == ".mp4"
        and stat.S_ISREG(path.lstat().st_mode)
    )
    embedded = sum(path.lstat().st_size for path in videos) < EMBEDDED_BYTES
    return [
        {
            "name": path.relative_to(root).as_posix(),
            "src": _data(path) if embedded else _link(path, folder),
        }
        for path in videos
    ]


def _data(path: Path) -> str:
    content = base64.b64encode(read_file(path, EMBEDDED_BYTES))
    return "data:video/mp4;base64," + content.decode()


def _link(path: Path, folder: Path) -> str:
    return quote(Path(os.path.relpath(path, folder)).as_posix())
