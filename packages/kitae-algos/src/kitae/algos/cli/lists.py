"""`kitae agents` and `kitae envs`: what there is to choose from."""

import sys
from typing import Literal

import tyro
from rich.table import Table

from kitae.algos.cli.terminal import cell, say, show
from kitae.algos.presets import AGENTS
from kitae.envs.ids import env_ids


def agents() -> None:
    """Lists the agents that can be trained, with their papers."""
    table = Table(box=None, show_header=False)
    for name, agent_type in AGENTS.items():
        about = (sys.modules[agent_type.__module__].__doc__ or "").partition("\n")[0]
        table.add_row(name, cell(about.removesuffix(".")))
    show(table, cut=sys.stdout.isatty())


def envs(
    pattern: tyro.conf.Positional[str] = "",
    backend: Literal["gymnasium", "gymnax", "jumanji"] = "gymnasium",
) -> None:
    """Lists environments by their ids.

    Args:
        pattern: Only those with this in their id, in capitals or not.
        backend: Whose.
    """
    found = [name for name in env_ids(backend) if pattern.lower() in name.lower()]
    if not found:
        raise ValueError(f"no environment of {backend} has {pattern!r} in its id")
    for name in found:
        say(name)
