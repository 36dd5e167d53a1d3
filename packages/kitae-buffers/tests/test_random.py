import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kitae.buffer._random import random_bits, random_uniform
from kitae.buffer.replay import running_sum

SHAPES = [(1,), (7,), (256,), (2, 33), (5_000,)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("impl", ["threefry2x32", "rbg", "unsafe_rbg"])
def test_numbers_are_those_of_jax(shape, impl):
    key = jax.random.key(5, impl=impl)
    np.testing.assert_array_equal(random_bits(key, shape), jax.random.bits(key, shape))
    np.testing.assert_array_equal(
        random_uniform(key, shape), jax.random.uniform(key, shape)
    )


def test_numbers_are_those_of_jax_for_raw_keys_and_many_keys():
    raw = jax.random.PRNGKey(3)
    np.testing.assert_array_equal(random_bits(raw, (9,)), jax.random.bits(raw, (9,)))
    keys = jax.random.split(jax.random.key(0), 4)
    np.testing.assert_array_equal(
        jax.vmap(lambda key: random_bits(key, (9,)))(keys),
        jax.vmap(lambda key: jax.random.bits(key, (9,)))(keys),
    )


def test_numbers_are_those_of_jax_however_it_counts():
    key = jax.random.key(1)
    with jax.threefry_partitionable(False):
        np.testing.assert_array_equal(
            random_bits(key, (9,)), jax.random.bits(key, (9,))
        )


@pytest.mark.parametrize("n", [1, 64, 65])
def test_a_running_sum_is_numpys(n):
    counts = np.arange(n, dtype=np.int32) % 5
    np.testing.assert_array_equal(running_sum(jnp.asarray(counts)), np.cumsum(counts))
    assert running_sum(jnp.asarray(counts)).dtype == jnp.int32
