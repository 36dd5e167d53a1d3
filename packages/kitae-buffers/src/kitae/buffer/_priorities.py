"""Priorities of rows, as a replay's state has them: drawn by, written and set."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from kitae.buffer._checks import check_spec
from kitae.buffer._ring import ReplayState
from kitae.buffer._rows import by_parts
from kitae.buffer._tree import Priorities, draw_leaves, set_leaves

# Added to every priority, so that a row with no error is not lost for good.
SMALLEST = 1e-6

# Larger priorities count as this much: any number of rows has a finite sum.
LARGEST = 1e20

# One kernel makes leaves of so many errors at a time.
FEW_ERRORS = 8


def draw_by_priority(
    state: ReplayState, key: jax.Array, n: int, n_places: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Draws places in proportion to their priorities.

    Args:
        state: With priorities.
        key: A random key.
        n: How many to draw.
        n_places: Int32 scalar, the places whose priority is not 0.

    Returns:
        index: `[n]` int32, `time * n_envs + env`.
        importance: `[n]` float32, 1 / (`n_places` * probability).
    """
    env, time, probability = draw_leaves(priorities_of(state).levels, key, n)
    importance = 1 / (n_places.astype(jnp.float32) * probability)
    return time * state.size.size + env, importance


def with_places(
    state: ReplayState, time: jax.Array, drawn: jax.Array, valid: jax.Array
) -> ReplayState:
    """Opens places to be drawn, with the largest priority so far, and closes others.

    Args:
        state: With priorities.
        time: `[n_envs, n]` int32.
        drawn: `[n_envs, n]` bool, this place is to be drawn from now on, or not; the
            same where a place is given twice.
        valid: `[n_envs, n]` bool, anything is to be done at all.
    """
    priorities = priorities_of(state)
    n_envs = time.shape[0]
    index = time * n_envs + jnp.arange(n_envs, dtype=jnp.int32)[:, None]
    value = jnp.where(drawn, priorities.largest[:, None], 0)
    flat = [x.reshape(-1) for x in (index, value, valid)]
    levels = set_leaves(priorities.levels, *flat)
    return state._replace(priorities=priorities._replace(levels=levels))


def priorities_updater(exponent: float) -> Callable[..., ReplayState]:
    """Makes `update_priorities`; see `kitae.buffer.prioritised_replay`."""

    def leaves_of(
        leaves: jax.Array, rows: tuple[jax.Array, jax.Array]
    ) -> tuple[jax.Array, jax.Array]:
        place, errors = rows[0].astype(jnp.uint32), rows[1]
        n_envs = leaves.shape[0]
        places = leaves.at[place % n_envs, place // n_envs]
        before = places.get(mode="fill", fill_value=0)
        value = (jnp.minimum(jnp.abs(errors), LARGEST) + SMALLEST) ** exponent
        # A place of priority 0 is empty, and stays so; as is one that there is not.
        return value, jnp.isfinite(errors) & (before > 0)

    def update_priorities(
        state: ReplayState, index: jax.Array, priorities: jax.Array
    ) -> ReplayState:
        index, errors = jnp.asarray(index), jnp.asarray(priorities)
        check_spec("index", index, (index.size,), jnp.int32)
        check_spec("priorities", errors, index.shape, jnp.float32)
        levels, largest = priorities_of(state)
        value, valid = by_parts(leaves_of, FEW_ERRORS, levels[0], (index, errors))
        return state._replace(
            priorities=Priorities(
                levels=set_leaves(levels, index, value, valid),
                largest=jnp.maximum(largest, jnp.max(jnp.where(valid, value, 0))),
            )
        )

    return update_priorities


def priorities_of(state: ReplayState) -> Priorities:
    """Returns the priorities of a state that has them.

    Raises:
        ValueError: The state is of a replay that draws uniformly.
    """
    if state.priorities is None:
        raise ValueError("state must be of a replay with priorities, got one without")
    return state.priorities
