"""The fields of a row by name, whether it is a NamedTuple or a dict."""

from typing import Any

import jax.numpy as jnp


def field(row: Any, name: str) -> Any:
    """Returns a field of the row."""
    return row[name] if isinstance(row, dict) else getattr(row, name)


def names_of(row: Any) -> tuple[str, ...]:
    """Returns the names of a row's fields, none for a row of another kind."""
    return tuple(row) if isinstance(row, dict) else getattr(row, "_fields", ())


def replaced(row: Any, **changes: Any) -> Any:
    """Returns the row with some of its fields changed."""
    return {**row, **changes} if isinstance(row, dict) else row._replace(**changes)


def ends_of(row: Any) -> Any:
    """Returns where rows are the last of their episode, for whichever reason."""
    if "truncated" in names_of(row):
        return field(row, "done") | field(row, "truncated")
    return field(row, "done")


def check_fields(row: Any, needed: tuple[str, ...]) -> None:
    """Refuses an example row that lacks a field or has one of another type.

    Args:
        row: One row, each leaf with `shape` and `dtype`.
        needed: The fields it must have. Where it has them, needed or not, `reward` is
            a float scalar, and `done` and `truncated` are bool scalars.

    Raises:
        ValueError: It does not; the field is named.
    """
    names = names_of(row)
    missing = [name for name in needed if name not in names]
    if missing:
        raise ValueError(
            f"row must be a NamedTuple or a dict with {', '.join(needed)}; "
            f"{missing[0]} is missing from {list(names) or type(row).__name__}"
        )
    kinds = {"reward": jnp.floating, "done": bool, "truncated": bool}
    for name in [name for name in kinds if name in names]:
        leaf, kind = field(row, name), kinds[name]
        is_scalar = getattr(leaf, "shape", None) == ()
        if not is_scalar or not jnp.issubdtype(leaf.dtype, kind):
            raise ValueError(
                f"{name} must be a {kind.__name__} scalar in each row, got {leaf}"
            )
