"""Replay of n-step transitions, made when they are sampled."""

from functools import partial

import jax
import jax.numpy as jnp

from kitae.buffer._checks import check_count, check_fraction
from kitae.buffer._ring import (
    ReplayState,
    Ring,
    append,
    check_ring,
    cut,
    empty_ring,
    env_axes,
)
from kitae.buffer._windows import N_STEP_FIELDS, n_step_rows
from kitae.buffer.replay import Replay, Sample, draw_held


def n_step_replay(
    capacity: int,
    n_envs: int,
    batch_size: int,
    n_steps: int,
    gamma: float,
    *,
    frame_stack: int | None = None,
) -> Replay:
    """Makes a replay that stores single steps and samples rows of `n_steps` of them.

    A sampled row starts at any row held, each with the same probability, and spans the
    k rows from there: `n_steps`, or fewer where an episode ends, a cut was made, or no
    later row is held yet. A shorter one is as valid a target, with its own γ^k, so
    nothing waits for later steps and nothing has to be flushed at an end. (Sutton and
    Barto, 2018, equation 7.1.)

    Args:
        capacity: Rows kept for each environment, at least 1.
        n_envs: Parallel environments, at least 1.
        batch_size: Rows in one sample, at least 1.
        n_steps: The most steps that a row spans, at least 1.
        gamma: The discount of one step, from 0 to 1.
        frame_stack: Frames in an observation, if each is to be kept once; see
            `uniform_replay`.

    Returns:
        The functions `init`, `add`, `sample` and `cut`. `sample` returns a `Sample`: of
        its `experience`, `reward` is Σ γ^i r_i over the k rows; `done`, `truncated` (if
        rows have it) and `next_observation` are of the last; all else is of the first.
        `discount` is γ^k, `importance` is 1.

    Raises:
        ValueError: An argument is out of range; in `init`, the example is not a
            NamedTuple or dict with a float scalar `reward`, a bool scalar `done` and
            a `next_observation`; or, in `add`, the rows do not fit the example.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from kitae.buffer import n_step_replay
        >>> replay = n_step_replay(8, 1, batch_size=4, n_steps=3, gamma=0.5)
        >>> row = {"reward": 0.0, "done": False, "next_observation": 0.0}
        >>> state = replay.add(replay.init(row), row)
        >>> state = replay.add(state, {**row, "reward": 1.0, "done": True})
        >>> sample = replay.sample(state, jax.random.key(0))
        >>> sample.experience["reward"].tolist(), sample.discount.tolist()
        ([1.0, 1.0, 0.5, 0.5], [0.5, 0.5, 0.25, 0.25])
        >>> sample.experience["done"].tolist()
        [True, True, True, True]
    """
    check_count("n_steps", n_steps)
    ring = Ring(capacity, n_envs, begins=n_steps > 1, frame_stack=frame_stack)
    check_ring(ring)
    check_count("batch_size", batch_size)
    check_fraction("gamma", gamma)

    def sample(state: ReplayState, key: jax.Array) -> Sample:
        index = draw_held(ring, state, key, batch_size)
        experience, discount = n_step_rows(ring, state, index, n_steps, gamma)
        return Sample(experience, discount, jnp.ones(batch_size, jnp.float32), index)

    return Replay(
        init=partial(empty_ring, ring, needed=N_STEP_FIELDS),
        add=partial(append, ring),
        sample=sample,
        cut=cut,
        update_priorities=None,
        env_axes=env_axes(ring),
    )
