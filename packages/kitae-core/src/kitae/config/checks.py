"""Checks for the fields of configs: an error names the field, the value, the range."""

import math
from numbers import Integral, Real
from typing import Any

# What an index of 32 bits counts up to.
MAX_COUNT = 2**31 - 1
MAX_ENVS = 2**20


def check_int(name: str, value: Any, low: int, high: int | None = None) -> None:
    """Refuses what is not a whole number in `[low, high]`; a bool is not a number.

    Args:
        name: The field, as the user wrote it.
        value: What was given.
        low: The smallest allowed value.
        high: The largest allowed value; None: no bound.

    Raises:
        ValueError: `value` is not such a number.

    Example:
        >>> check_int("n_envs", 0, low=1)
        Traceback (most recent call last):
        ...
        ValueError: n_envs must be an int of at least 1, got 0
    """
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    if not whole or int(value) < low or (high is not None and int(value) > high):
        allowed = f"of at least {low}" if high is None else f"in [{low}, {high}]"
        raise ValueError(f"{name} must be an int {allowed}, got {value!r}")


def check_count(name: str, value: Any, low: int = 1, high: int = MAX_COUNT) -> None:
    """Refuses what is not a whole number that NumPy and JAX can count to.

    Args:
        name: The field, as the user wrote it.
        value: What was given.
        low: The smallest allowed value.
        high: The largest allowed value, which is named where it is exceeded.

    Raises:
        ValueError: `value` is not such a number.

    Example:
        >>> check_count("batch_size", 2**31)
        Traceback (most recent call last):
        ...
        ValueError: batch_size must be an int in [1, 2147483647], got 2147483648
    """
    check_int(name, value, low)
    check_int(name, value, low, high)


def check_n_envs(value: Any) -> None:
    """Refuses what is not a number of parallel environments, from 1 to 2**20.

    Raises:
        ValueError: `value` is not such a number.

    Example:
        >>> check_n_envs(2**63)
        Traceback (most recent call last):
        ...
        ValueError: n_envs must be an int in [1, 1048576], got 9223372036854775808
    """
    check_count("n_envs", value, 1, MAX_ENVS)


def check_number(
    name: str,
    value: Any,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    open_low: bool = False,
    open_high: bool = False,
) -> None:
    """Refuses what is not a finite number in `[low, high]`; a bool is not a number.

    Args:
        name: The field, as the user wrote it.
        value: What was given.
        low: The smallest allowed value.
        high: The largest allowed value.
        open_low: Whether `low` itself is refused too.
        open_high: Whether `high` itself is refused too.

    Raises:
        ValueError: `value` is not such a number.

    Example:
        >>> check_number("gamma", 1.5, low=0.0, high=1.0)
        Traceback (most recent call last):
        ...
        ValueError: gamma must be a finite number in [0.0, 1.0], got 1.5
    """
    real = isinstance(value, Real) and not isinstance(value, bool)
    if (
        not real
        or not _finite(value)
        or not low <= float(value) <= high
        or (open_low and value == low)
        or (open_high and value == high)
    ):
        left = "(" if open_low or low == -math.inf else "["
        right = ")" if open_high or high == math.inf else "]"
        raise ValueError(
            f"{name} must be a finite number in {left}{low}, {high}{right}, "
            f"got {value!r}"
        )


def _finite(value: Any) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an int that no float holds
        return False


def check_flag(name: str, value: Any) -> None:
    """Refuses anything but True and False.

    Raises:
        ValueError: `value` is not a bool.

    Example:
        >>> check_flag("learning_rate_annealing", 1)
        Traceback (most recent call last):
        ...
        ValueError: learning_rate_annealing must be True or False, got 1
    """
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be True or False, got {value!r}")
