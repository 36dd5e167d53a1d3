"""Which speed tricks are on: what `KITAE_XLA` says, and what this JAX has.

`KITAE_XLA=off` switches all off, `KITAE_XLA=-hoist,-threads` the named ones. Each
package of Kitae reads the variable itself; the names and their meaning are the same in
all of them.
"""

import functools
import os
import warnings
from typing import Any

import jax

VARIABLE = "KITAE_XLA"
NAMES = (
    "callback",
    "convolutions",
    "drawn-bits",
    "hoist",
    "one-kernel",
    "pack",
    "quick-compile",
    "threads",
)


def active(name: str) -> bool:
    """Whether a trick is used: it is switched on and works on this version of JAX."""
    off = switched_off(os.environ.get(VARIABLE, ""))
    return name not in off and works(name)


@functools.cache
def switched_off(value: str) -> frozenset[str]:
    """Returns the names of the tricks that a value of `KITAE_XLA` switches off.

    Raises:
        ValueError: It is neither empty, nor `off`, nor a list like `-hoist,-threads`.
    """
    if value in ("", "off"):
        return frozenset(NAMES if value else ())
    items = [item.strip() for item in value.split(",")]
    if any(item[:1] != "-" or item[1:] not in NAMES for item in items):
        raise ValueError(
            f"{VARIABLE} must be 'off' or a list such as '-{NAMES[0]},-{NAMES[1]}' of "
            f"{', '.join('-' + name for name in NAMES)}, got {value!r}"
        )
    return frozenset(item[1:] for item in items)


@functools.cache
def works(name: str) -> bool:
    """Whether this version of JAX has what a trick needs; warns once if not."""
    lacks = name == "one-kernel" and xla_request() is None
    if lacks:
        warnings.warn(
            f"The speed trick {name!r} does not work with JAX {jax.__version__} and is "
            "off; results are the same, but slower: it has no set_xla_metadata",
            RuntimeWarning,
            stacklevel=3,
        )
    return not lacks


@functools.cache
def xla_request() -> Any:
    """Returns `set_xla_metadata`; None where this version of JAX lacks it."""
    # Imported at first use: it is not part of JAX's public API.
    try:
        from jax.experimental.xla_metadata import set_xla_metadata
    except ImportError:
        return None
    return set_xla_metadata
