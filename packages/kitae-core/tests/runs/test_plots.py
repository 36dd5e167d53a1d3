"""Plots of runs: what is drawn of which, and into which files."""

import re
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

import kitae.runs.plots as plots
from kitae.runs import aggregate, plot_runs, read_curve

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def axes_of(monkeypatch):
    """What a call of `plot_runs` draws, as matplotlib has it."""

    def call(*args, **kwargs):
        seen = []
        render = plots.render

        def spying(draw, kind, size):
            return render(lambda axes: seen.append(axes) or draw(axes), kind, size)

        monkeypatch.setattr(plots, "render", spying)
        plot_runs(*args, **kwargs)
        monkeypatch.setattr(plots, "render", render)
        return seen[0]

    return call


def episodes(first=0.0, n=40):
    return [(10 * (i + 1), first + i, 10) for i in range(n)]


def legend_of(axes):
    (legend,) = axes.figure.legends
    return legend.get_title().get_text(), [text.get_text() for text in legend.texts]


@pytest.mark.parametrize(
    "out, written",
    [
        ("new/plot.png", ["new/plot.png"]),
        ("plot.svg", ["plot.svg"]),
        ("plots/all", ["plots/all.png", "plots/all.svg"]),
    ],
)
def test_the_suffix_says_which_files(write_run, out, written):
    run_dir = write_run(episodes=episodes())
    assert plot_runs([run_dir], out) == [Path(name) for name in written]
    for path in map(Path, written):
        content = path.read_bytes()
        if path.suffix == ".png":
            assert content.startswith(PNG)
        else:
            assert ET.fromstring(content).tag == "{http://www.w3.org/2000/svg}svg"
    again = [Path(name).read_bytes() for name in written]
    plot_runs([run_dir], out)
    assert [Path(name).read_bytes() for name in written] == again


def test_one_run_is_drawn_as_measured_and_smoothed(write_run, axes_of):
    run_dir = write_run(episodes=episodes(), seed=3)
    axes = axes_of([run_dir], "plot.png", smooth=2)
    raw, mean = axes.lines
    assert raw.get_ydata().tolist() == [float(i) for i in range(40)]
    assert mean.get_ydata().tolist() == [0.0, *(i + 0.5 for i in range(39))]
    assert axes.get_xlabel() == "environment steps"
    assert axes.get_ylabel() == "return of an episode"
    title, entries = legend_of(axes)
    assert title == "DQN on Count-v1, seed 3"
    assert entries == ["episodes", "mean of the last 2 episodes"]


def test_runs_that_differ_in_their_seed_are_a_band(write_run, axes_of):
    runs = [write_run(f"r{i}", episodes=episodes(i), seed=i) for i in range(5)]
    other = write_run("other", agent="IQN", episodes=episodes(100.0))
    axes = axes_of([*runs, other], "plot.png")
    band, line = axes.lines
    expected = aggregate([read_curve(run, smooth=4) for run in runs])
    assert band.get_xdata().tolist() == expected.x.tolist()
    assert band.get_ydata().tolist() == expected.iqm.tolist()
    (filled,) = axes.collections
    heights = filled.get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == (expected.low.min(), expected.high.max())
    assert line.get_ydata()[0] == 100.0
    title, entries = legend_of(axes)
    assert title == "interquartile mean over runs, 95% bootstrap interval"
    assert entries == ["DQN on Count-v1, 5 runs", "IQN on Count-v1, 1 run"]
    assert band.get_color() != line.get_color()


def test_a_metric_over_seconds(write_run, axes_of):
    rows = [(10, 1.5, 0.5), (20, 3.0, 0.25)]
    run_dir = write_run(metrics=rows, columns=["loss"])
    axes = axes_of([run_dir], "plot.svg", metric="loss", x="seconds")
    (line,) = axes.lines
    assert line.get_xdata().tolist() == [1.5, 3.0]
    assert line.get_ydata().tolist() == [0.5, 0.25]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("training time (s)", "loss")


def test_a_run_without_a_point_is_left_out(write_run, axes_of):
    run, begun = write_run("a", episodes=episodes()), write_run("b", seed=1)
    _, entries = legend_of(axes_of([run, begun], "plot.png"))
    assert entries == ["DQN on Count-v1, 1 run"]


def test_more_groups_than_colours_differ_in_their_lines(write_run, axes_of):
    runs = [write_run(f"r{i}", episodes=episodes(), gamma=i) for i in range(8)]
    lines = axes_of(runs, "plot.png").lines
    looks = {(line.get_color(), line.get_linestyle()) for line in lines}
    assert len(looks) == 8


def test_hostile_names_are_drawn_as_text(write_run):
    task = "$\\frac{$ & \0\ud800 <b>" + "y" * 300
    names = {"agent": "_<script>$x^", "task_name": task}
    runs = [write_run(f"r{i}", episodes=episodes(), gamma=i, **names) for i in range(2)]
    plot_runs(runs, "plot.svg")
    plot_runs(runs[:1], "one.svg")
    for path in (Path("plot.svg"), Path("one.svg")):
        ET.fromstring(path.read_bytes())
        assert "<script" not in path.read_text()


def test_what_cannot_be_drawn_is_refused(write_run):
    run_dir = write_run(columns=["loss"])
    with pytest.raises(
        ValueError, match=r"run_dirs must hold episode_return, got \[\]"
    ):
        plot_runs([], "plot")
    message = re.escape("must hold episode_return, got ['runs/run']")
    with pytest.raises(ValueError, match=message):
        plot_runs([run_dir], "plot")
    with pytest.raises(ValueError, match=r"must end in \.png, in \.svg or .* x\.pdf"):
        plot_runs([run_dir], "x.pdf")
    with pytest.raises(ValueError, match="smooth must be an int of at least 1, got 0"):
        plot_runs([run_dir], "plot", smooth=0)
    with pytest.raises(ValueError, match=r"metric must be one of .*, got 'lost'"):
        plot_runs([run_dir], "plot", metric="lost")
    assert [path.name for path in Path().iterdir()] == ["runs"]


def test_the_extra_is_named_where_it_is_missing(write_run, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r'pip install "kitae-core\[plot\]"'):
        plot_runs([write_run(episodes=episodes())], "plot")
