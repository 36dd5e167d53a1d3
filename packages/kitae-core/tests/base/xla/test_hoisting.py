import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kitae.base.xla import hoisting, loops
from kitae.base.xla.callback import callback


def body(scale, carry, number):
    """Draws, computes with the carry inside a nested call, and branches on it."""
    key = jax.random.fold_in(jax.random.key(7), number)
    coin_key, noise_key = jax.random.split(key)

    @jax.jit
    def move(x, key):  # mixes what can be drawn ahead with what cannot
        return scale * x + jax.nn.relu(jax.random.normal(key, x.shape))

    x = move(carry["x"], noise_key)
    heads = jax.random.bernoulli(coin_key)
    x = jax.lax.cond(x.sum() > 1.0, lambda: x * 0.5, lambda: x)
    carry = {"x": x, "count": carry["count"] + heads, "big": carry["big"] + 1.0}
    return carry, {"sum": x.sum(), "heads": heads, "number": number}


CARRY = {"x": jnp.ones(3), "count": jnp.int32(0), "big": jnp.zeros((20, 20))}


def loop(n, first=5, length=10, small=0):
    scale, carry = jnp.float32(0.25), CARRY
    parts = hoisting.split(body, scale, carry, jnp.uint32(0))
    numbers = jnp.uint32(first) + jnp.arange(length, dtype=jnp.uint32)

    def run(scale, carry, n):
        values = hoisting.ahead(parts, scale, numbers)
        return loops.loop(parts, length, scale, carry, numbers, values, n, small=small)

    return jax.jit(run)(scale, carry, jnp.int32(n))


@pytest.mark.parametrize("small", [0, 64])
@pytest.mark.parametrize("n", [0, 1, 7, 10])
def test_a_loop_does_what_its_body_does_step_by_step(n, small):
    carry, ys = loop(n, small=small)
    expected, rows = CARRY, []
    for number in range(5, 5 + n):
        expected, row = jax.jit(body)(jnp.float32(0.25), expected, jnp.uint32(number))
        rows.append(row)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), carry) == jax.tree.map(
        lambda x: (x.shape, x.dtype), CARRY
    )
    for name in CARRY:
        np.testing.assert_allclose(carry[name], expected[name], rtol=1e-6)
    assert ys["heads"].dtype == bool
    for name in ("sum", "heads", "number"):
        found = [float(row[name]) for row in rows]
        np.testing.assert_allclose(ys[name][:n].astype(float), found, rtol=1e-6)
        assert not ys[name][n:].any()


def primitives(jaxpr):
    names = set()
    for eqn in jaxpr.eqns:
        names.add(eqn.primitive.name)
        for inner in jax.tree.leaves(
            list(eqn.params.values()), is_leaf=lambda x: hasattr(x, "jaxpr")
        ):
            if hasattr(inner, "jaxpr"):
                names |= primitives(inner.jaxpr)
    return names


def test_all_random_numbers_are_drawn_ahead():
    scale, number = jnp.float32(0.25), jnp.uint32(0)
    parts = hoisting.split(body, scale, CARRY, number)
    values = jax.eval_shape(parts.ahead, scale, number)
    ahead = primitives(jax.make_jaxpr(parts.ahead)(scale, number).jaxpr)
    step = primitives(jax.make_jaxpr(parts.step)(scale, CARRY, number, values).jaxpr)
    assert "random_bits" in ahead
    assert not {name for name in step if name.startswith("random")}
    # Three normal numbers and a coin, which as a number is made of it anew.
    assert parts.bytes_ahead == 3 * 4 + 1
    assert "cond" in step


def noisy(scale, carry, number):
    """Draws the noise of a layer's weights: of each input times of each output."""
    of_input, of_output = jax.random.split(jax.random.fold_in(scale, number))
    left, right = jax.random.normal(of_input, (64,)), jax.random.normal(of_output, (8,))
    noise = (left[:, None] * right).reshape(-1)
    return jnp.tanh(carry @ noise.reshape(64, 8)) @ noise.reshape(8, 64), noise.sum()


@pytest.mark.parametrize("room, kept", [(math.inf, 72 * 4 + 4), (8 * 290, 0)])
def test_what_is_larger_than_what_it_is_made_of_is_not_kept(room, kept):
    key, carry = jax.random.key(3), jnp.ones(64)
    parts = hoisting.split(noisy, key, carry, jnp.uint32(0), room)
    assert parts.bytes_ahead == kept
    numbers = jnp.arange(5, dtype=jnp.uint32)
    values = hoisting.ahead(parts, key, numbers)
    assert sum(value.nbytes for value in values) == 5 * kept
    n, expected = jnp.int32(5), carry
    after, sums = loops.loop(parts, 5, key, carry, numbers, values, n)
    for number, found in zip(numbers, sums, strict=True):
        expected, total = noisy(key, expected, number)
        np.testing.assert_allclose(found, total, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(after, expected, rtol=1e-4)


def test_what_an_earlier_step_computed_is_never_drawn_ahead():
    def carries_its_key(constants, key, number):
        key, mine = jax.random.split(key)
        return key, jax.random.uniform(mine)

    key = jax.random.key(0)
    parts = hoisting.split(carries_its_key, (), key, jnp.uint32(0))
    assert parts.bytes_ahead == 0
    numbers = jnp.arange(4, dtype=jnp.uint32)
    values = hoisting.ahead(parts, (), numbers)
    _, drawn = loops.loop(parts, 4, (), key, numbers, values, jnp.int32(4))
    expected = []
    for _ in range(4):
        key, mine = jax.random.split(key)
        expected.append(float(jax.random.uniform(mine)))
    assert drawn.tolist() == expected


def test_a_kernel_is_not_taken_apart():
    def one_kernel(x):
        return x + 1.0

    def other(x):
        return x * 2.0

    def calls(constants, carry, number):
        return jax.jit(other)(jax.jit(one_kernel)(carry)), number

    parts = hoisting.split(calls, (), jnp.float32(0), jnp.uint32(0))
    step = jax.make_jaxpr(parts.step)((), jnp.float32(0), jnp.uint32(0), []).jaxpr
    called = [eqn.params["name"] for eqn in step.eqns if "name" in eqn.params]
    assert called == ["one_kernel"]
    assert parts.step((), jnp.float32(0), jnp.uint32(0), [])[0] == 2.0


def test_side_effects_stay_in_the_loop():
    seen = []

    def tells(constants, carry, number):
        jax.debug.callback(lambda x: seen.append(int(x)), number)
        return carry + 1, number

    carry = jnp.int32(0)
    parts = hoisting.split(tells, (), carry, jnp.uint32(0))
    numbers = jnp.arange(6, dtype=jnp.uint32)
    values = hoisting.ahead(parts, (), numbers)
    loops.loop(parts, 6, (), carry, numbers, values, jnp.int32(3))
    jax.effects_barrier()
    assert sorted(seen) == [0, 1, 2]


def test_a_call_of_python_stays_in_the_loop_whatever_it_depends_on():
    seen = []

    def note(number):
        seen.append(int(number))
        return [number]

    def notes(constants, carry, number):
        shape = jax.ShapeDtypeStruct((), np.uint32)
        (same,) = callback(note, [shape], number)
        return carry + same.astype(jnp.int32), None

    carry = jnp.int32(0)
    parts = hoisting.split(notes, (), carry, jnp.uint32(0))
    assert parts.bytes_ahead == 0
    numbers = jnp.arange(6, dtype=jnp.uint32)
    values = hoisting.ahead(parts, (), numbers)

    @jax.jit
    def run(carry, n):
        return loops.loop(parts, 6, (), carry, numbers, values, n)

    assert int(run(carry, jnp.int32(3))[0]) == 0 + 1 + 2
    assert seen == [0, 1, 2]
