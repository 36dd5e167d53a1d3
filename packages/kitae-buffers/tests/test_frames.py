import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kitae.buffer import (
    Experience,
    n_step_replay,
    prioritised_replay,
    stored_rows,
    uniform_replay,
)


@pytest.fixture(autouse=True)
def strict():
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield


def example(*shape, dtype=jnp.uint8):
    image = jax.ShapeDtypeStruct(shape, dtype)
    return Experience(image, 0, 0.0, False, image, 0.0)


def n_bytes(tree):
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


MAKERS = {
    "uniform": lambda *sizes: uniform_replay(*sizes, 32, frame_stack=4),
    "n_step": lambda *sizes: n_step_replay(*sizes, 32, 3, 0.99, frame_stack=4),
    "prioritised": lambda *sizes: prioritised_replay(
        *sizes, 32, exponent=0.5, n_steps=3, gamma=0.99, frame_stack=4
    ),
}


@pytest.mark.parametrize("name", MAKERS)
def test_a_million_transitions_of_atari_take_less_than_8_gb(name):
    state = jax.eval_shape(MAKERS[name](125_000, 8).init, example(4, 84, 84))
    assert 7.0e9 < n_bytes(state) < 8.0e9


@pytest.mark.parametrize("name", MAKERS)
def test_bytes_held_are_those_computed(name):
    replay = MAKERS[name](64, 2)
    state = replay.init(example(4, 84, 84))
    assert sum(x.nbytes for x in jax.tree.leaves(state)) == n_bytes(
        jax.eval_shape(replay.init, example(4, 84, 84))
    )
    # 64 rows, a sixteenth more, a stack and one.
    assert state.frames.images.shape == (64 + 4 + 4 + 1, 2, 84, 84)


def prioritised_of_one_environment(ends):
    """Adds rows 0, 1, ..., 39, each of which ends an episode or does not."""
    replay = prioritised_replay(16, 1, 64, exponent=1.0, frame_stack=2)
    state = replay.init(example(2, 3, 3))
    image, add = np.zeros((1, 2, 3, 3), np.uint8), jax.jit(replay.add)
    zero, done = np.zeros(1, np.float32), np.full(1, ends)
    for x in range(40):
        number = np.full(1, x, np.int32)
        state = add(state, Experience(image, number, zero, done, image, zero, done))
    return replay, state


def test_a_long_episode_loses_no_row():
    _, state = prioritised_of_one_environment(ends=False)
    assert state.size.tolist() == [16]
    assert state.priorities.levels[0].tolist() == [[1.0] * 16]


def test_short_episodes_give_up_the_oldest_rows():
    replay, state = prioritised_of_one_environment(ends=True)
    # 16 + 1 + 2 + 1 frames, and each row of one step takes 3.
    assert state.size.tolist() == [6]
    sample = replay.sample(state, jax.random.key(0))
    assert set(sample.experience.action.tolist()) == {34, 35, 36, 37, 38, 39}
    np.testing.assert_allclose(sample.importance, np.ones(64), rtol=1e-6)
    # What was given up stays so: its priority cannot be set.
    index = np.array([33 % 16], np.int32)
    state = replay.update_priorities(state, index, np.ones(1, np.float32))
    assert int(jnp.sum(state.priorities.levels[0] > 0)) == 6


def test_observations_of_several_images():
    row = {
        "observation": {
            "left": jax.ShapeDtypeStruct((2, 3, 3), jnp.uint8),
            "right": jax.ShapeDtypeStruct((2, 4, 4), jnp.float32),
        },
        "done": False,
    }
    row["next_observation"] = row["observation"]
    replay = uniform_replay(4, 1, 5, frame_stack=2)
    random = np.random.default_rng(0)
    left = random.integers(0, 256, (1, 3, 3, 3)).astype(np.uint8)
    right = random.random((1, 3, 4, 4)).astype(np.float32)
    rows = {
        "observation": {"left": left[:, :2], "right": right[:, :2]},
        "next_observation": {"left": left[:, 1:], "right": right[:, 1:]},
        "done": False,
    }
    state = replay.add(replay.init(row), rows)
    drawn = replay.sample(state, jax.random.key(0))
    for i in range(5):
        picked = jax.tree.map(lambda leaf, i=i: leaf[i : i + 1], drawn)
        jax.tree.map(np.testing.assert_array_equal, picked, {**rows, "done": [False]})


@pytest.mark.parametrize(
    "change, message",
    [
        ({}, None),
        (
            {"observation": jnp.zeros((84, 84, 4), jnp.uint8)},
            r"^observation must be \[frame_stack = 4, height, width\], got .*84, 84, 4",
        ),
        (
            {"observation": jnp.zeros((4, 84), jnp.uint8)},
            r"^observation must be .*got uint8\[4, 84\]",
        ),
        (
            {"next_observation": jnp.zeros((3, 8, 8), jnp.uint8)},
            r"^next_observation must be \[frame_stack = 4",
        ),
        (
            {"next_observation": jnp.zeros((4, 8, 9), jnp.uint8)},
            r"^next_observation must be as observation",
        ),
        ({"next_observation": None}, r"^next_observation must have at least one leaf"),
    ],
)
@pytest.mark.parametrize("name", MAKERS)
def test_refuses_what_is_no_stack_of_frames(name, change, message):
    replay = MAKERS[name](8, 1)
    row = example(4, 8, 8)._replace(**change)
    if message is None:
        replay.init(row)
        return
    with pytest.raises(ValueError, match=message):
        replay.init(row)


@pytest.mark.parametrize("missing", ["observation", "next_observation", "done"])
def test_refuses_rows_without_a_field(missing):
    row = example(4, 8, 8)._asdict()
    del row[missing]
    with pytest.raises(ValueError, match=rf"; {missing} is missing from"):
        MAKERS["uniform"](8, 1).init(row)


def test_refuses_rows_that_do_not_fit():
    replay = MAKERS["uniform"](8, 1)
    state = replay.init(example(4, 8, 8))
    image = np.zeros((1, 4, 8, 9), np.uint8)
    with pytest.raises(ValueError, match=r"observation must be uint8\[1, 4, 8, 8\]"):
        replay.add(state, Experience(image, 0, 0.0, False, image, 0.0))


def test_refuses_to_unpack_every_stack():
    state = MAKERS["uniform"](8, 1).init(example(4, 8, 8))
    with pytest.raises(ValueError, match="state must be of a replay without frame_st"):
        stored_rows(state)


def test_frames_go_in_donated_buffers_without_retracing():
    replay = MAKERS["n_step"](4, 2)
    state, traces = replay.init(example(4, 8, 8)), []

    @lambda f: jax.jit(f, donate_argnums=0)
    def add(state, rows):
        traces.append(1)
        return replay.add(state, rows)

    image = np.zeros((2, 4, 8, 8), np.uint8)
    for _ in range(3):
        before = state
        state = add(state, Experience(image, 0, 0.0, False, image, 0.0))
    assert len(traces) == 1
    assert before.frames.images.is_deleted()
