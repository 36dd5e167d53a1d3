"""A replay split along its environments is a replay of each part."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from kitae.buffer import (
    Experience,
    n_step_replay,
    prioritised_replay,
    sequence_replay,
    uniform_replay,
)

MAKERS = {
    "uniform": lambda n_envs: uniform_replay(6, n_envs, 4),
    "uniform frames": lambda n_envs: uniform_replay(6, n_envs, 4, frame_stack=2),
    "n_step": lambda n_envs: n_step_replay(6, n_envs, 4, 2, 0.5),
    "n_step frames": lambda n_envs: n_step_replay(6, n_envs, 4, 2, 0.5, frame_stack=2),
    "prioritised": lambda n_envs: prioritised_replay(6, n_envs, 4, exponent=0.5),
    "prioritised frames": lambda n_envs: prioritised_replay(
        6, n_envs, 4, exponent=0.5, n_steps=3, gamma=0.5, frame_stack=2
    ),
    "sequence": lambda n_envs: sequence_replay(6, n_envs, 4, 2),
    "sequence prioritised": lambda n_envs: sequence_replay(
        6, n_envs, 4, 2, exponent=0.5
    ),
}
IMAGE = jax.ShapeDtypeStruct((2, 3, 3), jnp.uint8)
EXAMPLE = Experience(IMAGE, 0, 0.0, False, IMAGE, 0.0)


def rows_of(time):
    image = np.full((4, 2, 3, 3), time, np.uint8)
    number = np.arange(4, dtype=np.int32) + 10 * time
    reward = number.astype(np.float32)
    return Experience(image, number, reward, number % 3 == 0, image, reward, reward < 0)


def played(replay, envs=slice(None)):
    state, add = replay.init(EXAMPLE), jax.jit(replay.add)
    for time in range(9):
        rows = jax.tree.map(lambda leaf: leaf[envs], rows_of(time))
        mask = np.array([True, time != 2, True, time < 4])[envs]
        state = add(replay.cut(state) if time == 5 else state, rows, mask)
    return state


@pytest.mark.parametrize("name", MAKERS)
def test_the_axes_split_a_state_into_states(name):
    replay = MAKERS[name](4)
    state, half = played(replay), played(MAKERS[name](2), slice(2, 4))
    picked = jax.tree.map(
        lambda axis, part: jax.tree.map(
            lambda leaf: jnp.take(leaf, jnp.array([2, 3]), axis=axis), part
        ),
        replay.env_axes,
        state,
    )
    assert jax.tree.structure(picked) == jax.tree.structure(half)
    jax.tree.map(np.testing.assert_array_equal, picked, half)


@pytest.mark.parametrize("name", MAKERS)
def test_runs_alike_when_sharded(name):
    replay = MAKERS[name](4)
    mesh = Mesh(np.array(jax.devices()[:1]), ("env",))
    specs = jax.tree.map(lambda axis: P(*[None] * axis, "env"), replay.env_axes)

    def step(state, rows, key):
        state = replay.add(replay.cut(state), rows)
        sample = replay.sample(state, key)
        if replay.update_priorities is not None:
            state = replay.update_priorities(state, sample.index, sample.importance)
        return state, sample

    split = jax.shard_map(
        step,
        mesh=mesh,
        in_specs=(specs, P("env"), P()),
        out_specs=(specs, P("env")),
        check_vma=False,
    )
    arguments = played(replay), rows_of(9), jax.random.key(0)
    together, apart = jax.jit(split)(*arguments), jax.jit(step)(*arguments)
    jax.tree.map(np.testing.assert_array_equal, together, apart)


@pytest.mark.parametrize("name", MAKERS)
def test_only_what_is_needed_is_stored(name):
    replay = MAKERS[name](4)
    state = replay.init(EXAMPLE)
    has_frames, has_priorities = "frames" in name, "prioritised" in name
    assert (state.frames is not None) == has_frames
    assert (state.priorities is not None) == has_priorities
    assert (replay.update_priorities is not None) == has_priorities
    one_row = name in ("uniform", "prioritised")
    assert (state.ended is None) == one_row
    assert (replay.cut(state) is state) == one_row
