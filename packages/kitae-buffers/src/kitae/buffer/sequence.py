"""Replay of sequences for recurrent agents (Kapturowski et al., 2019)."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from kitae.buffer._checks import check_count, check_fraction, checked_mask
from kitae.buffer._priorities import draw_by_priority, priorities_updater, with_places
from kitae.buffer._ring import (
    ReplayState,
    Ring,
    append,
    check_ring,
    cut,
    empty_ring,
    env_axes,
    nth_oldest,
)
from kitae.buffer._tree import empty_priorities
from kitae.buffer._windows import windows_at
from kitae.buffer.replay import Replay, draw_rows


class SequenceSample(NamedTuple):
    """Sequences of consecutive rows of one environment each.

    Attributes:
        experience: Rows, leaves `[batch_size, length, ...]`.
        first: `[batch_size, length]` bool, this row begins a sequence: it is the first
            row of an episode, of the environment, or after a cut. A recurrent state is
            to be reset before it.
        importance: `[batch_size]` float32, 1 / (N p), where each of the N complete
            sequences held is drawn with its probability p: 1 where all are alike.
        index: `[batch_size]` int32, where each sequence starts, for
            `update_priorities`.
    """

    experience: Any
    first: jax.Array
    importance: jax.Array
    index: jax.Array  # pyright: ignore[reportIncompatibleMethodOverride]


def sequence_replay(
    capacity: int,
    n_envs: int,
    batch_size: int,
    length: int,
    *,
    exponent: float = 0.0,
) -> Replay:
    """Makes a replay that stores single steps and samples `length` consecutive ones.

    Any row can be a sequence's first if `length - 1` later ones are held. A sequence
    continues over the ends of episodes, after which `first` is True, but not from the
    newest row into the oldest. Before there is a complete sequence, what `sample`
    returns means nothing: whoever samples waits for `length` rows in an environment.

    Args:
        capacity: Rows kept for each environment, at least `length`.
        n_envs: Parallel environments, at least 1.
        batch_size: Sequences in one sample, at least 1.
        length: Rows in a sequence, at least 1.
        exponent: From 0, all sequences are drawn alike and have no priorities, to 1;
            see `prioritised_replay`. A sequence has the largest priority so far once
            it is complete.

    Returns:
        The functions of a `Replay`. `sample` returns a `SequenceSample`;
        `update_priorities`, if `exponent` is above 0, is as in `prioritised_replay`.

    Raises:
        ValueError: An argument is out of range; in `init`, the example is not a
            NamedTuple or dict with a bool scalar `done`; in `add`, the rows do not fit
            the example; in `update_priorities`, a shape or dtype differs.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from kitae.buffer import sequence_replay
        >>> replay = sequence_replay(8, n_envs=1, batch_size=2, length=3)
        >>> state = replay.init({"x": 0.0, "done": False})
        >>> for x, done in [(1.0, False), (2.0, True), (3.0, False)]:
        ...     state = replay.add(state, {"x": x, "done": done})
        >>> sample = replay.sample(state, jax.random.key(0))
        >>> sample.experience["x"].tolist()
        [[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]]
        >>> sample.first[0].tolist()
        [True, False, True]
    """
    ring = Ring(capacity, n_envs, begins=True)
    check_ring(ring)
    check_count("batch_size", batch_size)
    check_count("length", length)
    check_fraction("exponent", exponent)
    if length > capacity:
        raise ValueError(f"length must be at most capacity = {capacity}, got {length}")
    prioritised = exponent > 0

    def init(row: Any) -> ReplayState:
        state = empty_ring(ring, row)
        if not prioritised:
            return state
        return state._replace(priorities=empty_priorities(capacity, n_envs))

    def add(state: ReplayState, rows: Any, valid: Any = None) -> ReplayState:
        added = append(ring, state, rows, valid)
        if not prioritised:
            return added
        valid = checked_mask(valid, n_envs)
        start = (state.position - (length - 1)) % capacity
        complete = added.size >= length
        # The row takes the place of one that may have been a start, and is none yet,
        # unless it is a sequence alone.
        return with_places(
            added,
            time=jnp.stack([state.position, start], axis=1),
            drawn=jnp.stack([start == state.position, complete], axis=1),
            valid=jnp.stack([valid, valid & complete], axis=1),
        )

    def sample(state: ReplayState, key: jax.Array) -> SequenceSample:
        starts = jnp.maximum(state.size - (length - 1), 0)
        if prioritised:
            index, importance = draw_by_priority(
                state, key, batch_size, jnp.sum(starts, dtype=jnp.int32)
            )
        else:
            env, rank = draw_rows(key, starts, batch_size)
            index = nth_oldest(ring, state, env, rank) * n_envs + env
            importance = jnp.ones(batch_size, jnp.float32)
        window = windows_at(ring, state, index, length)
        return SequenceSample(window.row, window.begins, importance, index)

    return Replay(
        init=init,
        add=add,
        sample=sample,
        cut=cut,
        update_priorities=priorities_updater(exponent) if prioritised else None,
        env_axes=env_axes(ring, priorities=prioritised),
    )
