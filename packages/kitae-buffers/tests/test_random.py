import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kitae.buffer._random import random_bits, random_uniform

SHAPES = ((), (1,), (7,), (2, 256), (3, 5, 2))


@pytest.fixture(params=["typed", "raw", "rbg"])
def key(request: pytest.FixtureRequest) -> jax.Array:
    if request.param == "raw":
        return jax.random.PRNGKey(2**32 - 5)
    impl = "rbg" if request.param == "rbg" else "threefry2x32"
    return jax.random.key(2**31 + 3, impl=impl)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_bits_are_those_of_jax(key: jax.Array, shape: tuple[int, ...]) -> None:
    expected = jax.random.bits(key, shape, jnp.uint32)
    for draw in (random_bits, jax.jit(random_bits, static_argnums=1)):
        assert np.array_equal(draw(key, shape), expected)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_numbers_are_those_of_jax(key: jax.Array, shape: tuple[int, ...]) -> None:
    found = random_uniform(key, shape)
    assert found.dtype == jnp.float32
    assert np.array_equal(found, jax.random.uniform(key, shape, jnp.float32))


def test_many_keys_at_once_give_what_each_gives() -> None:
    keys = jax.random.split(jax.random.key(0), 5)
    found = jax.vmap(lambda key: random_bits(key, (4,)))(keys)
    expected = jax.vmap(lambda key: jax.random.bits(key, (4,), jnp.uint32))(keys)
    assert np.array_equal(found, expected)


def test_the_way_that_is_not_partitionable_is_left_to_jax() -> None:
    with jax.threefry_partitionable(False):
        key = jax.random.key(1)
        expected = jax.random.bits(key, (6,), jnp.uint32)
        assert np.array_equal(random_bits(key, (6,)), expected)


@pytest.mark.usefixtures("tricks_on")
@pytest.mark.skipif(jax.default_backend() != "cpu", reason="only CPUs loop for it")
def test_no_loop_draws_a_batch() -> None:
    def compiled(draw: object) -> str:
        key = jax.random.key(0)
        return jax.jit(draw, static_argnums=1).lower(key, (256,)).compile().as_text()

    assert "while(" not in compiled(random_bits)
    assert "while(" in compiled(jax.random.bits)
