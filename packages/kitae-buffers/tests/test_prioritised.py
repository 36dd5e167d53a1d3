import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kitae.buffer import importance_weights, prioritised_replay, stored_rows

N_ENVS = 3


@pytest.fixture(autouse=True)
def strict():
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield


def filled(n_times=2, **options):
    options = {"exponent": 1.0, "batch_size": 8, "capacity": 4, **options}
    replay = prioritised_replay(n_envs=N_ENVS, **options)
    state = replay.init({"x": 0})
    for time in range(n_times):
        rows = {"x": np.arange(N_ENVS, dtype=np.int32) + 10 * time}
        state = replay.add(state, rows)
    return replay, state


def leaves(state):
    """Priorities by time and environment, as the rows lie."""
    return np.asarray(state.priorities.levels[0])[:, :4].T


@pytest.mark.slow
def test_rows_are_drawn_as_often_as_their_priorities_say():
    replay, state = filled(batch_size=70_000, exponent=0.5)
    index = np.arange(6, dtype=np.int32)
    errors = np.array([0, 1, 4, 9, 16, 25], np.float32)
    state = replay.update_priorities(state, index, -errors)
    sample = replay.sample(state, jax.random.key(0))
    counts = np.bincount(np.asarray(sample.index), minlength=6)
    # Square roots of the errors, to the thousandth that is added to none.
    expected = 70_000 * np.sqrt(errors) / 15
    np.testing.assert_allclose(counts, expected, rtol=0.03, atol=10)
    assert counts[0] < 20
    # Importance is 1 / (N p): 15 / (6 * root).
    np.testing.assert_allclose(
        np.asarray(sample.importance)[np.asarray(sample.index) == 5], 15 / 30, rtol=1e-3
    )
    x = np.asarray(stored_rows(state)["x"]).reshape(-1)
    np.testing.assert_array_equal(sample.experience["x"], x[sample.index])
    assert sample.discount.tolist() == [1.0] * 70_000


def test_new_rows_have_the_largest_priority_seen():
    replay, state = filled(1)
    assert leaves(state)[0].tolist() == [1.0] * N_ENVS
    index, error = np.array([1], np.int32), np.array([5], np.float32)
    state = replay.update_priorities(state, index, error)
    lower = np.full(1, 2, np.float32)
    state = replay.update_priorities(state, index, lower)
    rows = {"x": np.zeros(N_ENVS, np.int32)}
    state = replay.add(state, rows, np.array([True, False, True]))
    np.testing.assert_allclose(leaves(state)[:2], [[1, 2, 1], [5, 0, 5]], rtol=1e-6)


def test_what_is_not_finite_changes_nothing():
    replay, state = filled()
    index = np.array([0, 1, 2, 3], np.int32)
    errors = np.array([np.nan, np.inf, -np.inf, 3e38], np.float32)
    state = replay.update_priorities(state, index, errors)
    expected = [1.0, 1.0, 1.0, 1e20, 1.0, 1.0]
    np.testing.assert_allclose(leaves(state)[:2].reshape(-1), expected)
    state = replay.add(state, {"x": np.zeros(N_ENVS, np.int32)})
    assert np.isfinite(replay.sample(state, jax.random.key(0)).importance).all()


def test_of_an_index_given_twice_the_larger_priority_counts():
    replay, state = filled()
    for errors in ([2, 7, 3], [7, 3, 2]):
        state = replay.update_priorities(
            state, np.array([4, 4, 4], np.int32), np.array(errors, np.float32)
        )
        assert leaves(state)[1, 1] == np.float32(7) + np.float32(1e-6)


def test_an_empty_place_cannot_be_given_a_priority():
    replay, state = filled()
    state = replay.update_priorities(
        state, np.array([8, 11], np.int32), np.array([3, 3], np.float32)
    )
    assert not leaves(state)[2:].any()
    assert state.priorities.largest.tolist() == [1.0] * N_ENVS


@pytest.mark.parametrize("place", [-1, -(2**31), 10**6, 2**31 - 1])
def test_a_place_that_there_is_not_changes_nothing(place):
    replay, state = filled(n_times=8, capacity=8)
    index = np.full(2, place, np.int32)
    changed = replay.update_priorities(state, index, np.full(2, 9.0, np.float32))
    jax.tree.map(np.testing.assert_array_equal, changed, state)


def test_exponent_zero_draws_all_alike():
    replay, state = filled(exponent=0.0)
    index = np.arange(6, dtype=np.int32)
    state = replay.update_priorities(state, index, np.arange(6, dtype=np.float32))
    sample = replay.sample(state, jax.random.key(0))
    np.testing.assert_allclose(sample.importance, np.ones(8))


def test_weights_by_hand():
    importance = jnp.array([0.25, 4.0, 1.0])
    np.testing.assert_allclose(importance_weights(importance, 0.5), [0.25, 1, 0.5])
    np.testing.assert_allclose(importance_weights(importance, 1), [1 / 16, 1, 1 / 4])
    beta = jax.jit(importance_weights)(importance, jnp.float32(0))
    assert beta.tolist() == [1.0] * 3


@pytest.mark.parametrize(
    "importance, beta, message",
    [
        (np.ones((2, 1), np.float32), 0.5, r"importance must be float32\[2\]"),
        (np.ones(2, np.int32), 0.5, r"importance must be float32\[2\], got int32"),
        (np.ones(2, np.float32), 1.5, r"beta must be from 0 to 1, got 1.5"),
        (np.ones(2, np.float32), np.ones(2, np.float32), r"beta must be float32\[\]"),
    ],
)
def test_refuses_weights_that_do_not_fit(importance, beta, message):
    with pytest.raises(ValueError, match=message):
        importance_weights(importance, beta)


def test_steps_go_in_donated_buffers_without_retracing():
    replay, state = filled()
    traces = []

    @lambda f: jax.jit(f, donate_argnums=0)
    def step(state, rows, key):
        traces.append(1)
        state = replay.add(replay.cut(state), rows)
        sample = replay.sample(state, key)
        return replay.update_priorities(state, sample.index, sample.importance)

    for x in range(5):
        before = state
        rows = {"x": np.full(N_ENVS, x, np.int32)}
        state = step(state, rows, jax.random.key(x))
    assert len(traces) == 1
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(before))


def test_vmaps_over_seeds():
    replay, state = filled()
    states = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), state)
    keys = jax.random.split(jax.random.key(0), 2)

    def step(state, key):
        sample = replay.sample(state, key)
        state = replay.update_priorities(state, sample.index, sample.importance)
        return replay.sample(state, key)

    together = jax.vmap(step)(states, keys)
    for seed in range(2):
        alone = step(state, keys[seed])
        picked = jax.tree.map(lambda leaf, seed=seed: leaf[seed], together)
        jax.tree.map(np.testing.assert_array_equal, picked, alone)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"exponent": 1.1}, r"exponent must be from 0 to 1, got 1.1"),
        ({"exponent": None}, r"exponent must be a float from 0 to 1, got None"),
        ({"n_steps": 0}, r"n_steps must be an int of at least 1, got 0"),
        ({"n_steps": 2}, r"gamma must be given where n_steps = 2"),
        ({"n_steps": 2, "gamma": -0.1}, r"gamma must be from 0 to 1, got -0.1"),
        ({"batch_size": 0}, r"batch_size must be an int of at least 1"),
        ({"frame_stack": 0}, r"frame_stack must be an int of at least 1"),
        ({"capacity": 2**30}, r"capacity \* n_envs must be at most"),
    ],
)
def test_refuses_what_is_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        filled(0, **options)


@pytest.mark.parametrize(
    "index, priorities, message",
    [
        (np.zeros(2, np.int32), np.zeros(1, np.float32), r"priorities .*float32\[2\]"),
        (np.zeros((2, 1), np.int32), np.zeros(2, np.float32), r"index must be int32"),
        (np.zeros(2, np.uint8), np.zeros(2, np.float32), r"index must be int32\[2\]"),
        (np.zeros(2, np.int32), np.zeros(2, np.int32), r"priorities .*got int32"),
    ],
)
def test_refuses_priorities_that_do_not_fit(index, priorities, message):
    replay, state = filled()
    with pytest.raises(ValueError, match=message):
        replay.update_priorities(state, index, priorities)


def test_refuses_a_state_without_priorities():
    replay, state = filled()
    with pytest.raises(ValueError, match="state must be of a replay with priorities"):
        replay.sample(state._replace(priorities=None), jax.random.key(0))
