"""All that was measured beside peers, as a table and a plot.

    hatch run bench:plot

The other benchmarks add to a file by `--json docs/benchmarks.json`; this reads it,
prints the table, and draws how many times as fast Kitae is: the medians, with their
extremes, and a mark where a ratio is asked for.
"""

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench_sides import ROOT, Row, as_table, read_rows

from kitae.runs.figures import COLOURS, render

KITAE, ASKED = COLOURS[:2]
TICKS = (0.5, 1, 2, 5, 10, 20)


def draw(axes: Any, rows: Sequence[Row]) -> None:
    """Draws the ratios, one line each, the largest first."""
    rows = sorted(rows, key=lambda row: statistics.median(row.faster))
    for place, row in enumerate(rows):
        axes.plot([min(row.faster), max(row.faster)], [place] * 2, color=KITAE)
        axes.plot(statistics.median(row.faster), place, "o", color=KITAE)
        if row.target is not None:
            axes.plot(row.target, place, "|", color=ASKED, markersize=14)
    axes.axvline(1.0, color="grey", linewidth=0.8)
    axes.set_xscale("log")
    axes.set_xticks(TICKS, [f"{tick:g} ×" for tick in TICKS])
    names = [f"{row.what} | {row.against}" for row in rows]
    axes.set_yticks(range(len(rows)), names, fontsize=8)
    axes.set_xlabel("times as fast as the other; the mark: what is asked for")


def main() -> None:
    """Prints the table and draws the plot."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    docs = ROOT / "docs"
    parser.add_argument("--json", type=Path, default=docs / "benchmarks.json")
    parser.add_argument("--plot", type=Path, default=docs / "_static/benchmarks.svg")
    args = parser.parse_args()
    rows = read_rows(args.json)
    print(as_table(rows))
    asked = [row for row in rows if row.target is not None]
    size = (9, 0.36 * len(asked) + 1.2)
    args.plot.write_bytes(render(lambda axes: draw(axes, asked), "svg", size))


if __name__ == "__main__":
    main()
