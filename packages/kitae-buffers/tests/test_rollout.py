import jax
import numpy as np
import pytest

from kitae.buffer import rollout_storage


def numbers(*values):
    return {"x": np.array(values, np.int32)}


def test_columns_hold_consecutive_rows_of_their_environment():
    rollout = rollout_storage(length=3, n_envs=2)
    state = rollout.init({"x": 0})
    masks = [(True, True), (True, False), (True, True), (True, True)]
    full = []
    for step, valid in enumerate(masks):
        state = rollout.add(state, numbers(step, 10 + step), np.array(valid))
        full.append(bool(rollout.is_full(state)))
    # Environment 1 reset at step 1; environment 0 was full when step 3 came.
    assert state.data["x"].T.tolist() == [[0, 1, 2], [10, 12, 13]]
    assert full == [False, False, False, True]


def test_clear_starts_again_in_the_same_memory():
    rollout = rollout_storage(length=1, n_envs=2)
    state = rollout.add(rollout.init({"x": 0}), numbers(1, 2))
    state = rollout.clear(state)
    assert not rollout.is_full(state)
    state = rollout.add(state, numbers(3, 4))
    assert state.data["x"].tolist() == [[3, 4]]


def test_runs_inside_a_scan():
    rollout = rollout_storage(length=4, n_envs=2)

    def body(state, row):
        return rollout.add(state, row), None

    rows = {"x": np.arange(8, dtype=np.int32).reshape(4, 2)}
    state, _ = jax.lax.scan(body, rollout.init({"x": 0}), rows)
    np.testing.assert_array_equal(state.data["x"], rows["x"])


@pytest.mark.parametrize("name", ["length", "n_envs"])
@pytest.mark.parametrize("value", [0, 2.0, False])
def test_refuses_a_bad_size(name, value):
    with pytest.raises(ValueError, match=rf"^{name} must be an int of at least 1"):
        rollout_storage(**{"length": 1, "n_envs": 1, name: value})


def test_refuses_rows_that_do_not_fit():
    rollout = rollout_storage(length=2, n_envs=2)
    with pytest.raises(ValueError, match=r"x must be int32\[2\]"):
        rollout.add(rollout.init({"x": 0}), numbers(1, 2, 3))
