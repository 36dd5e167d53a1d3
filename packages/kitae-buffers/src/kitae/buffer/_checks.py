"""Checks shared by the storages: every one runs while tracing, none on the device."""

from typing import Any

import jax
import jax.numpy as jnp


def check_count(name: str, value: int) -> None:
    """Refuses anything but a whole number from one to what an int32 holds."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be an int of at least 1, got {value!r}")
    if value > 2**31 - 1:
        raise ValueError(f"{name} must be at most 2**31 - 1, got {value}")


def check_addressable(capacity: int, n_envs: int) -> None:
    """Refuses more rows than a 32-bit index can name."""
    if capacity * n_envs > 2**31 - 1:
        raise ValueError(
            f"capacity * n_envs must be at most 2**31 - 1 rows, got {capacity} * "
            f"{n_envs} = {capacity * n_envs}"
        )


def check_fraction(name: str, value: float) -> None:
    """Refuses anything but a number from 0 to 1."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{name} must be a float from 0 to 1, got {value!r}")
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must be from 0 to 1, got {value!r}")


def check_spec(name: str, array: Any, shape: tuple[int, ...], dtype: Any) -> None:
    """Refuses an array of another shape or dtype."""
    if array.shape != shape or array.dtype != dtype:
        raise ValueError(
            f"{name} must be {jnp.dtype(dtype)}{list(shape)}, got "
            f"{array.dtype}{list(array.shape)}"
        )


def empty_like(row: Any, capacity: int, n_envs: int) -> Any:
    """Zeros of shape `[capacity, n_envs, ...]` for each leaf `[...]` of `row`."""

    def zeros(leaf: Any) -> jax.Array:
        spec = leaf if hasattr(leaf, "dtype") else jnp.asarray(leaf)
        dtype = jax.dtypes.canonicalize_dtype(spec.dtype)
        return jnp.zeros((capacity, n_envs, *spec.shape), dtype)

    return jax.tree.map(zeros, row)


def checked_rows(rows: Any, data: Any) -> Any:
    """Returns `rows` as arrays `[n_envs, ...]` that fit `data` `[time, n_envs, ...]`.

    A scalar stands for a whole column.

    Raises:
        ValueError: The structure, a shape or a dtype differs; the leaf is named.
    """

    def fit(path: Any, leaf: Any, column: jax.Array) -> jax.Array:
        name = jax.tree_util.keystr(path, simple=True, separator=".") or "rows"
        if isinstance(leaf, bool | int | float):
            return jnp.full(column.shape[1:], leaf, column.dtype)
        leaf = jnp.asarray(leaf)
        if leaf.shape == () and leaf.dtype == column.dtype:
            return jnp.full(column.shape[1:], leaf, leaf.dtype)  # passed through jit
        if leaf.shape != column.shape[1:] or leaf.dtype != column.dtype:
            raise ValueError(
                f"{name} must be {column.dtype}{list(column.shape[1:])} "
                f"(environments first), got {leaf.dtype}{list(leaf.shape)}"
            )
        return leaf

    if jax.tree.structure(rows) != jax.tree.structure(data):
        raise ValueError(
            f"rows must be built as the example was: expected "
            f"{jax.tree.structure(data)}, got {jax.tree.structure(rows)}"
        )
    return jax.tree_util.tree_map_with_path(fit, rows, data)


def checked_mask(valid: Any, n_envs: int) -> jax.Array:
    """Returns `valid` as a bool `[n_envs]` mask, all true where it is None."""
    if valid is None:
        return jnp.ones(n_envs, bool)
    valid = jnp.asarray(valid)
    if valid.shape != (n_envs,) or valid.dtype != bool:
        raise ValueError(
            f"valid must be bool[{n_envs}], got {valid.dtype}{list(valid.shape)}"
        )
    return valid
