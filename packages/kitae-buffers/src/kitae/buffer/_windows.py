"""Windows of consecutive rows, read from a ring."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kitae.buffer._fields import field, names_of, replaced
from kitae.buffer._ring import ReplayState, Ring, stored_at, with_frames

# What a row must have for several of them to become one.
N_STEP_FIELDS = ("reward", "done", "next_observation")


def window_index(ring: Ring, index: jax.Array, length: int) -> jax.Array:
    """Returns the indices `[n, length]` of the rows from those at `index` `[n]` on."""
    time, env = index // ring.n_envs, index % ring.n_envs
    times = (
        time[:, None] + jnp.arange(length, dtype=jnp.int32)[None, :]
    ) % ring.capacity
    return times * ring.n_envs + env[:, None]


def windows_at(ring: Ring, state: ReplayState, index: jax.Array, length: int) -> Any:
    """Gathers windows of stored rows, leaves `[n, length, ...]`."""
    rows = stored_at(state.data, window_index(ring, index, length).reshape(-1))
    return jax.tree.map(lambda x: x.reshape(-1, length, *x.shape[1:]), rows)


def n_newer(ring: Ring, state: ReplayState, index: jax.Array) -> jax.Array:
    """Counts the rows of the same environment added after those at `index` `[n]`."""
    time, env = index // ring.n_envs, index % ring.n_envs
    return (state.position[env] - 1 - time) % ring.capacity


def n_step_rows(
    ring: Ring, state: ReplayState, index: jax.Array, n_steps: int, gamma: float
) -> tuple[Any, jax.Array]:
    """Reads rows of up to `n_steps` steps each; see `n_step_replay`.

    Args:
        ring: What is kept; rows know whether they begin a sequence if `n_steps` > 1.
        state: What is held.
        index: `[n]` int32, where the first row of each window is.
        n_steps: Steps of a window, at least 1.
        gamma: The discount of one step.

    Returns:
        The rows, leaves `[n, ...]`, and `[n]` float32 γ^k.
    """
    first = stored_at(state.data, index)
    discounts = np.power(gamma, np.arange(n_steps + 1)).astype(np.float32)
    if n_steps == 1:
        row = with_frames(ring, state, first, first, index)
        return row, jnp.full(index.shape, discounts[1], jnp.float32)

    # The large leaves of these rows are not used, so that jit does not gather them.
    window = windows_at(ring, state, index, n_steps)
    offset = jnp.arange(n_steps, dtype=jnp.int32)[None, :]
    follows = (offset <= n_newer(ring, state, index)[:, None]) & ~window.begins
    # The first row may begin a sequence; the window goes to before the next that does.
    length = jnp.min(jnp.where((offset == 0) | follows, n_steps, offset), axis=1)

    rewards = field(window.row, "reward")
    weights = jnp.asarray(discounts[:n_steps], rewards.dtype)[None, :]
    inside = offset < length[:, None]
    total = jnp.sum(jnp.where(inside, weights * rewards, 0), axis=1)

    ends = window_index(ring, index, n_steps)
    ends = jnp.take_along_axis(ends, length[:, None] - 1, axis=1)[:, 0]
    last = stored_at(state.data, ends)
    ending = {name: field(last.row, name) for name in ("done", "next_observation")}
    if "truncated" in names_of(last.row):
        ending["truncated"] = field(last.row, "truncated")
    rows = first._replace(row=replaced(first.row, reward=total, **ending))
    return with_frames(ring, state, rows, last, index), jnp.asarray(discounts)[length]
