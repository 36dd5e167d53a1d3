"""What on- and off-policy learning make of a user's functions."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from kitae.base.common.pytrees import same_leaves
from kitae.types import Info, ProcessExperienceFn, State

STOP = "stop"


def processed_by(
    process_experience: ProcessExperienceFn,
    state: State,
    key: jax.Array,
    experience: Any,
) -> tuple[State, Any]:
    """Calls a user's `process_experience`.

    Returns:
        The state, which is a new one if the function returned `(state, processed)`, and
        what it made of the experience. A pair is such if its first part is built as the
        state is, which is more than one array.

    Raises:
        TypeError: The new state has other shapes or dtypes.
    """
    # A user's function may assign to the state it is given: keep another.
    before = jax.tree.map(lambda leaf: leaf, state)
    result = process_experience(state, key, experience)
    tree = jax.tree.structure(before)
    is_pair = isinstance(result, tuple) and len(result) == 2
    if (
        is_pair
        and not jax.tree_util.treedef_is_leaf(tree)
        and jax.tree.structure(result[0]) == tree
    ):
        new, made = result
        return same_leaves(new, before, "process_experience"), made
    return state, result


def gradient_updates(
    update: Callable[[Any, Any], tuple[Any, Info]], carry: Any, xs: Any
) -> tuple[Any, Info]:
    """Makes one gradient update after another, until one of them says to stop.

    Args:
        update: `(carry, x) -> (carry, info)`. If `info["stop"]`, a bool, is true, the
            updates that are left are skipped.
        carry: What it starts from.
        xs: A pytree of `[n, ...]`, an `x` for each update.

    Returns:
        The last carry, and the mean of the infos of those that were made, without
        `stop`.

    Raises:
        TypeError: `stop` is no bool, or not one.
    """
    n = jax.tree.leaves(xs)[0].shape[0]
    if n == 1:
        carry, info = update(carry, jax.tree.map(lambda x: x[0], xs))
        return carry, _without_stop(info)[0]
    update = jax.jit(update, inline=True)  # traced once, here and below
    first = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), xs)
    _, shapes = jax.eval_shape(update, carry, first)
    if STOP not in shapes:
        carry, infos = jax.lax.scan(update, carry, xs)
        return carry, jax.tree.map(jnp.mean, infos)
    kept, _ = jax.eval_shape(_without_stop, shapes)
    nothing = jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype), kept)

    def made(carry: Any, x: Any) -> tuple[Any, jax.Array, Info]:
        carry, info = update(carry, x)
        info, stop = _without_stop(info)
        return carry, stop, info

    def skipped(carry: Any, x: Any) -> tuple[Any, jax.Array, Info]:
        return carry, jnp.bool_(True), nothing

    def step(state: tuple[Any, jax.Array], x: Any) -> tuple[Any, Any]:
        carry, stopped = state
        carry, stop, info = jax.lax.cond(stopped, skipped, made, carry, x)
        return (carry, stop), (info, ~stopped)

    (carry, _), (infos, counted) = jax.lax.scan(step, (carry, jnp.bool_(False)), xs)
    return carry, jax.tree.map(lambda x: x.sum() / counted.sum(), infos)


def _without_stop(info: Info) -> tuple[Info, jax.Array]:
    """Returns the metrics, and whether to stop."""
    stop = jnp.asarray(info.get(STOP, False))
    if stop.shape != () or stop.dtype != bool:
        raise TypeError(
            f"update_step must return info[{STOP!r}] as one bool, got "
            f"{stop.dtype}{list(stop.shape)}"
        )
    return {name: value for name, value in info.items() if name != STOP}, stop
