"""Which speed tricks are used here, and why others are not."""

import os
from typing import NamedTuple

from kitae.base.xla import (
    callback,
    compiling,
    convolutions,
    hoisting,
    switches,
    threads,
)

# A file registers its probe when it is imported.
WITH_PROBES = callback, compiling, convolutions, hoisting, threads


class Row(NamedTuple):
    """One line of the report.

    Attributes:
        name: What `KITAE_XLA` calls the trick.
        state: `on`, or `off` with the reason.
        gain: What it gains.
    """

    name: str
    state: str
    gain: str


def report() -> list[Row]:
    """Tries every trick of this package, and returns a row for each of Kitae's.

    The tricks of other packages try themselves when they are used; their rows say only
    whether they are switched on.
    """
    off = switches.switched_off(os.environ.get(switches.VARIABLE, ""))
    rows = []
    for trick in switches.TRICKS.values():
        if trick.name in off:
            state = f"off: {switches.VARIABLE}"
        else:
            reason = switches.failure(trick.name)
            state = "on" if reason is None else f"off: {reason}"
        rows.append(Row(trick.name, state, trick.gain))
    return rows


def as_text(rows: list[Row]) -> str:
    """Returns the report as a table of lines."""
    widths = [max(len(row[i]) for row in rows) for i in range(2)]
    lines = [
        f"{row.name:{widths[0]}}  {row.state:{widths[1]}}  {row.gain}" for row in rows
    ]
    return "\n".join(lines) + "\n"
