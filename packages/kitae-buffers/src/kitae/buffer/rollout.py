"""Storage of one on-policy rollout, as pure functions."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from kitae.buffer._checks import (
    check_addressable,
    check_count,
    checked_mask,
    checked_rows,
    empty_like,
)
from kitae.buffer._rows import with_rows


class RolloutState(NamedTuple):
    """What a rollout holds.

    Attributes:
        data: The rows, time first; each leaf `[length, n_envs, ...]`.
        size: `[n_envs]` int32, rows written for each environment.
    """

    data: Any
    size: jax.Array


class Rollout(NamedTuple):
    """Pure functions; see `rollout_storage`.

    Attributes:
        init: `init(row) -> RolloutState`, empty, from one example row.
        add: `add(state, rows, valid=None) -> RolloutState`; leaves of `rows` are
            `[n_envs, ...]`. A row for an environment that is full is left out.
        is_full: `is_full(state) -> bool[]`, every environment has `length` rows.
        clear: `clear(state) -> RolloutState`, empty again, the memory kept.
    """

    init: Callable[[Any], RolloutState]
    add: Callable[..., RolloutState]
    is_full: Callable[[RolloutState], jax.Array]
    clear: Callable[[RolloutState], RolloutState]


def rollout_storage(length: int, n_envs: int) -> Rollout:
    """Makes the storage of one rollout of `length` steps in each environment.

    Each column holds consecutive transitions of its environment. Where a vector
    environment spends a step on a reset, that environment's column fills a step
    later than the others', which leave out what comes after their last row.

    Args:
        length: Steps in each environment, at least 1.
        n_envs: Parallel environments, at least 1.

    Returns:
        The functions `init`, `add`, `is_full` and `clear`; `state.data` is the
        rollout, time first.

    Raises:
        ValueError: An argument is out of range; or, in `add`, the rows do not fit
            the example given to `init`: the leaf is named.

    Example:
        >>> import jax.numpy as jnp
        >>> rollout = rollout_storage(length=2, n_envs=3)
        >>> state = rollout.init({"reward": 0.0})
        >>> state = rollout.add(state, {"reward": jnp.ones(3)})
        >>> state = rollout.add(state, {"reward": jnp.zeros(3)})
        >>> bool(rollout.is_full(state)), state.data["reward"].shape
        (True, (2, 3))
    """
    check_count("length", length)
    check_count("n_envs", n_envs)
    check_addressable(length, n_envs)

    def init(row: Any) -> RolloutState:
        return RolloutState(
            data=empty_like(row, length, n_envs), size=jnp.zeros(n_envs, jnp.int32)
        )

    def add(state: RolloutState, rows: Any, valid: Any = None) -> RolloutState:
        rows = checked_rows(rows, state.data)
        valid = checked_mask(valid, n_envs) & (state.size < length)
        return RolloutState(
            data=with_rows(state.data, rows, state.size, valid),
            size=state.size + valid.astype(jnp.int32),
        )

    def is_full(state: RolloutState) -> jax.Array:
        return jnp.all(state.size == length)

    def clear(state: RolloutState) -> RolloutState:
        return state._replace(size=jnp.zeros_like(state.size))

    return Rollout(init, add, is_full, clear)
