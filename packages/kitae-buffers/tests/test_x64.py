"""Replays hold and draw the same where JAX has 64-bit types."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kitae.buffer import (
    Experience,
    n_step_replay,
    prioritised_replay,
    sequence_replay,
    uniform_replay,
)

N_ENVS, N_STEPS = 3, 40
STEPS = {"n_steps": 3, "gamma": 0.9}
# Rings of 12,000 rows are long enough for the loops of one kernel.
REPLAYS = {
    "uniform": lambda: uniform_replay(12_000, N_ENVS, 32),
    "frames": lambda: uniform_replay(16, N_ENVS, 32, frame_stack=2),
    "n-step": lambda: n_step_replay(12_000, N_ENVS, 32, **STEPS),
    "prioritised": lambda: prioritised_replay(
        12_000, N_ENVS, 32, exponent=0.5, **STEPS
    ),
    "prioritised-frames": lambda: prioritised_replay(
        16, N_ENVS, 32, exponent=0.5, frame_stack=2, **STEPS
    ),
    "prioritised-sequence": lambda: sequence_replay(
        16, N_ENVS, 8, length=4, exponent=0.5
    ),
}


@pytest.fixture
def x64():
    """Says whether 64-bit types are on, as JAX_ENABLE_X64 does."""
    before = jax.config.jax_enable_x64
    yield lambda value: jax.config.update("jax_enable_x64", value)
    jax.config.update("jax_enable_x64", before)


def filled(replay):
    def row(t):
        images = np.full((N_ENVS, 2, 5, 5), t, np.uint8)
        steps = np.full(N_ENVS, t, np.int32)
        floats, done = steps.astype(np.float32), (steps + np.arange(N_ENVS)) % 7 == 0
        return Experience(images, steps, floats, done, images, floats, ~done)

    def spec(leaf):
        return jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype)

    state = replay.init(jax.tree.map(spec, row(0)))
    add = jax.jit(replay.add)
    for t in range(N_STEPS):
        state = add(state, row(t))
    sample = jax.jit(replay.sample)(state, jax.random.key(1))
    if replay.update_priorities is not None:
        priorities = jnp.arange(sample.index.size, dtype=jnp.float32)
        state = jax.jit(replay.update_priorities)(state, sample.index, priorities)
    return [np.asarray(leaf) for leaf in jax.tree.leaves((state, sample))]


@pytest.mark.parametrize("name", REPLAYS)
def test_what_is_held_and_drawn_does_not_depend_on_64_bit_types(name, x64):
    narrow = filled(REPLAYS[name]())
    x64(True)
    wide = filled(REPLAYS[name]())
    assert [leaf.dtype for leaf in wide] == [leaf.dtype for leaf in narrow]
    for one, other in zip(wide, narrow, strict=True):
        np.testing.assert_array_equal(one, other)
