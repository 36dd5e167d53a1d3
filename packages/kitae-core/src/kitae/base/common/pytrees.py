"""Keeping the arrays of a state in order between compiled calls."""

from typing import Any

import jax
import jax.numpy as jnp


def owned(tree: Any) -> Any:
    """Copies every leaf into an array of its own, of a definite dtype.

    What is donated to a compiled call is gone afterwards: so no two leaves may share
    memory, and nobody else may hold them. A Python number becomes an array with a
    dtype as firm as an update's result has; it would be traced twice otherwise.
    """
    return jax.tree.map(lambda leaf: jnp.copy(firm(leaf)), tree)


def firm(value: Any) -> jax.Array:
    """Makes an array of a definite dtype, not one that gives way as a number does."""
    array = jnp.asarray(value)
    return jax.lax.convert_element_type(array, array.dtype)


def same_leaves(new: Any, old: Any, where: str) -> Any:
    """Returns `new` if its leaves have the shapes and dtypes of `old`.

    Raises:
        TypeError: They have not; the leaf is named, and `where` it was changed.
    """
    if jax.tree.structure(new) != jax.tree.structure(old):
        raise TypeError(
            f"{where} must return a state built as the one it was given, expected "
            f"{jax.tree.structure(old)}, got {jax.tree.structure(new)}"
        )

    def same(path: Any, after: Any, before: jax.Array) -> jax.Array:
        after = jnp.asarray(after)
        if after.shape != before.shape or after.dtype != before.dtype:
            raise TypeError(
                f"{where} changed state{jax.tree_util.keystr(path)} from "
                f"{before.dtype}{list(before.shape)} to "
                f"{after.dtype}{list(after.shape)}"
            )
        return firm(after)

    return jax.tree_util.tree_map_with_path(same, new, old)


def addressable(tree: Any) -> Any:
    """Gathers what is spread over several processes, all of which make this call."""
    if jax.process_count() == 1:
        return tree
    from jax.experimental.multihost_utils import process_allgather

    def gather(leaf: Any) -> Any:
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            return process_allgather(leaf, tiled=True)
        return leaf

    return jax.tree.map(gather, tree)


def n_bytes(tree: Any) -> int:
    """Counts the bytes of arrays, or of what has their shapes; a key counts as 8."""
    return sum(
        leaf.size * getattr(leaf.dtype, "itemsize", 8) for leaf in jax.tree.leaves(tree)
    )
