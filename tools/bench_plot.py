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

import matplotlib
from bench_sides import ROOT, Row, as_table, read_rows

matplotlib.use("agg")
from matplotlib import pyplot as plt

KITAE, ASKED = "#1f5f8b", "#c2410c"


def draw(rows: Sequence[Row], path: Path) -> None:
    """Draws the ratios, one line each, the largest first."""
    rows = sorted(rows, key=lambda row: statistics.median(row.faster))
    figure, axes = plt.subplots(figsize=(9, 0.36 * len(rows) + 1.2))
    for place, row in enumerate(rows):
        middle = statistics.median(row.faster)
        axes.plot([min(row.faster), max(row.faster)], [place] * 2, color=KITAE)
        axes.plot(middle, place, "o", color=KITAE)
        if row.target is not None:
            axes.plot(row.target, place, "|", color=ASKED, markersize=14)
    axes.axvline(1.0, color="grey", linewidth=0.8)
    axes.set_xscale("log")
    ticks = [0.5, 1, 2, 5, 10, 20]
    axes.set_xticks(ticks, [f"{tick:g} ×" for tick in ticks])
    axes.set_yticks(
        range(len(rows)), [f"{row.what} | {row.against}" for row in rows], fontsize=8
    )
    axes.set_xlabel("times as fast as the other; the mark: what is asked for")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)


def main() -> None:
    """Prints the table and draws the plot."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    docs = ROOT / "docs"
    parser.add_argument("--json", type=Path, default=docs / "benchmarks.json")
    parser.add_argument("--plot", type=Path, default=docs / "_static/benchmarks.svg")
    args = parser.parse_args()
    rows = read_rows(args.json)
    print(as_table(rows))
    draw([row for row in rows if row.target is not None], args.plot)


if __name__ == "__main__":
    main()
