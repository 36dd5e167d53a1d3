import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kitae.buffer import prioritised_replay, uniform_replay
from kitae.buffer._rows import (
    MAX_BYTES,
    MAX_ROWS,
    are_few,
    by_parts,
    is_one_cpu,
    rows_at,
    with_rows,
)

ONE_CPU = is_one_cpu()
N_ENVS, WORDS = 4, 5
# XLA shares work on an array of twice MAX_BYTES among threads.
LONG = 2 * MAX_BYTES // (4 * N_ENVS * WORDS) + 1


def columns(capacity: int, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.integers(0, 200, (capacity, N_ENVS, *shape)).astype(dtype)


KINDS = pytest.mark.parametrize(
    ("capacity", "shape", "dtype"),
    [
        (LONG, (WORDS,), "uint32"),
        (5, (WORDS,), "uint32"),
        (5, (), "float32"),
        (5, (2, 2), "uint8"),
        (5, (3,), "bool"),
    ],
)


@KINDS
@pytest.mark.parametrize("n", [1, 6])
def test_rows_are_read_as_numpy_reads_them(capacity, shape, dtype, n):
    rows = columns(capacity, shape, dtype)
    index = np.array([N_ENVS * capacity - 1, 0, 3, 3, 7, 1], np.int32)[:n]
    read = jax.jit(rows_at)(rows, index)
    assert read.dtype == dtype
    np.testing.assert_array_equal(read, rows.reshape(-1, *shape)[index])


@KINDS
@pytest.mark.parametrize("masked", [False, True])
def test_rows_are_written_as_numpy_writes_them(capacity, shape, dtype, masked):
    data, new = columns(capacity, shape, dtype), ~columns(1, shape, "uint8")[0]
    new, time = new.astype(dtype), np.array([capacity - 1, 0, 2, 0], np.int32)
    valid = np.array([True, True, False, True]) if masked else None
    written = jax.jit(with_rows)(data, new, time, valid)
    expected = data.copy()
    for env in range(N_ENVS) if valid is None else np.flatnonzero(valid):
        expected[time[env], env] = new[env]
    np.testing.assert_array_equal(written, expected)


def test_a_row_past_the_end_is_not_written():
    for capacity in (5, LONG):
        data = columns(capacity, (WORDS,), "uint32")
        time = jnp.full(N_ENVS, capacity, jnp.int32)
        nowhere = jnp.zeros(N_ENVS, bool)
        written = jax.jit(with_rows)(data, ~data[0], time, nowhere)
        np.testing.assert_array_equal(written, data)


@pytest.mark.usefixtures("tricks_on")
def test_many_replays_side_by_side_do_as_each_alone():
    data = np.stack([columns(LONG, (WORDS,), "uint32")] * 2)
    new = np.stack([~data[0, 0], ~data[0, 1]])
    time = np.array([[0, 5, 2, 7], [1, 1, 4, 4]], np.int32)
    valid = np.array([[True, False, True, True], [True, True, False, True]])
    index = np.array([[0, 3], [17, 17]], np.int32)

    def step(data, new, time, valid, index):
        data = with_rows(data, new, time, valid)
        return data, by_parts(rows_at, 1, data, index)

    together = jax.jit(jax.vmap(step))(data, new, time, valid, index)
    for i in range(2):
        alone = step(data[i], new[i], time[i], valid[i], index[i])
        jax.tree.map(np.testing.assert_array_equal, [x[i] for x in together], [*alone])


@pytest.mark.usefixtures("tricks_on")
@pytest.mark.skipif(not ONE_CPU, reason="one CPU device, and its threads")
def test_a_batch_of_transitions_is_not_shared_among_threads():
    replay = uniform_replay(capacity=100_000, n_envs=N_ENVS, batch_size=256)
    state = jax.eval_shape(replay.init, {"observation": jnp.zeros(8)})
    rows = {"observation": jnp.zeros((N_ENVS, 8))}
    adding = jax.jit(replay.add, donate_argnums=0).lower(state, rows)
    sampling = jax.jit(replay.sample).lower(state, jax.random.key(0))
    for lowered in (adding, sampling):
        assert 'outer_dimension_partitions":["' not in lowered.compile().as_text()


@pytest.mark.usefixtures("tricks_on")
@pytest.mark.skipif(not ONE_CPU, reason="one CPU device, and its threads")
def test_large_batches_are_shared_among_threads():
    assert are_few(MAX_ROWS, MAX_BYTES)
    assert not are_few(MAX_ROWS + 1)
    assert not are_few(2, MAX_BYTES + 1)


def scaled_rows(by, rows):
    return {"sum": rows["x"] * by + rows["y"][:, None], "first": rows["x"][:, 0]}


@pytest.mark.parametrize("n", [1, 4, 5, 11, MAX_ROWS + 1])
@pytest.mark.parametrize("part", [1, 4, 5])
def test_parts_give_what_all_rows_at_once_give(n, part):
    rng = np.random.default_rng(n)
    rows = {"x": rng.random((n, 3), np.float32), "y": rng.random(n, np.float32)}
    by = rng.random(3, np.float32)
    found = jax.jit(lambda by, rows: by_parts(scaled_rows, part, by, rows))(by, rows)
    expected = {"sum": rows["x"] * by + rows["y"][:, None], "first": rows["x"][:, 0]}
    jax.tree.map(np.testing.assert_allclose, found, expected)
    several = {**rows, "y": np.stack([rows["y"], 2 * rows["y"]])}
    axes = {"x": None, "y": 0}
    together = jax.vmap(
        lambda rows: by_parts(scaled_rows, part, by, rows), in_axes=(axes,)
    )
    twice = together(several)["sum"][1] - found["sum"]
    np.testing.assert_allclose(twice, np.tile(rows["y"], (3, 1)).T, rtol=1e-4)


TRANSITION = {
    "observation": np.zeros(4, np.float32),
    "action": np.int32(0),
    "reward": np.float32(0),
    "done": np.bool_(False),
    "next_observation": np.zeros(4, np.float32),
}


def full_steps(n_envs):
    return jax.tree.map(lambda x: jnp.ones((n_envs, *x.shape), x.dtype), TRANSITION)


@pytest.mark.usefixtures("tricks_on")
@pytest.mark.skipif(not ONE_CPU, reason="one CPU device, and its threads")
@pytest.mark.parametrize("n_envs", [1, 3, 16])
@pytest.mark.parametrize("batch_size", [32, 256])
def test_calls_are_short_enough_for_the_callers_thread(n_envs, batch_size):
    def is_short(f, *args):
        # XLA counts operations so, and runs those of a thousand in another thread.
        donated = 0 if f != uniform.sample else None
        compiled = jax.jit(f, donate_argnums=donated).lower(*args).compile()
        return compiled.cost_analysis()["flops"] < 1_000

    sizes = 100_000 // n_envs, n_envs, batch_size
    uniform = uniform_replay(*sizes)
    state = jax.eval_shape(uniform.init, TRANSITION)
    assert is_short(uniform.sample, state, jax.random.key(0))
    assert is_short(uniform.add, state, full_steps(n_envs))
    prioritised = prioritised_replay(*sizes, exponent=0.6)
    state = jax.eval_shape(prioritised.init, TRANSITION)
    assert is_short(prioritised.add, state, full_steps(n_envs))
    change = jnp.zeros(batch_size, jnp.int32), jnp.ones(batch_size)
    assert is_short(prioritised.update_priorities, state, *change)


@pytest.mark.skipif(not ONE_CPU, reason="what a kernel of one CPU reads")
@pytest.mark.parametrize("n_envs", [1, 10])
@pytest.mark.parametrize("prioritised", [False, True])
def test_no_loop_copies_the_replay(n_envs, prioritised):
    sizes = 20_000 // n_envs, n_envs, 32
    if prioritised:
        replay = prioritised_replay(*sizes, exponent=0.6)
    else:
        replay = uniform_replay(*sizes)

    def step(i, carry):
        state, total = carry
        state = replay.add(state, full_steps(n_envs))
        sample = replay.sample(state, jax.random.fold_in(jax.random.key(0), i))
        if prioritised:
            errors = sample.importance
            state = replay.update_priorities(state, sample.index, errors)
        return state, total + sum(map(jnp.sum, jax.tree.leaves(sample)))

    state = jax.eval_shape(replay.init, TRANSITION)
    run = jax.jit(
        lambda state: jax.lax.fori_loop(0, 9, step, (state, 0.0)), donate_argnums=0
    )
    in_use = run.lower(state).compile().memory_analysis().temp_size_in_bytes
    # The leaves of the tree are a tenth of the rows.
    assert in_use < 4 * 20_000
