import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kitae.base.xla import stepping
from kitae.base.xla.stepping import HoistedFunction

LAST = 2**32 - 1


def walk(key_data, number, position, scale):
    key = jax.random.fold_in(jax.random.wrap_key_data(key_data), number)
    step_key, coin_key = jax.random.split(key)
    step = jax.random.normal(step_key, position.shape)
    # A key that is drawn from only where the position is known.
    jump = jax.lax.cond(
        position[0] > 0,
        lambda key: jax.random.uniform(key),
        lambda key: jnp.float32(0.0),
        coin_key,
    )
    return position + scale * step + jump, number


@pytest.fixture
def key_data():
    return jax.random.key_data(jax.random.key(3))


@pytest.mark.parametrize("first", [0, LAST - 3])
@pytest.mark.parametrize("max_length, max_bytes", [(4, 2**20), (256, 2**20), (4, 40)])
def test_gives_what_the_function_gives(
    monkeypatch, key_data, first, max_length, max_bytes
):
    monkeypatch.setattr(stepping, "MAX_LENGTH", max_length)
    monkeypatch.setattr(stepping, "MAX_BYTES", max_bytes)
    walker, alone = HoistedFunction(walk), jax.jit(walk)
    position = expected = jnp.zeros(3)
    for i in range(10):
        number = (first + i) % 2**32
        position, found = walker(key_data, number, position, np.float32(0.5))
        expected, _ = alone(key_data, np.uint32(number), expected, np.float32(0.5))
        assert int(found) == number
        np.testing.assert_allclose(position, expected, rtol=1e-6)


def test_numbers_may_come_in_any_order_and_constants_change(key_data):
    walker, position = HoistedFunction(walk), jnp.ones(3)
    other = jax.random.key_data(jax.random.key(4))
    calls = [(key_data, 7), (key_data, 5), (other, 5), (key_data, 900)]
    for constants, number in calls:
        got, _ = walker(constants, number, position, np.float32(1.0))
        expected, _ = jax.jit(walk)(
            constants, np.uint32(number), position, np.float32(1.0)
        )
        np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_is_traced_once_and_donates(key_data):
    traces = []

    def traced(*args):
        traces.append(args)
        return walk(*args)

    walker, position = HoistedFunction(traced, donate=(0,)), jnp.ones(3)
    shapes = walker.eval_shape(key_data, 0, position, np.float32(1.0))
    for number in range(3):
        before = position
        position, _ = walker(key_data, number, position, np.float32(1.0))
        assert before.is_deleted()
    assert len(traces) == 1
    assert shapes[0].shape == position.shape


def test_a_step_draws_no_number(key_data):
    walker = HoistedFunction(walk)
    walker(key_data, 0, jnp.ones(3), np.float32(1.0))
    drawn = walker._values, np.int32(0)
    args = key_data, drawn, jnp.ones(3), np.float32(1.0)
    program = str(jax.make_jaxpr(walker._programs.step)(*args))
    # The one that hangs on the position alone stays.
    assert program.count("random_bits") == 1
    assert "random_fold_in" not in program


def test_another_function_is_called_beside_it_with_the_same_numbers(key_data):
    def push(row, value):
        return row.at[0].set(value)

    walker = HoistedFunction(walk, beside=push, donate_beside=(0,))
    position = expected = jnp.zeros(3)
    row = jnp.zeros(2)
    for number in range(5):
        before = row
        value = np.float32(number)
        carry = position, np.float32(0.5)
        row, (position, found) = walker.both((row, value), key_data, number, *carry)
        expected, _ = jax.jit(walk)(
            key_data, np.uint32(number), expected, np.float32(0.5)
        )
        assert before.is_deleted()
        assert int(found) == number
        assert row.tolist() == [number, 0.0]
        np.testing.assert_allclose(position, expected, rtol=1e-6)
    # The one draws for the other.
    values = walker._values
    walker(key_data, 5, position, np.float32(0.5))
    assert walker._values is values
