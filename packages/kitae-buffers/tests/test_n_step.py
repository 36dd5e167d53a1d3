import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kitae.buffer import Experience, n_step_replay

ROW = {"x": 0, "reward": 0.0, "done": False, "next_observation": 0}


@pytest.fixture(autouse=True)
def strict():
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield


def column(value):
    return jnp.asarray(value)[None]


def played(replay, script, row=ROW):
    """Adds rows 0, 1, ... to one environment: `.`, an end `d`, `t`, a cut `|`."""
    state, x = replay.init(row), 0
    add = jax.jit(replay.add)
    for sign in script:
        if sign == "|":
            state = replay.cut(state)
            continue
        new = {**row, "x": x, "reward": 2.0**x, "next_observation": x + 1}
        new["done"] = sign == "d"
        if "truncated" in row:
            new["truncated"] = sign == "t"
        state, x = add(state, jax.tree.map(column, new)), x + 1
    return state


def by_row(sample):
    """What was sampled, by the row it starts at: reward, last row + 1, discount."""
    rows = sample.experience
    columns = (rows["x"], rows["reward"], rows["next_observation"], sample.discount)
    return {x: rest for x, *rest in zip(*(c.tolist() for c in columns), strict=True)}


# Rewards are 1, 2, 4, ..., discounts 1/2: every step adds as much as the first.
@pytest.mark.parametrize(
    "script, expected",
    [
        ("...", {0: [3, 3, 1 / 8], 1: [4, 3, 1 / 4], 2: [4, 3, 1 / 2]}),
        ("d..", {0: [1, 1, 1 / 2], 1: [4, 3, 1 / 4], 2: [4, 3, 1 / 2]}),
        (".|.", {0: [1, 1, 1 / 2], 1: [2, 2, 1 / 2]}),
        (".d|.", {0: [2, 2, 1 / 4], 1: [2, 2, 1 / 2], 2: [4, 3, 1 / 2]}),
        # Four rows fit: row 4 took the place of row 0, and row 3 goes on into it.
        (
            ".....",
            {1: [6, 4, 1 / 8], 2: [12, 5, 1 / 8], 3: [16, 5, 1 / 4], 4: [16, 5, 1 / 2]},
        ),
        (
            "....d",
            {2: [12, 5, 1 / 8], 1: [6, 4, 1 / 8], 3: [16, 5, 1 / 4], 4: [16, 5, 1 / 2]},
        ),
    ],
)
def test_windows_by_hand(script, expected):
    replay = n_step_replay(4, 1, batch_size=99, n_steps=3, gamma=0.5)
    sample = replay.sample(played(replay, script), jax.random.key(0))
    assert by_row(sample) == expected
    assert sample.importance.tolist() == [1.0] * 99
    assert sample.index.tolist() == [x % 4 for x in sample.experience["x"].tolist()]


def test_a_truncation_ends_a_window_and_is_told():
    row = {**ROW, "truncated": False}
    replay = n_step_replay(4, 1, batch_size=50, n_steps=3, gamma=0.5)
    sample = replay.sample(played(replay, ".t.", row), jax.random.key(0))
    assert by_row(sample) == {0: [2, 2, 1 / 4], 1: [2, 2, 1 / 2], 2: [4, 3, 1 / 2]}
    rows = sample.experience
    assert rows["truncated"].tolist() == [x < 2 for x in rows["x"].tolist()]
    assert not rows["done"].any()


def test_what_lies_outside_a_window_cannot_spoil_it():
    replay = n_step_replay(2, 1, batch_size=20, n_steps=2, gamma=0.5)
    state = replay.add(replay.init(ROW), {**ROW, "reward": 1.0, "done": True})
    state = replay.add(state, {**ROW, "x": 1, "reward": np.full(1, np.nan, np.float32)})
    sample = replay.sample(state, jax.random.key(0))
    first = sample.experience["x"] == 0
    assert sample.experience["reward"][first].tolist() == [1.0] * int(first.sum())


def test_large_leaves_are_of_the_first_and_the_last_row():
    row = Experience(jnp.zeros(300), 0, 0.0, False, jnp.zeros(300), 0.0)
    replay = n_step_replay(4, 2, batch_size=30, n_steps=2, gamma=1.0)
    state = replay.init(row)
    for x in range(3):
        seen = np.full((2, 300), x, np.float32)
        rows = Experience(seen, np.full(2, x, np.int32), 1.0, False, seen + 1, 0.0)
        state = replay.add(state, rows)
    rows = jax.jit(replay.sample)(state, jax.random.key(0)).experience
    np.testing.assert_array_equal(rows.observation[:, 7], rows.action)
    np.testing.assert_array_equal(
        rows.next_observation[:, 7], np.minimum(rows.action + 2, 3)
    )
    np.testing.assert_array_equal(rows.reward, np.where(rows.action == 2, 1, 2))


def test_rows_are_drawn_alike():
    replay = n_step_replay(4, 1, batch_size=40_000, n_steps=3, gamma=0.5)
    sample = replay.sample(played(replay, "......"), jax.random.key(0))
    counts = np.bincount(np.asarray(sample.index))
    assert np.abs(counts - 10_000).max() < 5 * np.sqrt(40_000 * 3 / 16)


def test_steps_go_in_donated_buffers_without_retracing():
    replay = n_step_replay(4, 1, batch_size=3, n_steps=2, gamma=0.5)
    state, traces = replay.init(ROW), []

    @lambda f: jax.jit(f, donate_argnums=0)
    def step(state, rows, key):
        traces.append(1)
        state = replay.add(replay.cut(state), rows)
        return state, replay.sample(state, key)

    for x in range(6):
        before = state
        state, _ = step(state, {**ROW, "x": x}, jax.random.key(x))
    assert len(traces) == 1
    assert before.data.words.is_deleted()


@pytest.mark.parametrize("missing", ["reward", "done", "next_observation"])
@pytest.mark.parametrize("n_steps", [1, 2])
def test_refuses_a_row_without_a_field(missing, n_steps):
    row = {name: leaf for name, leaf in ROW.items() if name != missing}
    replay = n_step_replay(4, 1, 1, n_steps, gamma=0.5)
    with pytest.raises(ValueError, match=rf"with reward, done, .*; {missing} is miss"):
        replay.init(row)


@pytest.mark.parametrize(
    "row, message",
    [
        (jnp.zeros(3), r"NamedTuple or a dict .* reward is missing from"),
        ({**ROW, "reward": 0}, r"reward must be a floating scalar in each row"),
        ({**ROW, "reward": jnp.zeros(2)}, r"reward must be a floating scalar"),
        ({**ROW, "done": 0.0}, r"done must be a bool scalar in each row"),
        ({**ROW, "truncated": 1}, r"truncated must be a bool scalar in each row"),
    ],
)
def test_refuses_a_row_of_another_kind(row, message):
    with pytest.raises(ValueError, match=message):
        n_step_replay(4, 1, 1, 2, gamma=0.5).init(row)


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan"), True, "1"])
def test_refuses_a_bad_discount(value):
    with pytest.raises(ValueError, match=r"^gamma must be .*from 0 to 1, got"):
        n_step_replay(4, 1, 1, 2, gamma=value)


@pytest.mark.parametrize("name", ["capacity", "n_envs", "batch_size", "n_steps"])
@pytest.mark.parametrize("value", [0, 1.0])
def test_refuses_a_bad_size(name, value):
    sizes = {"capacity": 4, "n_envs": 2, "batch_size": 2, "n_steps": 1, name: value}
    with pytest.raises(ValueError, match=rf"^{name} must be an int of at least 1"):
        n_step_replay(**sizes, gamma=0.5)
