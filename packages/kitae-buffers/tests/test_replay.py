import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kitae.buffer import Experience, stored_rows, uniform_replay
from kitae.buffer.replay import draw_below

N_ENVS = 3


@pytest.fixture(autouse=True)
def strict():
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield


def numbered(first, n_envs=N_ENVS):
    """Rows in which every field of one row tells the same number."""
    number = first + np.arange(n_envs)
    return Experience(
        observation=np.stack([number, number], axis=1).astype(np.float32),
        action=number.astype(np.int32),
        reward=number.astype(np.float32),
        done=number % 2 == 1,
        next_observation=np.stack([number, -number], axis=1).astype(np.float32),
        log_prob=-number.astype(np.float32),
        truncated=number % 3 == 0,
    )


EXAMPLE = Experience(jnp.zeros(2), 0, 0.0, False, jnp.zeros(2), 0.0)


class Twin:
    """The obvious replay: a list of rows per environment, the oldest dropped."""

    def __init__(self, capacity, n_envs):
        self.capacity = capacity
        self.rows = [[] for _ in range(n_envs)]

    def add(self, rows, valid):
        for env, keep in enumerate(valid):
            if keep:
                self.rows[env].append(int(rows.action[env]))
                self.rows[env] = self.rows[env][-self.capacity :]

    def held(self):
        return sorted(itertools.chain.from_iterable(self.rows))


@functools.cache
def compiled_replay(capacity):
    replay = uniform_replay(capacity, N_ENVS, batch_size=64)
    return replay.init, jax.jit(replay.add), jax.jit(replay.sample)


masks = st.lists(st.lists(st.booleans(), min_size=N_ENVS, max_size=N_ENVS), max_size=12)


@settings(deadline=None, max_examples=60)
@given(masks=masks, capacity=st.integers(1, 4), seed=st.integers(0, 2**31 - 1))
def test_holds_and_samples_what_a_list_would(masks, capacity, seed):
    init, add, sample = compiled_replay(capacity)
    state, twin = init(EXAMPLE), Twin(capacity, N_ENVS)
    for step, valid in enumerate(masks):
        rows = numbered(step * N_ENVS)
        state = add(state, rows, np.array(valid))
        twin.add(rows, valid)

    assert state.size.tolist() == [len(rows) for rows in twin.rows]
    stored = np.asarray(stored_rows(state).action)
    held = [
        int(stored[time, env])
        for env in range(N_ENVS)
        for time in range(int(state.size[env]))
    ]
    assert sorted(held) == twin.held()

    if held:
        batch = sample(state, jax.random.key(seed))
        number = np.asarray(batch.action)
        assert set(number) <= set(held)
        # A sampled row is one row in all of its fields.
        np.testing.assert_array_equal(batch.observation[:, 1], number)
        np.testing.assert_array_equal(batch.next_observation[:, 1], -number)
        np.testing.assert_array_equal(batch.reward, number)
        np.testing.assert_array_equal(batch.done, number % 2 == 1)
        np.testing.assert_array_equal(batch.log_prob, -number)
        np.testing.assert_array_equal(batch.truncated, number % 3 == 0)


def test_every_row_is_drawn_equally_often_even_from_uneven_rings():
    replay = uniform_replay(4, 2, batch_size=60_000)
    state = replay.init({"x": 0})
    for x in range(6):
        rows = {"x": np.array([x, 100 + x], np.int32)}
        state = replay.add(state, rows, np.array([True, x == 0]))
    drawn = replay.sample(state, jax.random.key(0))["x"]
    values, counts = np.unique(drawn, return_counts=True)
    # Environment 0 holds its newest four rows, environment 1 only its first.
    assert values.tolist() == [2, 3, 4, 5, 100]
    # Five standard deviations of a binomial with p = 1/5.
    assert np.abs(counts - 12_000).max() < 5 * np.sqrt(60_000 * 0.2 * 0.8)


@pytest.mark.parametrize("bound", [1, 7, 65_536, 1_000_003, 2**31 - 1])
def test_draws_cover_the_whole_range(bound):
    n = 50_000
    drawn = np.asarray(draw_below(jax.random.key(1), jnp.int32(bound), n), np.int64)
    bits = np.asarray(jax.random.bits(jax.random.key(1), (n,), jnp.uint32), np.uint64)
    np.testing.assert_array_equal(drawn, (bits * np.uint64(bound)) >> np.uint64(32))
    assert drawn.min() >= 0
    assert drawn.max() < bound
    assert abs(drawn.mean() / bound - (0.5 - 0.5 / bound)) < 0.01


def test_another_key_draws_another_sample():
    replay = uniform_replay(50, N_ENVS, batch_size=16)
    state = replay.init(EXAMPLE)
    for step in range(50):
        state = replay.add(state, numbered(step * N_ENVS))
    first = replay.sample(state, jax.random.key(0)).action
    assert first.tolist() == replay.sample(state, jax.random.key(0)).action.tolist()
    assert first.tolist() != replay.sample(state, jax.random.key(1)).action.tolist()


def test_an_added_step_goes_in_donated_buffers_without_retracing():
    replay = uniform_replay(5, N_ENVS, batch_size=4)
    traces = []

    @lambda f: jax.jit(f, donate_argnums=0)
    def add(state, rows, valid):
        traces.append(1)
        return replay.add(state, rows, valid)

    state = replay.init(EXAMPLE)
    for step in range(7):
        before = state
        state = add(state, numbered(step * N_ENVS), np.ones(N_ENVS, bool))
    assert len(traces) == 1
    assert before.data.words.is_deleted()


@pytest.mark.parametrize("side", [6, 84])
def test_images_take_a_byte_for_each_pixel(side):
    replay = uniform_replay(2, 1, batch_size=1)
    state = replay.init({"image": jax.ShapeDtypeStruct((4, side, side), jnp.uint8)})
    n_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(state.data))
    assert n_bytes == 2 * 4 * side * side
    image = stored_rows(state)["image"]
    assert (image.shape, image.dtype) == ((2, 1, 4, side, side), jnp.uint8)


def test_images_are_stored_beside_the_words_and_sampled_with_them():
    replay = uniform_replay(3, 2, batch_size=20)
    state = replay.init({"image": np.zeros((20, 20), np.uint8), "x": np.int32(0)})
    assert [leaf.shape for leaf in state.data.large] == [(3, 2, 20, 20)]
    for x in range(4):
        number = np.array([x, 10 + x])
        image = np.broadcast_to(number[:, None, None], (2, 20, 20)).astype(np.uint8)
        rows = {"image": image, "x": number.astype(np.int32)}
        state = replay.add(state, rows, np.array([True, x < 1]))
    assert stored_rows(state)["x"].T.tolist() == [[3, 1, 2], [10, 0, 0]]
    batch = replay.sample(state, jax.random.key(0))
    assert set(batch["x"].tolist()) == {1, 2, 3, 10}
    same = batch["image"] == batch["x"].astype(jnp.uint8)[:, None, None]
    assert bool(jnp.all(same))


def test_a_row_with_nothing_to_pack():
    replay = uniform_replay(2, 2, batch_size=3)
    state = replay.init(np.zeros(300, np.float32))
    state = replay.add(state, np.ones((2, 300), np.float32))
    assert len(jax.tree.leaves(state)) == 3
    assert replay.sample(state, jax.random.key(0)).tolist() == [[1.0] * 300] * 3


def test_one_array_holds_a_row_of_small_leaves():
    state = uniform_replay(5, N_ENVS, batch_size=1).init(EXAMPLE)
    # Four floats of observations, action, reward, log_prob, and a word for two bools.
    assert state.data.words.shape == (5, N_ENVS, 2 + 2 + 1 + 1 + 1 + 1)
    assert len(jax.tree.leaves(state)) == 3


def test_a_state_is_rebuilt_from_its_leaves():
    replay = uniform_replay(4, N_ENVS, batch_size=8)
    state = replay.add(replay.init(EXAMPLE), numbered(5))
    found = jax.tree_util.tree_leaves_with_path(state)
    paths = [jax.tree_util.keystr(path) for path, _ in found]
    assert paths == [".data.words", ".position", ".size"]
    leaves = [jnp.array(np.asarray(leaf)) for _, leaf in found]
    like = replay.init(EXAMPLE)
    rebuilt = jax.tree.unflatten(jax.tree.structure(like), leaves)
    assert stored_rows(rebuilt).action[0].tolist() == [5, 6, 7]


def test_states_of_one_example_share_a_compiled_function():
    replay = uniform_replay(2, N_ENVS, batch_size=1)
    traces = []

    @jax.jit
    def count(state):
        traces.append(1)
        return state.size.sum()

    count(replay.init(EXAMPLE))
    another = jax.tree.map(lambda leaf: leaf[0], numbered(0))
    count(replay.add(replay.init(another), numbered(0)))
    assert len(traces) == 1


@pytest.mark.parametrize("name", ["capacity", "n_envs", "batch_size"])
@pytest.mark.parametrize("value", [0, -1, 1.0, True, None])
def test_refuses_a_bad_size(name, value):
    arguments = {"capacity": 4, "n_envs": 2, "batch_size": 2, name: value}
    with pytest.raises(ValueError, match=rf"^{name} must be an int of at least 1"):
        uniform_replay(**arguments)


def test_refuses_more_rows_than_an_index_can_name():
    with pytest.raises(ValueError, match=r"at most 2\*\*31 - 1 rows"):
        uniform_replay(2**30, 2, 1)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"reward": np.zeros((N_ENVS, 1), np.float32)}, r"reward .*float32\[3\].*3, 1"),
        ({"reward": np.zeros(N_ENVS, np.int32)}, r"reward must be float32"),
        ({"observation": np.zeros((N_ENVS, 1), np.float32)}, r"observation .*\[3, 2\]"),
        ({"done": np.zeros(1, bool)}, r"done must be bool\[3\]"),
        ({"observation": {"x": np.zeros(3)}}, r"rows must be built as the example"),
    ],
)
def test_refuses_rows_that_do_not_fit(change, message):
    replay = uniform_replay(4, N_ENVS, 2)
    state = replay.init(EXAMPLE)
    with pytest.raises(ValueError, match=message):
        replay.add(state, numbered(0)._replace(**change))


@pytest.mark.parametrize("valid", [np.ones(2, bool), np.ones(N_ENVS, np.int32)])
def test_refuses_a_mask_that_does_not_fit(valid):
    replay = uniform_replay(4, N_ENVS, 2)
    with pytest.raises(ValueError, match=r"valid must be bool\[3\]"):
        replay.add(replay.init(EXAMPLE), numbered(0), valid)


def test_six_positional_fields_make_an_experience():
    rows = Experience(*numbered(1)[:6])
    replay = uniform_replay(1, N_ENVS, 8)
    state = replay.add(replay.init(EXAMPLE), rows)
    assert not replay.sample(state, jax.random.key(0)).truncated.any()
    compiled = jax.jit(replay.add)(replay.init(EXAMPLE), rows)
    assert stored_rows(compiled).truncated.tolist() == [[False] * N_ENVS]


def test_no_mask_is_a_mask_of_all():
    replay = uniform_replay(2, N_ENVS, batch_size=1)
    state = replay.add(replay.init(EXAMPLE), numbered(0), np.array([True, False, True]))
    masked = replay.add(state, numbered(3), np.ones(N_ENVS, bool))
    alone = replay.add(state, numbered(3))
    jax.tree.map(np.testing.assert_array_equal, alone, masked)
    assert stored_rows(alone).action.tolist() == [[0, 4, 2], [3, 0, 5]]


def test_a_leaf_that_fits_no_word_keeps_an_array_of_its_own():
    replay = uniform_replay(2, 2, batch_size=4)
    state = replay.init({"x": np.complex64(0), "y": np.float32(0)})
    assert [leaf.dtype for leaf in jax.tree.leaves(state.data)] == [
        jnp.uint32,
        jnp.complex64,
    ]
    state = replay.add(state, {"x": np.full(2, 1 - 2j, np.complex64), "y": 0.5})
    batch = replay.sample(state, jax.random.key(0))
    assert batch["x"].tolist() == [1 - 2j] * 4
    assert batch["y"].tolist() == [0.5] * 4


def test_vmaps_over_seeds():
    replay = uniform_replay(4, N_ENVS, batch_size=5)
    keys = jax.random.split(jax.random.key(0), 2)

    def fill_and_sample(key):
        state = replay.add(replay.init(EXAMPLE), numbered(3))
        return replay.sample(state, key).action

    together = jax.vmap(fill_and_sample)(keys)
    alone = [fill_and_sample(key).tolist() for key in keys]
    assert together.tolist() == alone
