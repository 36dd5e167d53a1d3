"""Rings of rows, one per environment, on which every replay stands.

A ring keeps the newest rows of its environment in the order in which they came. What
a replay needs to know of a row beside the row itself is kept with it: whether it
begins a sequence, and where its frames are.
"""

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
)
from kitae.buffer._fields import check_fields, ends_of, field, replaced
from kitae.buffer._frames import (
    Frames,
    check_frames,
    empty_frames,
    frame_capacity,
    frames_since,
    push_frames,
    stacks_at,
)
from kitae.buffer._packing import PackedRows, assembled, layout_of, pack, small_leaves
from kitae.buffer._rows import are_long, by_parts, rows_at, with_rows
from kitae.buffer._tree import Priorities

# One kernel reads so many rows at a time: their memory is waited for together.
FEW_READS = 8


class ReplayState(NamedTuple):
    """What a replay holds.

    Attributes:
        data: The rows, packed. `data.words` is `[capacity, n_envs, n_words]` uint32:
            the leaves of at most 256 elements and 32 bits each, side by side, bit for
            bit; `data.large` a tuple of the others, each `[capacity, n_envs, ...]`;
            `data.layout` is static. `stored_rows` unpacks them.
        position: `[n_envs]` int32, where the next row of each environment goes.
        size: `[n_envs]` int32, rows held by each environment, at most `capacity`: the
            newest ones.
        ended: `[n_envs]` bool, the next row of each environment begins a sequence;
            None where the replay has no use for it.
        frames: The frames of the observations, each once; None unless asked for.
        priorities: The priority of each row; None where rows are drawn uniformly.
    """

    data: PackedRows
    position: jax.Array
    size: jax.Array
    ended: jax.Array | None = None
    frames: Frames | None = None
    priorities: Priorities | None = None


class Stored(NamedTuple):
    """A row as a ring keeps it.

    Attributes:
        row: The row, without its observations where their frames are kept apart.
        begins: Bool, the row before, if any, belongs to another sequence; or None.
        slot: Int32, where the last frame of its observation is; or None.
    """

    row: Any
    begins: Any = None
    slot: Any = None


class Ring(NamedTuple):
    """What a ring keeps: static.

    Attributes:
        capacity: Rows for each environment.
        n_envs: Environments.
        begins: Rows know whether they begin a sequence.
        frame_stack: Frames in an observation, where each is kept once; or None.
    """

    capacity: int
    n_envs: int
    begins: bool = False
    frame_stack: int | None = None

    @property
    def has_sequences(self) -> bool:
        """Whether rows must have `done`."""
        return self.begins or self.frame_stack is not None


def check_ring(ring: Ring) -> None:
    """Refuses sizes out of range, or more rows or frames than an index can name."""
    check_count("capacity", ring.capacity)
    check_count("n_envs", ring.n_envs)
    check_addressable(ring.capacity, ring.n_envs)
    if ring.frame_stack is not None:
        check_count("frame_stack", ring.frame_stack)
        check_addressable(frame_capacity(ring.capacity, ring.frame_stack), ring.n_envs)


def empty_ring(ring: Ring, row: Any, needed: tuple[str, ...] = ()) -> ReplayState:
    """Makes the state of an empty ring from one example row.

    Args:
        ring: What is kept.
        row: Arrays, scalars or `jax.ShapeDtypeStruct`, without an environment axis.
        needed: Fields that the row must have, beside those that the ring needs.

    Raises:
        ValueError: The row has no leaf, or lacks a field; or its observations are
            not stacks of frames.
    """
    row = layout_of(row).rows()
    check_row(ring, row, needed)
    n_envs, stored, frames = ring.n_envs, Stored(row), None
    if ring.begins:
        stored = stored._replace(begins=jax.ShapeDtypeStruct((), bool))
    if ring.frame_stack is not None:
        n_frames = frame_capacity(ring.capacity, ring.frame_stack)
        frames = empty_frames(field(row, "observation"), n_frames, n_envs)
        stored = stored._replace(
            row=without_frames(row), slot=jax.ShapeDtypeStruct((), jnp.int32)
        )
    layout = layout_of(stored)
    packed = jax.eval_shape(partial(pack, layout=layout), layout.rows())
    return ReplayState(
        data=empty_like(packed, ring.capacity, n_envs),
        position=jnp.zeros(n_envs, jnp.int32),
        size=jnp.zeros(n_envs, jnp.int32),
        ended=jnp.ones(n_envs, bool) if ring.has_sequences else None,
        frames=frames,
    )


def check_row(ring: Ring, row: Any, needed: tuple[str, ...]) -> None:
    """Refuses an example row without the fields that are needed; see `empty_ring`."""
    if ring.has_sequences:
        needed = (*needed, "done")
    if ring.frame_stack is not None:
        needed = ("observation", *needed, "next_observation")
    if needed:
        check_fields(row, tuple(dict.fromkeys(needed)))
    if ring.frame_stack is not None:
        check_frames(row, ring.frame_stack)


def append(ring: Ring, state: ReplayState, rows: Any, valid: Any = None) -> ReplayState:
    """Appends one row to the ring of each environment, where `valid` marks it.

    Where a row's frames take the place of those of old rows, these are given up.

    Raises:
        ValueError: The rows do not fit the example, or `valid` is not bool `[n_envs]`.
    """
    rows = checked_rows(rows, row_specs(ring, state))
    size, ended, frames, stored = state.size, state.ended, state.frames, Stored(rows)
    if valid is None:
        step = jnp.ones(ring.n_envs, jnp.int32)
    else:
        valid = checked_mask(valid, ring.n_envs)
        step = valid.astype(jnp.int32)
    if ring.begins:
        stored = stored._replace(begins=state.ended)
    if frames is not None:
        assert ended is not None
        frames, slot = push_frames(frames, rows, ended, checked_mask(valid, ended.size))
        stored = stored._replace(row=without_frames(rows), slot=slot)
        size = size - rows_without_frames(ring, state, frames)
    if ended is not None:
        ends = ends_of(rows)
        ended = ends if valid is None else jnp.where(valid, ends, ended)
    packed = jax.vmap(partial(pack, layout=state.data.layout))(stored)
    return state._replace(
        data=with_rows(state.data, packed, state.position, valid),
        position=(state.position + step) % ring.capacity,
        size=jnp.minimum(size + step, ring.capacity),
        ended=ended,
        frames=frames,
    )


def cut(state: ReplayState) -> ReplayState:
    """Lets the next row of every environment begin a sequence."""
    if state.ended is None:
        return state
    return state._replace(ended=jnp.ones_like(state.ended))


def env_axes(ring: Ring, *, priorities: bool = False) -> ReplayState:
    """Says for each part of the state which of its axes counts the environments."""
    first: Any = 0
    second: Any = 1
    return ReplayState(
        data=second,
        position=first,
        size=first,
        ended=first if ring.has_sequences else None,
        frames=None if ring.frame_stack is None else Frames(images=second, head=first),
        priorities=first if priorities else None,
    )


def row_specs(ring: Ring, state: ReplayState) -> Any:
    """Returns shape `[capacity, n_envs, ...]` and dtype of each leaf of the rows."""
    row = state.data.layout.rows(ring.capacity, ring.n_envs).row
    if state.frames is None:
        return row

    def stacked(ring_of_frames: jax.Array) -> jax.ShapeDtypeStruct:
        shape = (
            ring.capacity,
            ring.n_envs,
            ring.frame_stack,
            *ring_of_frames.shape[2:],
        )
        return jax.ShapeDtypeStruct(shape, ring_of_frames.dtype)

    observation = jax.tree.map(stacked, state.frames.images)
    return replaced(row, observation=observation, next_observation=observation)


def without_frames(row: Any) -> Any:
    """Takes the observations out of rows."""
    return replaced(row, observation=None, next_observation=None)


def rows_without_frames(ring: Ring, state: ReplayState, frames: Frames) -> jax.Array:
    """Counts for each environment the rows that lost a frame, `[n_envs]` int32.

    They are the oldest, and at most as many as the frames pushed: a row's oldest frame
    belongs to no other row.

    Args:
        ring: What is kept.
        state: Before the frames were pushed.
        frames: Thereafter.
    """
    assert state.frames is not None
    assert ring.frame_stack is not None
    env = jnp.arange(ring.n_envs, dtype=jnp.int32)[:, None]
    rank = jnp.arange(ring.frame_stack + 1, dtype=jnp.int32)[None]
    time = nth_oldest(ring, state, env, rank)
    slot = stored_at(state.data, (time * ring.n_envs + env).reshape(-1)).slot
    since = frames_since(state.frames, slot.reshape(time.shape), ring.frame_stack)
    pushed = (frames.head - state.frames.head) % frames.n_frames
    lost = since + pushed[:, None] > frames.n_frames
    return jnp.sum(lost & (rank < state.size[:, None]), axis=1, dtype=jnp.int32)


def nth_oldest(
    ring: Ring, state: ReplayState, env: jax.Array, rank: jax.Array
) -> jax.Array:
    """Returns the times of rows of `env` by their rank in age, from 0, the oldest."""
    return ((state.position - state.size)[env] + rank) % ring.capacity


def stored_at(data: PackedRows, index: jax.Array) -> Any:
    """Gathers and unpacks the rows at `index` `[n]`, `time * n_envs + env`."""

    def unpacked(_: Any, words: jax.Array) -> list[jax.Array]:
        return jax.vmap(partial(small_leaves, data.layout))(words)

    small = []
    if data.words is not None:
        read, unpack = (FEW_READS, 1) if are_long(data.words) else (None, None)
        words = by_parts(rows_at, read, data.words, index)
        small = by_parts(unpacked, unpack, (), words)
    large = [rows_at(column, index) for column in data.large]
    return assembled(data.layout, small, large)


def with_frames(
    ring: Ring, state: ReplayState, first: Stored, last: Stored, index: jax.Array
) -> Any:
    """Gives rows their observations back, where their frames are kept apart.

    Args:
        ring: What is kept.
        state: What is held.
        first: The rows, leaves `[n, ...]`.
        last: The rows whose next observations are wanted, of the same environments.
        index: `[n]` int32, where `first` is.
    """
    if state.frames is None:
        return first.row
    assert ring.frame_stack is not None
    env, stack = index % ring.n_envs, ring.frame_stack
    return replaced(
        first.row,
        observation=stacks_at(state.frames, first.slot, env, stack),
        next_observation=stacks_at(state.frames, last.slot + 1, env, stack),
    )
