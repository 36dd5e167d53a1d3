import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kitae.buffer import uniform_replay
from kitae.buffer._rows import MAX_BYTES, are_few, flat, is_one_cpu, rows_at, with_rows

ONE_CPU = is_one_cpu()
N_ENVS, WORDS = 4, 5
# Of an array of twice MAX_BYTES, few rows are moved by a loop.
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
    rows = columns(capacity, shape, dtype).reshape(-1, *shape)
    index = np.array([N_ENVS * capacity - 1, 0, 3, 3, 7, 1], np.int32)[:n]
    read = jax.jit(rows_at)(rows, index)
    assert read.dtype == dtype
    np.testing.assert_array_equal(read, rows[index])


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


def test_many_replays_side_by_side_do_as_each_alone():
    data = np.stack([columns(LONG, (WORDS,), "uint32")] * 2)
    new = np.stack([~data[0, 0], ~data[0, 1]])
    time = np.array([[0, 5, 2, 7], [1, 1, 4, 4]], np.int32)
    valid = np.array([[True, False, True, True], [True, True, False, True]])
    index = np.array([[0, 3], [17, 17]], np.int32)

    def step(data, new, time, valid, index):
        data = with_rows(data, new, time, valid)
        return data, rows_at(flat(data), index)

    together = jax.jit(jax.vmap(step))(data, new, time, valid, index)
    for i in range(2):
        alone = step(data[i], new[i], time[i], valid[i], index[i])
        jax.tree.map(np.testing.assert_array_equal, [x[i] for x in together], [*alone])


@pytest.mark.skipif(not ONE_CPU, reason="one CPU device, and its threads")
def test_a_batch_of_transitions_is_not_shared_among_threads():
    replay = uniform_replay(capacity=100_000, n_envs=N_ENVS, batch_size=256)
    state = jax.eval_shape(replay.init, {"observation": jnp.zeros(8)})
    rows = {"observation": jnp.zeros((N_ENVS, 8))}
    adding = jax.jit(replay.add, donate_argnums=0).lower(state, rows)
    sampling = jax.jit(replay.sample).lower(state, jax.random.key(0))
    for lowered in (adding, sampling):
        assert 'outer_dimension_partitions":["' not in lowered.compile().as_text()


@pytest.mark.skipif(not ONE_CPU, reason="one CPU device, and its threads")
def test_a_large_batch_is_shared_among_threads():
    rows = jax.ShapeDtypeStruct((LONG * N_ENVS, WORDS), jnp.uint32)
    assert are_few(2, rows)
    assert not are_few(1 + MAX_BYTES // (4 * WORDS), rows)
