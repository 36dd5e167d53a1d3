"""The `kitae` command: what it does is in the modules beside this one.

`train` and `sweep` have the options of one agent, which stands behind them, so what can
be asked for depends on what was asked: the command is put together for each call.
"""

import sys
import warnings
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import jax
import tyro

from kitae.algos.cli import evaluation, lists, results, sweep, training
from kitae.algos.cli.terminal import complain, guarded_streams, warning

REFUSED = (
    ValueError,
    TypeError,
    OSError,
    MemoryError,
    RuntimeError,
    FloatingPointError,
    ImportError,
    gym.error.Error,
)


def command(arguments: Sequence[str]) -> dict[str, Any]:
    """Returns the subcommands for these arguments, each by its name."""
    return {
        "train": training.train_command(arguments),
        "resume": training.resume,
        "eval": evaluation.evaluate,
        "plot": results.plot,
        "report": results.report,
        "runs": results.runs,
        "sweep": sweep.sweep_command(arguments),
        "agents": lists.agents,
        "envs": lists.envs,
    }


def main() -> None:
    """Runs the command; a mistake of the user is reported in one line."""
    warnings.formatwarning = warning
    with guarded_streams():
        _run(sys.argv[1:] or ["--help"])


def _run(arguments: Sequence[str]) -> None:
    try:
        tyro.extras.subcommand_cli_from_dict(
            command(arguments),
            prog="kitae",
            description="Trains agents, and shows what they learned.",
            args=arguments,
            config=(tyro.conf.OmitArgPrefixes, tyro.conf.PositionalRequiredArgs),
        )
    except jax.errors.JaxRuntimeError:
        raise  # no user's mistake: all of it is shown
    except REFUSED as error:
        complain(error)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
