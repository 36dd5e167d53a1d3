"""Masks of the actions that are allowed."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

# Key of the mask in observations that are a dict, as PettingZoo and others have it.
ACTION_MASK = "action_mask"


def action_mask(observations: Any) -> jax.Array | None:
    """Returns the mask that observations carry, if they do.

    Args:
        observations: An array, or a dict of arrays; the mask is under "action_mask",
            `[..., n_actions]`, of any dtype, non-zero where an action is allowed.

    Returns:
        The mask, `[..., n_actions]` bool, True where allowed; None where the
        observations are not a dict or have no such part.

    Examples:
        >>> import numpy as np
        >>> mask = np.array([1, 0], np.int8)
        >>> action_mask({"board": np.zeros(9), "action_mask": mask}).tolist()
        [True, False]
        >>> action_mask(np.zeros(9)) is None
        True
    """
    if not isinstance(observations, Mapping) or ACTION_MASK not in observations:
        return None
    return jnp.asarray(observations[ACTION_MASK]).astype(bool)


def masked(qvalues: jax.Array, mask: jax.Array | None) -> jax.Array:
    """Puts a very low value where an action is not allowed, for a maximum after it.

    The low value is half the lowest of the dtype. It is finite, so that a discount of
    0 makes nothing of it (where an episode ended, often no action is allowed), and
    the difference of two such values is finite too.

    Args:
        qvalues: `[..., n_actions]`, floating-point.
        mask: `[..., n_actions]` bool, True where the action is allowed; None: all are.

    Returns:
        `[..., n_actions]`: `qvalues` where allowed; `qvalues` itself for None. No
        gradient flows to a value that is not allowed.

    Raises:
        ValueError: `mask` has another shape than `qvalues`.
        TypeError: `mask` is not bool.

    Examples:
        >>> import jax.numpy as jnp
        >>> qvalues = jnp.array([3.0, 1.0, 2.0])
        >>> masked(qvalues, jnp.array([False, True, True])).max().item()
        2.0
    """
    if mask is None:
        return qvalues
    check_mask(qvalues, mask)
    lowest = jnp.asarray(0.5 * jnp.finfo(qvalues.dtype).min, qvalues.dtype)
    return jnp.where(mask, qvalues, lowest)


def check_mask(qvalues: jax.Array, mask: jax.Array) -> None:
    """Refuses a mask that is not bool, or not of the shape of `qvalues`."""
    if mask.shape != qvalues.shape:
        raise ValueError(
            f"mask must have the shape of qvalues, {list(qvalues.shape)}, got "
            f"{list(mask.shape)}"
        )
    if mask.dtype != jnp.bool_:
        raise TypeError(f"mask must be bool, True where allowed, got {mask.dtype}")
