"""Uniform experience replay (Lin, 1992; Mnih et al., 2015) as pure functions.

The rows live on the device as `[time, environment, ...]`, one ring per environment.
Rings advance on their own, since a row can be missing in one environment and not in
its neighbours: the step on which a vector environment only resets one of its
members is no transition. A row's small leaves lie side by side in one array, so that
one scatter writes the rows of a step and one gather reads those of a sample.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from kitae.buffer._checks import (
    check_addressable,
    check_count,
    checked_mask,
    checked_rows,
    empty_like,
    write_rows,
)
from kitae.buffer._packing import PackedRows, layout_of, pack, unpack


class ReplayState(NamedTuple):
    """What a replay holds.

    Attributes:
        data: The rows, packed. `data.words` is `[capacity, n_envs, n_words]` uint32:
            the leaves of at most 256 elements and 32 bits each, side by side, bit for
            bit; `data.large` a tuple of the others, each `[capacity, n_envs, ...]`;
            `data.layout` is static. `stored_rows` unpacks them.
        position: `[n_envs]` int32, where the next row of each environment goes.
        size: `[n_envs]` int32, rows held by each environment, at most `capacity`.
    """

    data: PackedRows
    position: jax.Array
    size: jax.Array


class Replay(NamedTuple):
    """Three pure functions; see `uniform_replay`.

    Attributes:
        init: `init(row) -> ReplayState`, empty, from one example row without an
            environment axis (arrays, scalars or `jax.ShapeDtypeStruct`).
        add: `add(state, rows, valid=None) -> ReplayState`; leaves of `rows` are
            `[n_envs, ...]`, `valid` a bool `[n_envs]` mask of the rows to keep.
        sample: `sample(state, key) -> rows` with leaves `[batch_size, ...]`.
    """

    init: Callable[[Any], ReplayState]
    add: Callable[..., ReplayState]
    sample: Callable[[ReplayState, jax.Array], Any]


def stored_rows(state: ReplayState) -> Any:
    """Unpacks all that a replay holds, to look into it; `sample` needs it not.

    Args:
        state: Of a replay, not batched.

    Returns:
        Rows built as the example given to `init`, each leaf `[capacity, n_envs, ...]`
        and a copy. Of environment `e`, the first `size[e]` times are written; where
        the ring is full, the oldest row is at `position[e]`.

    Example:
        >>> import jax.numpy as jnp
        >>> from kitae.buffer import stored_rows, uniform_replay
        >>> replay = uniform_replay(capacity=2, n_envs=3, batch_size=1)
        >>> state = replay.add(replay.init({"x": 0.0}), {"x": jnp.arange(3.0)})
        >>> stored_rows(state)["x"].tolist()
        [[0.0, 1.0, 2.0], [0.0, 0.0, 0.0]]
    """
    return jax.vmap(jax.vmap(unpack))(state.data)


def draw_below(key: jax.Array, bound: jax.Array, n: int) -> jax.Array:
    """Draws `n` int32 in `[0, bound)`, each nearly equally likely.

    The upper half of `bits * bound` (Lemire, 2019) needs no division by a bound that
    changes, as `jax.random.randint` does, which costs more than the rest of a sample.
    The likelihoods differ by at most `bound / 2**32`, relatively: 0.02 % at a million.
    """
    bits = jax.random.bits(key, (n,), jnp.uint32)
    bound = bound.astype(jnp.uint32)
    low, high = bits & 0xFFFF, bits >> 16
    bound_low, bound_high = bound & 0xFFFF, bound >> 16
    middle = high * bound_low + ((low * bound_low) >> 16)
    carry = low * bound_high + (middle & 0xFFFF)
    product = high * bound_high + (middle >> 16) + (carry >> 16)
    return product.astype(jnp.int32)


def uniform_replay(capacity: int, n_envs: int, batch_size: int) -> Replay:
    """Makes a replay that keeps the newest rows and samples them uniformly.

    Rows are drawn with replacement, each row held with the same probability.
    Sampling an empty replay returns zeros: whoever samples waits for a first row.

    Args:
        capacity: Rows kept for each environment, at least 1: `capacity * n_envs` in
            all.
        n_envs: Parallel environments, at least 1.
        batch_size: Rows in one sample, at least 1.

    Returns:
        The functions `init`, `add` and `sample`, to be called inside `jax.jit` (with
        the state donated) or outside.

    Raises:
        ValueError: An argument is out of range; in `init`, the example has no leaf; or,
            in `add`, the rows do not fit the example: the leaf is named.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from kitae.buffer import Experience, uniform_replay
        >>> replay = uniform_replay(capacity=100, n_envs=2, batch_size=3)
        >>> row = Experience(jnp.zeros(4), 0, 0.0, False, jnp.zeros(4), 0.0)
        >>> state = replay.init(row)
        >>> rows = Experience(
        ...     jnp.ones((2, 4)), jnp.array([0, 1]), jnp.array([1.0, 2.0]),
        ...     jnp.array([False, True]), jnp.ones((2, 4)), jnp.zeros(2),
        ... )
        >>> state = replay.add(state, rows)
        >>> replay.sample(state, jax.random.key(0)).observation.shape
        (3, 4)
    """
    check_count("capacity", capacity)
    check_count("n_envs", n_envs)
    check_count("batch_size", batch_size)
    check_addressable(capacity, n_envs)

    def init(row: Any) -> ReplayState:
        layout = layout_of(row)
        packed = jax.eval_shape(partial(pack, layout=layout), layout.rows())
        return ReplayState(
            data=empty_like(packed, capacity, n_envs),
            position=jnp.zeros(n_envs, jnp.int32),
            size=jnp.zeros(n_envs, jnp.int32),
        )

    def add(state: ReplayState, rows: Any, valid: Any = None) -> ReplayState:
        layout = state.data.layout
        rows = checked_rows(rows, layout.rows(capacity, n_envs))
        packed = jax.vmap(partial(pack, layout=layout))(rows)
        if valid is None:
            step = jnp.ones(n_envs, jnp.int32)
        else:
            valid = checked_mask(valid, n_envs)
            step = valid.astype(jnp.int32)
        return ReplayState(
            data=write_rows(state.data, packed, state.position, valid),
            position=(state.position + step) % capacity,
            size=jnp.minimum(state.size + step, capacity),
        )

    def sample(state: ReplayState, key: jax.Array) -> Any:
        last = jnp.cumsum(state.size)
        rank = draw_below(key, last[-1], batch_size)
        env = jnp.searchsorted(last, rank, side="right", method="compare_all")
        time = rank - (last - state.size)[env]
        index = time * n_envs + env
        drawn = jax.tree.map(
            lambda column: column.reshape(-1, *column.shape[2:])[index], state.data
        )
        return jax.vmap(unpack)(drawn)

    return Replay(init, add, sample)
