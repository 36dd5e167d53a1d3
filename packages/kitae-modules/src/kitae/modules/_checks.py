"""Checks of plain Python arguments, shared by the factories."""

import math
import numbers
import operator
from collections.abc import Sequence
from typing import Any


def positive_int(name: str, value: Any) -> int:
    """Returns `value` as an int in [1, 2**31 - 1], or raises naming the argument."""
    if isinstance(value, bool):
        raise TypeError(f"{name} must be an int, not the bool {value}")
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an int, got {value!r}") from None
    if number < 1:
        raise ValueError(f"{name} must be at least 1, got {number}")
    if number > 2**31 - 1:
        raise ValueError(f"{name} must be at most 2**31 - 1, got {number}")
    return number


def boolean(name: str, value: Any) -> bool:
    """Returns `value` if it is a bool, or raises naming the argument."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be a bool, got {value!r}")
    return value


def finite_float(name: str, value: Any) -> float:
    """Returns `value` as a finite float, or raises naming the argument."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a number, got {value!r}")
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{name} must be finite, got {number}")
    return number


def positive_float(name: str, value: Any) -> float:
    """Returns `value` as a finite float above 0, or raises naming the argument."""
    number = finite_float(name, value)
    if number <= 0.0:
        raise ValueError(f"{name} must be greater than 0, got {number}")
    return number


def sizes(name: str, values: Sequence[int]) -> tuple[int, ...]:
    """Returns `values` as a tuple of ints of at least 1; an empty one is fine."""
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise TypeError(f"{name} must be a sequence of ints, got {values!r}")
    return tuple(positive_int(f"{name}[{i}]", v) for i, v in enumerate(values))


def leading_axes(
    name: str, shape: tuple[int, ...], expected: tuple[int, ...]
) -> tuple[int, ...]:
    """Splits the leading axes off `shape`, whose last axes must be `expected`."""
    n_leading = len(shape) - len(expected)
    if n_leading < 0 or shape[n_leading:] != expected:
        raise ValueError(
            f"{name} must have the shape [..., {', '.join(map(str, expected))}] "
            f"(leading axes, then {expected}), got {shape}"
        )
    return shape[:n_leading]
