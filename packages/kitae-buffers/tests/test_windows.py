"""Every replay against lists of rows, over random ends, cuts, gaps and wraps."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kitae.buffer import (
    n_step_replay,
    prioritised_replay,
    sequence_replay,
    uniform_replay,
)

N_ENVS, STACK, BATCH = 2, 3, 256
GAMMA = 0.5  # and rewards of eighths: every sum is exact


@pytest.fixture(autouse=True)
def strict():
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield


class Row(NamedTuple):
    observation: np.ndarray
    number: np.ndarray
    reward: np.ndarray
    done: np.ndarray
    truncated: np.ndarray
    next_observation: np.ndarray


EXAMPLE = Row(
    jax.ShapeDtypeStruct((STACK, 2, 3), jnp.uint8),
    jax.ShapeDtypeStruct((), jnp.int32),
    jax.ShapeDtypeStruct((), jnp.float32),
    jax.ShapeDtypeStruct((), bool),
    jax.ShapeDtypeStruct((), bool),
    jax.ShapeDtypeStruct((STACK, 2, 3), jnp.uint8),
)


class Held(NamedTuple):
    """What the twin knows of a row beside the row."""

    row: Row
    first: bool
    index: int
    oldest_frame: int


def stacked(rows):
    return Row(*(np.stack(leaves) for leaves in zip(*rows, strict=True)))


class Twin:
    """Lists of rows, from which everything is worked out one row at a time.

    It is the environments too: random frames, and any frames at all as padding.
    """

    def __init__(self, capacity, frames, seed):
        self.capacity, self.frames = capacity, frames
        self.random = np.random.default_rng(seed)
        self.rows = [[] for _ in range(N_ENVS)]
        self.added = [0] * N_ENVS
        self.n_frames = [0] * N_ENVS
        self.next = [None] * N_ENVS
        self.number = 0
        self.value, self.largest = {}, 1.0

    def image(self, *shape):
        return self.random.integers(0, 256, (*shape, 2, 3)).astype(np.uint8)

    def cut(self):
        self.next = [None] * N_ENVS

    def step(self, valid, ends):
        """Returns rows to add, having added those that are valid."""
        rows = []
        for env in range(N_ENVS):
            first = self.next[env] is None
            observation = self.image(STACK) if first else self.next[env]
            following = np.concatenate([observation[1:], self.image(1)])
            row = Row(
                observation,
                np.int32(self.number),
                np.float32(self.random.integers(-8, 9) / 8),
                np.bool_(ends[env] == "done"),
                np.bool_(ends[env] == "truncated"),
                following,
            )
            self.number += 1
            rows.append(row)
            if valid[env]:
                self.keep(env, row, first)
        return stacked(rows)

    def keep(self, env, row, first):
        self.next[env] = None if row.done or row.truncated else row.next_observation
        begins_at = self.n_frames[env] if first else self.n_frames[env] - STACK
        self.n_frames[env] += STACK + 1 if first else 1
        index = self.added[env] % self.capacity * N_ENVS + env
        self.added[env] += 1
        rows = [*self.rows[env], Held(row, first, index, begins_at)][-self.capacity :]
        if self.frames:
            room = self.capacity + -(-self.capacity // 16) + STACK + 1
            newest = self.n_frames[env]
            rows = [held for held in rows if newest - held.oldest_frame <= room]
        self.rows[env] = rows
        self.value[int(row.number)] = self.largest

    def windows(self, n_steps):
        """Yields for each row held what an n-step row from it is, and its discount."""
        for rows in self.rows:
            for start, held in enumerate(rows):
                window = [held]
                for later in rows[start + 1 : start + n_steps]:
                    if later.first:
                        break
                    window.append(later)
                last = window[-1].row
                reward = sum(GAMMA**i * w.row.reward for i, w in enumerate(window))
                row = held.row._replace(
                    reward=np.float32(reward),
                    done=last.done,
                    truncated=last.truncated,
                    next_observation=last.next_observation,
                )
                yield held.index, row, GAMMA ** len(window)

    def sequences(self, length):
        """Yields each complete sequence with where it starts and its firsts."""
        for rows in self.rows:
            for start in range(len(rows) - length + 1):
                window = rows[start : start + length]
                row = stacked([w.row for w in window])
                yield window[0].index, row, [w.first for w in window]


steps = st.lists(
    st.tuples(
        st.lists(st.sampled_from([True, True, False]), min_size=2, max_size=2),
        st.lists(
            st.sampled_from(["", "", "", "done", "truncated"]), min_size=2, max_size=2
        ),
        st.sampled_from([False] * 9 + [True]),
    ),
    min_size=1,
    max_size=25,
)
seeds = st.integers(0, 2**31 - 1)


@functools.cache
def compiled(maker, *arguments, **options):
    replay = maker(*arguments, **options)
    functions = {
        name: jax.jit(getattr(replay, name))
        for name in ("add", "sample", "cut", "update_priorities")
        if getattr(replay, name) is not None
    }
    return replay._replace(**functions)


def play(replay, twin, script, after=lambda state: state):
    """Adds the script's rows to both, which must hold equally many."""
    state = replay.init(EXAMPLE)
    for valid, ends, cut in script:
        if cut:
            state = replay.cut(state)
            twin.cut()
        rows = twin.step(valid, ends)
        # One mask of all is given as none at all.
        mask = None if all(valid) else np.array(valid)
        state = after(replay.add(state, rows, mask))
    assert state.size.tolist() == [len(rows) for rows in twin.rows]
    return state


def same(drawn, expected):
    """Compares rows bit for bit."""
    for got, want in zip(drawn, expected, strict=True):
        assert got.dtype == want.dtype
        np.testing.assert_array_equal(got, want)


def check_windows(sample, twin, n_steps, importance):
    """Compares the sampled rows with the twin's."""
    windows = {index: rest for index, *rest in twin.windows(n_steps)}
    drawn = sample.index.tolist()
    same(sample.experience, stacked([windows[index][0] for index in drawn]))
    discount = np.array([windows[index][1] for index in drawn], np.float32)
    np.testing.assert_array_equal(sample.discount, discount)
    expected = [importance[index] for index in drawn]
    np.testing.assert_allclose(sample.importance, expected, rtol=1e-4)


@pytest.mark.parametrize("frame_stack", [None, STACK])
@pytest.mark.parametrize("capacity, n_steps", [(1, 2), (5, 3), (7, 9)])
@settings(deadline=None, max_examples=10)
@given(script=steps, seed=seeds)
def test_n_step_rows(frame_stack, capacity, n_steps, script, seed):
    replay = compiled(
        n_step_replay,
        *(capacity, N_ENVS, BATCH, n_steps, GAMMA),
        frame_stack=frame_stack,
    )
    twin = Twin(capacity, frame_stack is not None, seed)
    state = play(replay, twin, script)
    if any(twin.rows):
        sample = replay.sample(state, jax.random.key(seed))
        held = {index for index, *_ in twin.windows(n_steps)}
        assert set(sample.index.tolist()) == held
        check_windows(sample, twin, n_steps, dict.fromkeys(held, 1.0))


@pytest.mark.parametrize("capacity", [1, 6])
@settings(deadline=None, max_examples=10)
@given(script=steps, seed=seeds)
def test_uniform_rows_with_frames(capacity, script, seed):
    replay = compiled(uniform_replay, capacity, N_ENVS, BATCH, frame_stack=STACK)
    twin = Twin(capacity, True, seed)
    state = play(replay, twin, script)
    if any(twin.rows):
        drawn = replay.sample(state, jax.random.key(seed))
        held = {int(h.row.number): h.row for rows in twin.rows for h in rows}
        assert set(drawn.number.tolist()) == set(held)
        same(drawn, stacked([held[number] for number in drawn.number.tolist()]))


def set_some(replay, twin, starts, exponent):
    """Returns a function that sets priorities, in the state and in the twin."""

    def update(state):
        places = starts()
        if not places:
            return state
        index = twin.random.choice(sorted(places), 4).astype(np.int32)
        priorities = twin.random.choice([0, 0.25, 1, 9, np.nan, np.inf], 4)
        new = {}
        for i, priority in zip(index.tolist(), priorities.tolist(), strict=True):
            if np.isfinite(priority):
                new[i] = max(new.get(i, 0), (priority + 1e-6) ** exponent)
        for i, value in new.items():
            twin.value[places[i]] = value
            twin.largest = max(twin.largest, value)
        return replay.update_priorities(
            state, index, np.asarray(priorities, np.float32)
        )

    return update


def importances(twin, places):
    """Returns 1 / (N p) of each place, by its index."""
    values = {index: twin.value[number] for index, number in places.items()}
    mean = sum(values.values()) / max(len(values), 1)
    return {index: mean / value for index, value in values.items()}


@pytest.mark.parametrize("frame_stack", [None, STACK])
@pytest.mark.parametrize("capacity, n_steps", [(5, 3), (20, 1)])
@settings(deadline=None, max_examples=10)
@given(script=steps, seed=seeds)
def test_prioritised_rows(frame_stack, capacity, n_steps, script, seed):
    replay = compiled(
        prioritised_replay,
        *(capacity, N_ENVS, BATCH),
        exponent=0.5,
        n_steps=n_steps,
        gamma=GAMMA,
        frame_stack=frame_stack,
    )
    twin = Twin(capacity, frame_stack is not None, seed)

    def places():
        return {h.index: int(h.row.number) for rows in twin.rows for h in rows}

    state = play(replay, twin, script, set_some(replay, twin, places, 0.5))
    leaves = np.asarray(state.priorities.levels[0])[:, :capacity].T.reshape(-1)
    assert {i for i, leaf in enumerate(leaves) if leaf > 0} == set(places())
    if places():
        sample = replay.sample(state, jax.random.key(seed))
        check_windows(sample, twin, n_steps, importances(twin, places()))


@pytest.mark.parametrize("exponent", [0.0, 0.5])
@pytest.mark.parametrize("capacity, length", [(1, 1), (4, 4), (9, 4)])
@settings(deadline=None, max_examples=10)
@given(script=steps, seed=seeds)
def test_sequences(exponent, capacity, length, script, seed):
    replay = compiled(
        sequence_replay, capacity, N_ENVS, BATCH, length, exponent=exponent
    )
    twin = Twin(capacity, False, seed)

    def places():
        return {i: int(row.number[0]) for i, row, _ in twin.sequences(length)}

    # A sequence gets the largest priority of the time when it is complete.
    known = set()

    def after(state):
        for number in places().values():
            if number not in known:
                known.add(number)
                twin.value[number] = twin.largest
        return update(state) if exponent else state

    update = set_some(replay, twin, places, exponent)
    state = play(replay, twin, script, after)
    expected = {index: rest for index, *rest in twin.sequences(length)}
    if exponent:
        leaves = np.asarray(state.priorities.levels[0])[:, :capacity].T.reshape(-1)
        assert {i for i, leaf in enumerate(leaves) if leaf > 0} == set(expected)
        importance = importances(twin, places())
    else:
        importance = dict.fromkeys(expected, 1.0)
    if expected:
        sample = replay.sample(state, jax.random.key(seed))
        drawn = sample.index.tolist()
        same(sample.experience, stacked([expected[index][0] for index in drawn]))
        assert sample.first.tolist() == [expected[index][1] for index in drawn]
        wanted = [importance[index] for index in drawn]
        np.testing.assert_allclose(sample.importance, wanted, rtol=1e-4)
        assert exponent or set(drawn) == set(expected)
