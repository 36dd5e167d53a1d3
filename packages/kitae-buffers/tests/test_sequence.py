import jax
import numpy as np
import pytest

from kitae.buffer import sequence_replay

ROW = {"x": 0, "done": False}


@pytest.fixture(autouse=True)
def strict():
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield


def played(replay, script):
    """Adds rows 0, 1, ... to one environment: `.`, an end `d`, a cut `|`."""
    state, x = replay.init(ROW), 0
    add = jax.jit(replay.add)
    for sign in script:
        if sign == "|":
            state = replay.cut(state)
        else:
            state = add(
                state, {"x": np.full(1, x, np.int32), "done": np.full(1, sign == "d")}
            )
            x += 1
    return state


@pytest.mark.parametrize("exponent", [0.0, 1.0])
@pytest.mark.parametrize(
    "script, expected",
    [
        ("...", {(0, 1, 2): (1, 0, 0)}),
        (".d..", {(0, 1, 2): (1, 0, 1), (1, 2, 3): (0, 1, 0)}),
        ("..|.", {(0, 1, 2): (1, 0, 1)}),
        # Five fit: the window of row 2 reaches over the end of the memory, none goes
        # from row 6, the newest, into row 2, the oldest.
        (
            ".......",
            {(2, 3, 4): (0, 0, 0), (3, 4, 5): (0, 0, 0), (4, 5, 6): (0, 0, 0)},
        ),
    ],
)
def test_sequences_by_hand(script, expected, exponent):
    replay = sequence_replay(5, 1, batch_size=60, length=3, exponent=exponent)
    sample = replay.sample(played(replay, script), jax.random.key(0))
    rows = zip(sample.experience["x"].tolist(), sample.first.tolist(), strict=True)
    assert {tuple(x): tuple(first) for x, first in rows} == expected
    np.testing.assert_allclose(sample.importance, 1, rtol=1e-6)
    assert sample.index.tolist() == (sample.experience["x"][:, 0] % 5).tolist()


def test_uneven_environments_are_drawn_by_how_many_sequences_they_have():
    replay = sequence_replay(9, 2, batch_size=60_000, length=3)
    state = replay.init(ROW)
    for x in range(6):
        rows = {"x": np.array([x, 10 + x], np.int32), "done": False}
        state = replay.add(state, rows, np.array([True, x < 3]))
    sample = replay.sample(state, jax.random.key(0))
    starts, counts = np.unique(sample.experience["x"][:, 0], return_counts=True)
    assert starts.tolist() == [0, 1, 2, 3, 10]
    assert np.abs(counts - 12_000).max() < 5 * np.sqrt(60_000 * 0.2 * 0.8)


def test_priorities_are_those_of_starts():
    replay = sequence_replay(8, 1, batch_size=50_000, length=2, exponent=1.0)
    state = played(replay, "....")
    index = np.array([0, 1, 2, 3], np.int32)
    # Row 3 starts nothing yet: its priority is not set.
    errors = np.array([1, 2, 7, 50], np.float32)
    state = replay.update_priorities(state, index, errors)
    sample = replay.sample(state, jax.random.key(0))
    counts = np.bincount(np.asarray(sample.index), minlength=4)
    np.testing.assert_allclose(counts, [5_000, 10_000, 35_000, 0], rtol=0.02)
    # 1 / (N p), where the priorities of the three starts sum to 10.
    expected = np.array([10 / 3, 10 / 6, 10 / 21])[np.asarray(sample.index)]
    np.testing.assert_allclose(sample.importance, expected, rtol=1e-4)
    # The next one is complete with row 4, and gets the largest priority, 7.
    state = replay.add(state, ROW)
    leaves = np.asarray(state.priorities.levels[0])[0, :5]
    np.testing.assert_allclose(leaves, [1, 2, 7, 7, 0], rtol=1e-5)


def test_uniform_sequences_have_no_priorities():
    replay = sequence_replay(8, 1, batch_size=2, length=2)
    assert replay.update_priorities is None
    assert replay.init(ROW).priorities is None


@pytest.mark.parametrize(
    "options, message",
    [
        ({"length": 0}, r"length must be an int of at least 1, got 0"),
        ({"length": 5}, r"length must be at most capacity = 4, got 5"),
        ({"exponent": 2.0}, r"exponent must be from 0 to 1, got 2.0"),
        ({"batch_size": True}, r"batch_size must be an int of at least 1"),
    ],
)
def test_refuses_what_is_out_of_range(options, message):
    sizes = {"capacity": 4, "n_envs": 1, "batch_size": 1, "length": 2, **options}
    with pytest.raises(ValueError, match=message):
        sequence_replay(**sizes)


def test_refuses_rows_that_do_not_say_where_episodes_end():
    with pytest.raises(ValueError, match=r"with done; done is missing from \['x'\]"):
        sequence_replay(4, 1, 1, 2).init({"x": 0})
