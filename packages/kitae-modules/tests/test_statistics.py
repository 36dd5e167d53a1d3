import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kitae.modules import (
    init_reward_statistics,
    init_statistics,
    normalise,
    scale_rewards,
    update_reward_statistics,
    update_statistics,
)

FLOAT = jax.ShapeDtypeStruct((), jnp.float32)


def mean_of(statistics):
    """The mean in float64: a float32 near a million has no digits for it."""
    return np.float64(statistics.offset) + np.float64(statistics.mean)


def number_of(statistics):
    low, high = map(int, statistics.count)
    return high * 2**32 + low


def test_ten_million_values_far_from_zero_are_those_of_float64():
    values = np.random.default_rng(0).normal(1e6, 1.0, 10**7).astype(np.float32)
    update, statistics = jax.jit(update_statistics), init_statistics(FLOAT)
    for batch in values.reshape(200, 50_000):
        statistics = update(statistics, batch)
    oracle = values.astype(np.float64)
    assert number_of(statistics) == 10**7
    assert abs(mean_of(statistics) - oracle.mean()) < 2e-5
    np.testing.assert_allclose(statistics.variance, oracle.var(), rtol=2e-5)


@pytest.mark.parametrize("sizes", [[1] * 30, [1, 29], [7, 1, 22], [30]])
def test_batches_of_any_size_give_what_all_give(sizes):
    values = np.random.default_rng(1).normal(3.0, 2.0, (30, 2, 4)).astype(np.float32)
    spec = jax.ShapeDtypeStruct((4,), jnp.float32)
    statistics = init_statistics(spec)
    for batch in np.split(values, np.cumsum(sizes)[:-1]):
        statistics = update_statistics(statistics, batch)
    rows = values.reshape(60, 4).astype(np.float64)
    assert number_of(statistics) == 60
    np.testing.assert_allclose(mean_of(statistics), rows.mean(0), rtol=1e-6)
    np.testing.assert_allclose(statistics.variance, rows.var(0), rtol=1e-5)
    normal = normalise(statistics, values)
    np.testing.assert_allclose(normal, (values - rows.mean(0)) / rows.std(0), atol=1e-5)


def test_what_is_not_valid_does_not_count():
    values = np.random.default_rng(2).normal(size=(5, 3)).astype(np.float32)
    valid = np.array([[1, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0], [1, 1, 0]], bool)
    spoilt = np.where(valid, values, np.nan)
    nothing = update_statistics(init_statistics(FLOAT), spoilt, np.zeros_like(valid))
    statistics = update_statistics(nothing, spoilt, valid)
    assert number_of(nothing) == 0
    assert number_of(statistics) == 8
    np.testing.assert_allclose(mean_of(statistics), values[valid].mean(), rtol=1e-5)
    np.testing.assert_allclose(statistics.variance, values[valid].var(), rtol=1e-5)
    with pytest.raises(ValueError, match=r"valid must have the shape \[5, 3\]"):
        update_statistics(statistics, values, valid[0])


def test_the_count_goes_on_past_32_bits():
    statistics = update_statistics(init_statistics(FLOAT), jnp.array([0.0, 2.0]))
    statistics.count = jnp.array([2**32 - 1, 3], jnp.uint32)
    statistics = update_statistics(statistics, jnp.full(5, 9.0))
    assert number_of(statistics) == 4 * 2**32 + 4
    np.testing.assert_allclose(mean_of(statistics), 1.0, atol=1e-6)


def test_parts_that_are_no_floats_stay_as_they_are():
    spec = {"x": jax.ShapeDtypeStruct((2,), jnp.float32), "i": jnp.int32(0)}
    values = {"x": jnp.array([[1.0, 2.0], [3.0, 6.0]]), "i": jnp.array([4, 8])}
    statistics = update_statistics(init_statistics(spec), values)
    normal = normalise(statistics, values)
    np.testing.assert_allclose(normal["x"], [[-1, -1], [1, 1]], atol=1e-5)
    assert normal["i"].tolist() == [4, 8]
    assert normal["i"].dtype == jnp.int32


def test_values_are_as_they_were_before_the_first_update_and_clipped():
    statistics = init_statistics(FLOAT)
    values = jnp.array([-30.0, 0.5, 30.0])
    np.testing.assert_allclose(normalise(statistics, values), [-10.0, 0.5, 10.0])
    np.testing.assert_allclose(normalise(statistics, values, clip=None), values)
    half = normalise(statistics, values.astype(jnp.float16))
    assert half.dtype == jnp.float16


def test_other_shapes_are_refused():
    spec = jax.ShapeDtypeStruct((4,), jnp.float32)
    with pytest.raises(ValueError, match=r"values must have the shape \[..., 4\]"):
        update_statistics(init_statistics(spec), jnp.zeros((5, 3)))


def test_rewards_are_scaled_by_the_deviation_of_discounted_returns():
    rng, gamma = np.random.default_rng(3), 0.9
    rewards = rng.normal(2.0, 1.0, (40, 3)).astype(np.float32)
    ends = rng.random((40, 3)) < 0.1
    statistics = init_reward_statistics(3)
    for part in (slice(0, 15), slice(15, 40)):  # episodes run on from one to the next
        statistics = update_reward_statistics(
            statistics, rewards[part], ends[part], gamma
        )
    sums, running = [], np.zeros(3)
    for reward, end in zip(rewards, ends, strict=True):
        running = gamma * running + reward
        sums.append(running.copy())
        running[end] = 0.0
    np.testing.assert_allclose(statistics.returns, running, rtol=1e-5)
    scaled = scale_rewards(statistics, rewards)
    np.testing.assert_allclose(scaled, rewards / np.std(sums), rtol=1e-5)
    assert scale_rewards(statistics, jnp.array(1e6)) == 10.0
