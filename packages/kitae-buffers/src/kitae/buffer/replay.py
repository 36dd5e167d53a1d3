"""Uniform experience replay (Lin, 1992; Mnih et al., 2015) as pure functions.

The rows live on the device as `[time, environment, ...]`, one ring per environment.
Rings advance on their own, since a row can be missing in one environment and not in
its neighbours: the step on which a vector environment only resets one of its
members is not a transition. A row's small leaves lie side by side in one array, so that
one scatter writes the rows of a step and one gather reads those of a sample.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from kitae.buffer._checks import check_count
from kitae.buffer._packing import unpack
from kitae.buffer._random import random_bits
from kitae.buffer._ring import (
    ReplayState,
    Ring,
    append,
    check_ring,
    cut,
    empty_ring,
    env_axes,
    nth_oldest,
    stored_at,
    with_frames,
)
from kitae.buffer._rows import are_long, by_parts

# Of more, sums over them cost more than to look up one.
FEW_ENVS = 32
# One kernel makes so many indices at a time; a sample has too many operations for the
# caller's thread, if more.
FEW_DRAWS = 4


class Replay(NamedTuple):
    """Pure functions; see `uniform_replay`, `n_step_replay`, `prioritised_replay`.

    Attributes:
        init: `init(row) -> ReplayState`, empty, from one example row without an
            environment axis (arrays, scalars or `jax.ShapeDtypeStruct`).
        add: `add(state, rows, valid=None) -> ReplayState`; leaves of `rows` are
            `[n_envs, ...]`, `valid` a bool `[n_envs]` mask of the rows to keep.
        sample: `sample(state, key)` gives what the replay's maker says: plain rows
            with leaves `[batch_size, ...]`, a `Sample` or a `SequenceSample`.
        cut: `cut(state) -> ReplayState`. To be called when the environments were reset
            otherwise than by the end of an episode, as when a training starts anew: the
            next row of each begins a sequence, and no window reaches over the cut.
            Where rows are drawn one by one, the state comes back as it is.
        update_priorities: `update_priorities(state, index, priorities) -> ReplayState`,
            or None where there are none; see `prioritised_replay`.
        env_axes: A prefix of the state as a tree: for each part, which of its axes
            counts the environments, and None for a part that the replay has not. A
            state split along these axes is the states of replays of fewer
            environments, each complete in itself.
    """

    init: Callable[[Any], ReplayState]
    add: Callable[..., ReplayState]
    sample: Callable[[ReplayState, jax.Array], Any]
    cut: Callable[[ReplayState], ReplayState]
    update_priorities: Callable[..., ReplayState] | None
    env_axes: ReplayState


class Sample(NamedTuple):
    """Rows with what a target and a loss need to know of how they were drawn.

    Attributes:
        experience: Rows, leaves `[batch_size, ...]`.
        discount: `[batch_size]` float32, γ^k, where the row spans k steps: what the
            value of `next_observation` counts, unless the row is done.
        importance: `[batch_size]` float32, 1 / (N p), where each of the N rows held
            is drawn with its probability p: 1 where all are drawn alike.
        index: `[batch_size]` int32, where each row is, for `update_priorities`.
    """

    experience: Any
    discount: jax.Array
    importance: jax.Array
    index: jax.Array  # pyright: ignore[reportIncompatibleMethodOverride]


def stored_rows(state: ReplayState) -> Any:
    """Unpacks all that a replay holds, to look into it; `sample` needs it not.

    Args:
        state: Of a replay, not batched.

    Returns:
        Rows built as the example given to `init`, each leaf `[capacity, n_envs, ...]`
        and a copy. Of environment `e`, the first `size[e]` times are written; where
        the ring is full, the oldest row is at `position[e]`.

    Raises:
        ValueError: The replay keeps each frame once: all its stacks would take several
            times its memory.

    Example:
        >>> import jax.numpy as jnp
        >>> from kitae.buffer import stored_rows, uniform_replay
        >>> replay = uniform_replay(capacity=2, n_envs=3, batch_size=1)
        >>> state = replay.add(replay.init({"x": 0.0}), {"x": jnp.arange(3.0)})
        >>> stored_rows(state)["x"].tolist()
        [[0.0, 1.0, 2.0], [0.0, 0.0, 0.0]]
    """
    if state.frames is not None:
        raise ValueError(
            "state must be of a replay without frame_stack, got one that keeps each "
            "frame once: its stacks are made by sample"
        )
    return jax.vmap(jax.vmap(unpack))(state.data).row


def draw_below(key: jax.Array, bound: jax.Array, n: int) -> jax.Array:
    """Draws `n` int32 in `[0, bound)`, each nearly equally likely."""
    return scaled(random_bits(key, (n,)), bound)


def scaled(bits: jax.Array, bound: jax.Array) -> jax.Array:
    """Makes of random bits `[n]` int32 in `[0, bound)`, each nearly equally likely.

    The upper half of `bits * bound` (Lemire, 2019) needs no division by a bound that
    changes, as `jax.random.randint` does, which costs more than the rest of a sample.
    The likelihoods differ by at most `bound / 2**32`, relatively: 0.02 % at a million.
    """
    bound = bound.astype(jnp.uint32)
    low, high = bits & 0xFFFF, bits >> 16
    bound_low, bound_high = bound & 0xFFFF, bound >> 16
    middle = high * bound_low + ((low * bound_low) >> 16)
    carry = low * bound_high + (middle & 0xFFFF)
    product = high * bound_high + (middle >> 16) + (carry >> 16)
    return product.astype(jnp.int32)


def draw_rows(key: jax.Array, counts: jax.Array, n: int) -> tuple[jax.Array, jax.Array]:
    """Draws `n` of all environments' rows alike.

    Args:
        key: A random key.
        counts: `[n_envs]` int32, how many there are in each environment.
        n: How many to draw.

    Returns:
        env: `[n]` int32.
        rank: `[n]` int32 in `[0, counts[env])`.
    """
    last = jnp.cumsum(counts, dtype=jnp.int32)
    rank = draw_below(key, last[-1], n)
    env = jnp.searchsorted(last, rank, side="right", method="compare_all")
    return env, rank - (last - counts)[env]


def draw_held(ring: Ring, state: ReplayState, key: jax.Array, n: int) -> jax.Array:
    """Draws the indices `[n]`, `time * n_envs + env`, of rows held, all alike."""
    if state.frames is not None:
        env, rank = draw_rows(key, state.size, n)
        return nth_oldest(ring, state, env, rank) * ring.n_envs + env
    # No row was given up, so those held are the first ones in memory.
    if ring.n_envs > FEW_ENVS:
        env, time = draw_rows(key, state.size, n)
        return time * ring.n_envs + env
    words = state.data.words
    part = FEW_DRAWS if words is not None and are_long(words) else None
    bits = random_bits(key, (n,), part)
    last = jax.lax.associative_scan(jnp.add, state.size)
    return by_parts(held_at, part, (state.size, last), bits)


def held_at(counts: tuple[jax.Array, jax.Array], bits: jax.Array) -> jax.Array:
    """Chooses a row held by each of the random bits `[n]`, all rows equally likely.

    One sum gives both the environment of a rank and its row there: each environment
    before it subtracts its rows and adds one place. Overflows on the way cancel out.
    As a program by itself, this takes a third of the time.

    Args:
        counts: `[n_envs]` int32, the rows of each environment, and of all up to it.
        bits: uint32.

    Returns:
        `[n]` int32, `time * n_envs + env`.
    """
    size, last = counts
    rank = scaled(bits, last[-1])
    passed = last[None, :] <= rank[:, None]
    shifts = jnp.where(passed, 1 - size * size.size, 0)
    return rank * size.size + jnp.sum(shifts, axis=1, dtype=jnp.int32)


def uniform_replay(
    capacity: int, n_envs: int, batch_size: int, *, frame_stack: int | None = None
) -> Replay:
    """Makes a replay that keeps the newest rows and samples them uniformly.

    Rows are drawn with replacement, each row held with the same probability.
    Sampling an empty replay returns zeros: whoever samples waits for a first row.

    Args:
        capacity: Rows kept for each environment, at least 1: `capacity * n_envs` in
            all.
        n_envs: Parallel environments, at least 1.
        batch_size: Rows in one sample, at least 1.
        frame_stack: Frames in an observation, at least 1. If given, observations are
            stacks of images, `[frame_stack, height, width]`, and each frame is kept
            once. Rows then have `observation`, `next_observation` and `done`, perhaps
            `truncated`, and follow one another: unless a row is the first, or follows
            an end or a cut, its observation is the next observation of the row before,
            and `next_observation` is `observation` without its first frame and with
            one more at its end. That cannot be checked. Each stack comes out bit for
            bit as it went in. There is room for `17 / 16 * capacity` frames; where
            episodes are shorter than `16 * frame_stack` steps, frames can run out, and
            then the oldest rows are given up before `capacity` is reached.

    Returns:
        The functions `init`, `add`, `sample` and `cut`, to be called inside `jax.jit`
        (with the state donated) or outside. `sample` returns plain rows, leaves
        `[batch_size, ...]`.

    Raises:
        ValueError: An argument is out of range; in `init`, the example has no leaf, or
            lacks what `frame_stack` needs; or, in `add`, the rows do not fit the
            example: the leaf is named.

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
    ring = Ring(capacity, n_envs, frame_stack=frame_stack)
    check_ring(ring)
    check_count("batch_size", batch_size)

    def sample(state: ReplayState, key: jax.Array) -> Any:
        index = draw_held(ring, state, key, batch_size)
        stored = stored_at(state.data, index)
        return with_frames(ring, state, stored, stored, index)

    return Replay(
        init=partial(empty_ring, ring),
        add=partial(append, ring),
        sample=sample,
        cut=cut,
        update_priorities=None,
        env_axes=env_axes(ring),
    )
