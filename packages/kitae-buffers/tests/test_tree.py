import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kitae.buffer._rows import is_one_cpu
from kitae.buffer._tree import (
    draw_child,
    draw_leaves,
    empty_priorities,
    set_leaves,
    write_at_once,
    write_one_by_one,
)

SET = jax.jit(set_leaves)
DRAW = jax.jit(draw_leaves, static_argnums=2)


@pytest.fixture(autouse=True)
def strict():
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield


def filled(capacity, n_envs, leaves):
    """A tree with the leaves `[n_envs, capacity]`, written all at once."""
    index = np.arange(capacity * n_envs, dtype=np.int32)
    levels = empty_priorities(capacity, n_envs).levels
    value = np.asarray(leaves, np.float32).T.reshape(-1)
    return SET(levels, index, value, np.ones(index.size, bool))


@pytest.mark.parametrize(
    "capacity, widths",
    [
        (1, [8]),
        (8, [8]),
        (9, [16, 8]),
        (64, [64, 8]),
        (65, [72, 16, 8]),
        (6_250, [6_256, 784, 104, 16, 8]),
    ],
)
def test_levels_are_eighths_up_to_one_group(capacity, widths):
    levels = empty_priorities(capacity, 3).levels
    assert [level.shape for level in levels] == [(3, width) for width in widths]


@settings(deadline=None, max_examples=15)
@given(
    writes=st.lists(
        st.tuples(st.integers(0, 1), st.integers(0, 19), st.integers(0, 9)),
        min_size=1,
        max_size=12,
    )
)
def test_every_node_is_the_sum_below_it(writes):
    writes = [*writes, *writes[:1] * (12 - len(writes))]  # one shape, one trace
    env, leaf, value = np.array(writes, np.int32).T
    valid = value != 9
    before = filled(20, 2, np.full((2, 20), 0.5))
    levels = SET(before, leaf * 2 + env, value.astype(np.float32), valid)
    twin = np.full((2, 24), 0.5)
    twin[:, 20:] = 0
    for e, i in zip(env, leaf, strict=True):
        values = [v for f, j, v in writes if (f, j) == (e, i) and v != 9]
        if values:
            twin[e, i] = max(values)  # of a leaf given twice, the larger value
    np.testing.assert_array_equal(levels[0], twin)
    sums = twin.reshape(2, 3, 8).sum(axis=2)
    np.testing.assert_array_equal(levels[1][:, :3], sums)
    assert not levels[1][:, 3:].any()


@pytest.mark.parametrize("n_envs", [1, 2, 5])
@pytest.mark.parametrize("n", [1, 7, 40])
def test_one_by_one_and_at_once_write_the_same_bits(n_envs, n):
    random = np.random.default_rng(n)
    levels = filled(300, n_envs, random.random((n_envs, 300)))
    index = random.integers(0, 300 * n_envs, n).astype(np.int32)
    change = index, random.random(n).astype(np.float32), random.random(n) < 0.8
    at_once = jax.jit(write_at_once)(levels, *change)
    for write in (set_leaves, write_one_by_one, jax.vmap(write_one_by_one)):
        args = levels, *change
        if write is not set_leaves and write is not write_one_by_one:
            args = jax.tree.map(lambda x: x[None], args)
        found = jax.tree.map(lambda x: x.reshape(n_envs, -1), jax.jit(write)(*args))
        jax.tree.map(np.testing.assert_array_equal, found, at_once)
        # What is not asked for may be left out by the compiler.
        leaves = jax.jit(lambda *args, write=write: write(*args)[0])(*args)
        np.testing.assert_array_equal(leaves.reshape(n_envs, -1), at_once[0])


def test_a_root_stays_the_sum_of_its_leaves():
    capacity, n = 16_384, 50
    random = np.random.default_rng(0)
    levels = filled(capacity, 1, random.random((1, capacity)))
    valid = np.ones(n, bool)
    for _ in range(400):  # 20,000 leaves in all
        leaf = random.integers(0, capacity, n).astype(np.int32)
        levels = SET(levels, leaf, random.random(n).astype(np.float32), valid)
    total = np.asarray(levels[0], np.float64).sum()
    np.testing.assert_allclose(levels[-1].sum(), total, rtol=1e-6)


def test_leaves_are_drawn_in_proportion():
    random = np.random.default_rng(1)
    leaves = random.random((3, 70)) ** 4 * (random.random((3, 70)) < 0.7)
    leaves[1] = 0
    levels = filled(70, 3, leaves)
    n = 200_000
    env, leaf, probability = DRAW(levels, jax.random.key(0), n)
    expected = leaves / leaves.sum()
    np.testing.assert_allclose(probability, expected[env, leaf], rtol=1e-5)
    counts = np.zeros_like(leaves)
    np.add.at(counts, (np.asarray(env), np.asarray(leaf)), 1)
    assert not counts[leaves == 0].any()
    drawn = leaves > 0
    chi2 = np.sum((counts - n * expected)[drawn] ** 2 / (n * expected)[drawn])
    # Strata make the counts vary less than independent draws, of which chi2 would be
    # the number of leaves, give or take.
    assert chi2 < drawn.sum() + 5 * np.sqrt(2 * drawn.sum())


def test_strata_share_the_batch_out():
    levels = filled(16, 1, np.ones((1, 16)))
    _, leaf, _ = DRAW(levels, jax.random.key(0), 64)
    # A group of 8 has half of the sum, hence exactly half of the draws.
    assert int(jnp.sum(leaf < 8)) == 32


@pytest.mark.parametrize("value", [1e-6, 1.0, 1e20])
@pytest.mark.parametrize("place", [(0, 0), (1, 6), (2, 99)])
def test_a_single_leaf_is_always_drawn(place, value):
    leaves = np.zeros((3, 100))
    leaves[place] = value
    env, leaf, probability = DRAW(filled(100, 3, leaves), jax.random.key(0), 100)
    assert set(zip(env.tolist(), leaf.tolist(), strict=True)) == {place}
    assert probability.tolist() == [1.0] * 100


@pytest.mark.slow
@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**31 - 1))
def test_no_empty_child_is_drawn_at_the_edges(seed):
    random = np.random.default_rng(seed)
    weights = random.random((500, 8)).astype(np.float32) * 10.0 ** random.integers(
        -6, 6
    )
    weights = (weights * (random.random((500, 8)) < 0.5)).astype(np.float32)
    weights = weights[weights.any(axis=1)]
    sums = np.cumsum(weights, axis=1, dtype=np.float32)
    edges = sums[np.arange(len(sums)), random.integers(0, 8, len(sums))] / sums[:, -1]
    for part in (np.zeros_like(edges), edges, np.ones_like(edges)):
        child, rest = draw_child(jnp.asarray(weights), jnp.asarray(part))
        assert (weights[np.arange(len(weights)), np.asarray(child)] > 0).all()
        assert ((rest >= 0) & (rest <= 1)).all()


def test_millions_alike_are_drawn_alike():
    capacity = 3 * 2**21
    shapes = jax.eval_shape(lambda: empty_priorities(capacity, 1).levels)
    levels = [np.zeros(shape.shape, np.float32) for shape in shapes]
    for height, level in enumerate(levels):
        level[0, : capacity // 8**height] = 8**height
    assert levels[-1].sum() == capacity
    n = 300_000
    _, leaf, _ = DRAW(tuple(levels), jax.random.key(2), n)
    # In the upper half, three neighbours share the eight floats that name one of them:
    # alone, these would draw them in the ratio 3 : 3 : 2.
    upper = np.asarray(leaf)[np.asarray(leaf) >= capacity // 2]
    counts = np.bincount(upper % 3)
    assert np.abs(counts - n / 6).max() < 5 * np.sqrt(n / 2 * 2 / 9)


@pytest.mark.usefixtures("tricks_on")
@pytest.mark.skipif(not is_one_cpu(), reason="one CPU device puts levels apart")
def test_each_level_is_a_branch_and_draws_the_same_without(monkeypatch):
    levels = filled(100, 3, np.random.default_rng(0).random((3, 100)))
    key = jax.random.key(5)
    assert DRAW.lower(levels, key, 64).as_text().count("stablehlo.case") == len(levels)
    apart = DRAW(levels, key, 64)
    monkeypatch.setattr("kitae.buffer._tree.is_one_cpu", lambda: False)
    together = jax.jit(lambda levels, key: draw_leaves(levels, key, 64))(levels, key)
    for one, other in zip(apart, together, strict=True):
        assert np.array_equal(one, other)
