"""What figures are told to draw."""

import sys

import numpy as np
import pytest

from kitae.runs import Curve, plot_runs
from kitae.runs.figures import COLOURS, literal, readable, render, thinned, window_for


def drawn(text, kind="svg"):
    rc = {"svg.fonttype": "none"}
    return render(lambda axes: axes.set_title(literal(text)), kind, (4, 3), rc)


@pytest.mark.parametrize("text", ["$1$", "a_b^c", "<b>&", r"\alpha $x", r"\$", "$$$"])
def test_a_text_is_drawn_as_it_stands(text):
    shown = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    assert f">{shown}</text>" in drawn(text).decode()


def test_what_no_file_may_hold_is_replaced():
    assert literal("a\0\n\ud800b") == "a\ufffd\ufffd\ufffdb"
    assert literal("x" * 500) == "x" * 119 + "…"


def test_a_figure_is_the_same_bytes_again_and_tells_no_date():
    for kind in ("png", "svg"):
        assert drawn("one", kind) == drawn("one", kind)
    assert b"<dc:date>" not in drawn("one")


def test_nothing_of_pyplot_is_used(write_run, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # cannot be imported
    assert plot_runs([write_run(episodes=[(1, 1.0, 1)])], "out.png")


@pytest.mark.parametrize(
    "value, shown",
    [
        (0, "0"),
        (999, "999"),
        (1_000, "1k"),
        (-2_500, "−2.5k"),
        (1e5, "100k"),
        (1.25e7, "12.5M"),
        (3e9, "3G"),
        (1e-7, "1e−07"),
        (0.1 + 0.2, "0.3"),
    ],
)
def test_numbers_are_readable(value, shown):
    assert readable(value) == shown


@pytest.mark.parametrize(
    "n, metric, window",
    [
        (5, "episode_return", 1),
        (199, "episode_length", 19),
        (5_000, "episode_return", 100),
        (5_000, "loss", 1),
    ],
)
def test_how_much_is_smoothed_if_nobody_says(n, metric, window):
    curve = Curve(np.arange(n), np.arange(n))
    assert window_for(curve, metric) == window
    assert window_for(curve, metric, 7) == 7


def test_a_long_curve_is_thinned_and_keeps_its_ends():
    long = Curve(np.arange(12_345.0), np.arange(12_345.0) ** 2)
    thin = thinned(long)
    assert len(thin.x) == 1_000
    assert (thin.x[0], thin.x[-1]) == (0, 12_344)
    assert (np.diff(thin.x) >= 12).all()
    np.testing.assert_array_equal(thin.y, thin.x**2)
    short = Curve(long.x[:1_000], long.y[:1_000])
    assert thinned(short) is short


def luminance(colour):
    """Of the Web Content Accessibility Guidelines."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_every_colour_is_seen_on_white_and_no_two_are_equally_bright():
    values = [luminance(colour) for colour in COLOURS]
    assert all((1.05) / (value + 0.05) > 2 for value in values)
    assert len({round(value, 2) for value in values}) == len(COLOURS)
