"""Which of the speed tricks are on.

The environment variable `KITAE_XLA` switches them off: `off` all of them,
`-callback,-hoist` the named ones. A trick that is on is tried once, by its probe,
before it is first used: where it does not work on this version of JAX, a warning says
so, and the plain code runs in its place.
"""

import functools
import os
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import jax

VARIABLE = "KITAE_XLA"


@dataclass(frozen=True)
class Trick:
    """One way to make programs faster.

    Attributes:
        name: What `KITAE_XLA` calls it.
        gain: What it gains, in one sentence.
        measured_by: The command that measures it, once with `KITAE_XLA` and once
            without.
        package: Where its code is.
    """

    name: str
    gain: str
    measured_by: str
    package: str = "kitae.base.xla"


TRICKS = {
    trick.name: trick
    for trick in (
        Trick(
            "callback",
            "host training with 16 environments takes two thirds of the time",
            "hatch run bench:tricks host16 callback",
        ),
        Trick(
            "convolutions",
            "compiled training on images takes a tenth of the time",
            "hatch run bench:tricks frames convolutions",
        ),
        Trick(
            "drawn-bits",
            "a call that draws from a uniform replay takes a quarter of the time",
            "hatch run bench:replay",
            "kitae.buffer",
        ),
        Trick(
            "hoist",
            "a small compiled Rainbow takes a tenth less time, DQN the same",
            "hatch run bench:tricks rainbow hoist",
        ),
        Trick(
            "one-kernel",
            "advantages of 1,000 steps take two fifths of the time",
            "hatch run bench:targets",
            "kitae.buffer, kitae.timesteps",
        ),
        Trick(
            "pack",
            "host training with one environment takes a tenth less time",
            "hatch run bench:tricks host1 pack",
        ),
        Trick(
            "quick-compile",
            "a first short training takes a tenth less time",
            "hatch run bench:tricks start quick-compile",
        ),
        Trick(
            "threads",
            "host training with one environment takes a fourteenth less time",
            "hatch run bench:tricks host1 threads",
        ),
    )
}
NAMES = tuple(TRICKS)

_probes: dict[str, Callable[[], None]] = {}
# By name, why a trick does not work here; None if it does.
_failures: dict[str, str | None] = {}
_lock = threading.RLock()


def active(name: str) -> bool:
    """Whether a trick is used: it is switched on and works on this version of JAX."""
    if name in switched_off(os.environ.get(VARIABLE, "")):
        return False
    return failure(name) is None


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


def probe(name: str) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """Registers what tries a trick: a function that raises where it does not work."""

    def register(function: Callable[[], None]) -> Callable[[], None]:
        _probes[name] = function
        return function

    return register


def failure(name: str) -> str | None:
    """Returns why a trick does not work on this version of JAX; None if it does.

    Tries it at the first call, and warns once if it does not work.
    """
    with _lock:
        if name not in _failures:
            _failures[name] = None  # a probe may use what it probes
            _failures[name] = reason = _tried(name)
            if reason is not None:
                warnings.warn(
                    f"The speed trick {name!r} does not work with JAX "
                    f"{jax.__version__} and is off; results are the same, training "
                    f"is slower: {reason}",
                    RuntimeWarning,
                    stacklevel=3,
                )
        return _failures[name]


def _tried(name: str) -> str | None:
    if name not in _probes:
        return None
    try:
        # It may be called where another program is being traced.
        with jax.ensure_compile_time_eval():
            _probes[name]()
    except Exception as error:
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return None


@contextmanager
def switched(off: Iterable[str] = ()) -> Iterator[None]:
    """Switches exactly these tricks off within; for tests.

    It sets `KITAE_XLA`, so it holds in all threads and packages. Functions that were
    compiled before are compiled again.

    Args:
        off: Names of tricks.
    """
    before = os.environ.get(VARIABLE)
    value = ",".join(f"-{name}" for name in off)
    switched_off(value)
    os.environ[VARIABLE] = value
    jax.clear_caches()
    try:
        yield
    finally:
        os.environ.pop(VARIABLE)
        if before is not None:
            os.environ[VARIABLE] = before
        jax.clear_caches()
