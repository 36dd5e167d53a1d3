"""Prioritised experience replay (Schaul et al., 2016), proportional."""

from typing import Any

import jax
import jax.numpy as jnp

from kitae.buffer._checks import (
    check_count,
    check_fraction,
    check_spec,
    checked_mask,
)
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
from kitae.buffer._windows import N_STEP_FIELDS, n_step_rows
from kitae.buffer.replay import Replay, Sample


def importance_weights(importance: jax.Array, beta: Any) -> jax.Array:
    """Weighs the rows of a batch against how they were drawn.

    w = (1 / (N p))^β, divided by the largest of the batch, so that an update is only
    ever scaled down (Schaul et al., 2016, section 3.4). There β goes linearly from 0.4
    to 1 over the training, which is up to the caller.

    Args:
        importance: `[batch]` float32, 1 / (N p), as a `Sample` has it.
        beta: Scalar from 0, no correction, to 1, the whole of it.

    Returns:
        `[batch]` float32 weights from 0 to 1, by which to multiply each row's loss.

    Raises:
        ValueError: A shape or dtype differs; or `beta` is a number out of range.

    Example:
        >>> import jax.numpy as jnp
        >>> from kitae.buffer import importance_weights
        >>> importance_weights(jnp.array([4.0, 1.0]), 0.5).tolist()
        [1.0, 0.5]
    """
    importance = jnp.asarray(importance)
    check_spec("importance", importance, (importance.size,), jnp.float32)
    if isinstance(beta, int | float):
        check_fraction("beta", beta)
    beta = jnp.asarray(beta, jnp.float32)
    check_spec("beta", beta, (), jnp.float32)
    return (importance / jnp.max(importance)) ** beta


def prioritised_replay(
    capacity: int,
    n_envs: int,
    batch_size: int,
    *,
    exponent: float,
    n_steps: int = 1,
    gamma: float | None = None,
    frame_stack: int | None = None,
) -> Replay:
    """Makes a replay that samples rows by how much there is to learn from them.

    A row is drawn with probability p^α / Σ p^α (Schaul et al., 2016, equation 1), with
    replacement; the draws are stratified, as in appendix B.2.1 there: the i-th falls
    in the i-th of `batch_size` equal parts of the sum, so that a batch varies less and
    comes in the order of the environments. A new row has the largest priority seen so
    far, at first 1. A row's window starts at it and is that of `n_step_replay`.

    Sums are kept apart for each environment, so that the state can be split along
    `env_axes`; each part then draws among its own rows, and has its own largest
    priority.

    Args:
        capacity: Rows kept for each environment, at least 1.
        n_envs: Parallel environments, at least 1.
        batch_size: Rows in one sample, at least 1.
        exponent: α from 0, all rows alike, to 1.
        n_steps: The most steps that a row spans, at least 1. With 1, rows may be of
            any kind.
        gamma: The discount of one step, from 0 to 1; needed if `n_steps` is above 1.
            If left out, `discount` is 1 and the discount is up to the caller.
        frame_stack: Frames in an observation, if each is to be kept once; see
            `uniform_replay`. A row that is given up is no longer drawn.

    Returns:
        All functions of a `Replay`. `sample` returns a `Sample`;
        `update_priorities(state, index, priorities)` sets those of the rows at `index`
        (`[n]` int32, of a sample) to `priorities` (`[n]` float32, absolute errors; a
        sign is dropped). What is kept is (priority + 1e-6)^α. Of an index given twice,
        the larger priority counts. A priority that is not finite changes nothing, nor
        does one of a row no longer held or an index out of range.

    Raises:
        ValueError: An argument is out of range; in `init`, the example lacks what
            `n_steps` or `frame_stack` needs; in `add`, the rows do not fit the
            example; in `update_priorities`, a shape or dtype differs.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from kitae.buffer import prioritised_replay
        >>> replay = prioritised_replay(8, n_envs=2, batch_size=4, exponent=1.0)
        >>> state = replay.add(replay.init({"x": 0.0}), {"x": jnp.array([1.0, 2.0])})
        >>> state = replay.update_priorities(
        ...     state, jnp.array([0, 1]), jnp.array([1.0, 3.0])
        ... )
        >>> sample = replay.sample(state, jax.random.key(0))
        >>> sample.experience["x"].tolist()
        [1.0, 2.0, 2.0, 2.0]
        >>> [round(x, 3) for x in sample.importance.tolist()]
        [2.0, 0.667, 0.667, 0.667]
    """
    check_count("n_steps", n_steps)
    ring = Ring(capacity, n_envs, begins=n_steps > 1, frame_stack=frame_stack)
    check_ring(ring)
    check_count("batch_size", batch_size)
    check_fraction("exponent", exponent)
    if gamma is None and n_steps > 1:
        raise ValueError(f"gamma must be given where n_steps = {n_steps} is above 1")
    discount_of_step = 1.0 if gamma is None else gamma
    check_fraction("gamma", discount_of_step)

    def init(row: Any) -> ReplayState:
        state = empty_ring(ring, row, N_STEP_FIELDS if n_steps > 1 else ())
        return state._replace(priorities=empty_priorities(capacity, n_envs))

    def add(state: ReplayState, rows: Any, valid: Any = None) -> ReplayState:
        added = append(ring, state, rows, valid)
        time, valid = state.position[:, None], checked_mask(valid, n_envs)[:, None]
        if frame_stack is None:
            return with_places(added, time, valid, valid)
        lost_time, lost = given_up(ring, state, added, valid)
        # The new row may have the place of a row that is lost.
        return with_places(
            added,
            time=jnp.concatenate([time, lost_time], axis=1),
            drawn=jnp.concatenate([valid, lost_time == time], axis=1),
            valid=jnp.concatenate([valid, lost], axis=1),
        )

    def sample(state: ReplayState, key: jax.Array) -> Sample:
        held = jnp.sum(state.size, dtype=jnp.int32)
        index, importance = draw_by_priority(state, key, batch_size, held)
        experience, discount = n_step_rows(
            ring, state, index, n_steps, discount_of_step
        )
        return Sample(experience, discount, importance, index)

    return Replay(
        init=init,
        add=add,
        sample=sample,
        cut=cut,
        update_priorities=priorities_updater(exponent),
        env_axes=env_axes(ring, priorities=True),
    )


def given_up(
    ring: Ring, state: ReplayState, added: ReplayState, valid: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Finds the rows that are held no longer since their frames were overwritten.

    Args:
        ring: What is kept, with frames.
        state: Before rows were appended.
        added: Thereafter.
        valid: `[n_envs, 1]` bool, in which environments there was a row to append.

    Returns:
        time: `[n_envs, n]` int32, the oldest rows of each environment.
        lost: `[n_envs, n]` bool, which of them are no longer held; among them may be
            one whose place the new row took.
    """
    assert ring.frame_stack is not None
    env = jnp.arange(ring.n_envs, dtype=jnp.int32)[:, None]
    rank = jnp.arange(ring.frame_stack + 1, dtype=jnp.int32)[None]
    n_gone = state.size[:, None] + valid.astype(jnp.int32) - added.size[:, None]
    time = nth_oldest(ring, state, env, rank)
    return time, rank < n_gone
