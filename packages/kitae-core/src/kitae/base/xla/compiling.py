"""The trick `quick-compile`: a program that runs for a moment is compiled quickly.

It is compiled with fewer optimisations. Without it, a first short training on the host
took 1.12 times as long by the clock, and 1.18 times as much of a processor.

Plain path: XLA's own options, which may round floats differently.
"""

import functools
import os
from typing import Any

import jax
import numpy as np

from kitae.base.xla import switches

QUICKLY = {"xla_backend_optimization_level": 1, "xla_cpu_use_fusion_emitters": False}


def quickly_compiled() -> dict[str, Any]:
    """Returns compiler options for a program that takes longer to compile than to run.

    By default, XLA's CPU backend takes seconds to optimise a few calls of the random
    generator, which then cost a thousandth of a training's time. What `XLA_FLAGS` sets
    stays as it is.
    """
    if jax.default_backend() != "cpu" or not switches.active("quick-compile"):
        return {}
    return known_options(os.environ.get("XLA_FLAGS", ""))


@functools.cache
def known_options(flags: str) -> dict[str, Any]:
    """Returns those of `QUICKLY` that `flags` does not set and this XLA knows."""
    options = {name: value for name, value in QUICKLY.items() if name not in flags}
    if not options or are_known(options):
        return options
    return {name: x for name, x in options.items() if are_known({name: x})}


def are_known(options: dict[str, Any]) -> bool:
    """Whether this version of XLA has such compiler options."""
    try:
        jax.jit(lambda x: x, compiler_options=options)(np.float32(0))
    except jax.errors.JaxRuntimeError:
        return False
    return True


@switches.probe("quick-compile")
def _probe() -> None:
    flags = os.environ.get("XLA_FLAGS", "")
    if not known_options(flags) and not any(name in flags for name in QUICKLY):
        raise RuntimeError(f"XLA knows none of the options {', '.join(QUICKLY)}")
