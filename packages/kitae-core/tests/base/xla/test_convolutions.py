import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kitae.base.xla import compat, convolutions, hoisting, loops, switches
from kitae.base.xla.jaxprs import inlined
from kitae.base.xla.stepping import HoistedFunction

FAST = {"b01f_01io->b01f", "b0f_0io->b0f"}
SHAPES = {  # of values, of the kernel, and how they are convolved
    "plain": ((3, 9, 8, 2), (3, 2, 2, 5), {}),
    "strided": ((3, 9, 9, 2), (3, 3, 2, 5), {"window_strides": (2, 3)}),
    "dilated": ((3, 9, 9, 2), (2, 2, 2, 5), {"rhs_dilation": (2, 1)}),
    "same": ((3, 8, 8, 2), (3, 3, 2, 5), {"padding": "SAME"}),
    "grouped": ((3, 6, 6, 4), (3, 3, 2, 6), {"feature_group_count": 2}),
    "one axis": ((3, 9, 2), (4, 2, 5), {"window_strides": (2,)}),
    "other order": (
        (3, 2, 8, 9),
        (5, 2, 3, 2),
        {"dimension_numbers": ("NCHW", "OIHW", "NCHW")},
    ),
}


def problem(kind):
    """Returns a loss of a kernel, the kernel and values."""
    shape, kernel_shape, actual = SHAPES[kind]
    one = len(shape) == 3
    names = ("NWC", "WIO", "NWC") if one else ("NHWC", "HWIO", "NHWC")
    defaults = {"window_strides": (1,) * (len(shape) - 2), "padding": "VALID"}
    actual = defaults | {"dimension_numbers": names} | actual

    def loss(kernel, values):
        out = jax.lax.conv_general_dilated(values, kernel, **actual)
        return jnp.sin(out).sum()

    rng = np.random.default_rng(0)
    kernel = rng.normal(size=kernel_shape).astype(np.float32)
    return loss, kernel, rng.normal(size=shape).astype(np.float32)


def slow(jaxpr):
    return [eqn for eqn in jaxpr.eqns if convolutions.has_slow(eqn)]


@pytest.mark.parametrize("kind", SHAPES)
def test_gradients_in_the_fast_order_are_the_same(kind):
    loss, kernel, values = problem(kind)
    gradients = jax.grad(loss, argnums=(0, 1))
    as_told = jax.make_jaxpr(gradients)(kernel, values)
    assert slow(as_told)
    ordered = inlined(as_told)
    assert not slow(ordered)
    found = jax.jit(compat.jaxpr_as_fun(ordered))(kernel, values)
    for mine, expected in zip(found, gradients(kernel, values), strict=True):
        np.testing.assert_allclose(mine, expected, rtol=1e-5, atol=1e-5)


def update(loss, kernel, values):
    return kernel - 0.01 * jax.grad(loss)(kernel, values)


def in_a_scan(update, kernel):
    return jax.lax.scan(lambda k, _: (update(k), None), kernel, length=2)[0]


def in_a_while(update, kernel):
    loop = jax.lax.while_loop(
        lambda at: at[0] < 2, lambda at: (at[0] + 1, update(at[1])), (0, kernel)
    )
    return loop[1]


def in_a_branch(update, kernel):
    return jax.lax.cond(kernel.sum() < 1e9, update, lambda k: k, kernel)


def in_a_call(update, kernel):
    return jax.jit(update)(kernel)


@pytest.mark.parametrize("within", [in_a_scan, in_a_while, in_a_branch, in_a_call])
@pytest.mark.parametrize("kind", ["strided", "one axis"])
def test_all_convolutions_of_a_loop_are_in_the_fast_order(within, kind):
    loss, kernel, values = problem(kind)

    def body(constants, carry, number):
        return within(partial(update, loss, values=constants), carry), None

    parts = hoisting.split(body, values, kernel, jnp.uint32(0))
    numbers = jnp.arange(3, dtype=jnp.uint32)

    @jax.jit
    def run(kernel):
        drawn = hoisting.ahead(parts, values, numbers)
        return loops.loop(parts, 3, values, kernel, numbers, drawn, jnp.int32(3))[0]

    text = run.lower(kernel).compile().as_text()
    orders = re.findall(r"dim_labels=(\S+?)[, ]", text)
    assert orders
    assert set(orders) <= FAST
    expected = kernel
    for _ in range(3):
        expected, _ = body(values, expected, 0)
    np.testing.assert_allclose(run(kernel), expected, rtol=1e-5, atol=1e-6)


def test_a_function_that_draws_nothing_is_in_the_fast_order_too():
    loss, kernel, values = problem("strided")

    def learn(constants, number, kernel):
        return in_a_scan(partial(update, loss, values=values), kernel)

    drawn = HoistedFunction(learn)
    expected = learn(None, 0, kernel)
    np.testing.assert_allclose(drawn(None, 0, kernel), expected, rtol=1e-5, atol=1e-6)
    traced = jax.make_jaxpr(drawn._programs.step)(None, np.uint32(0), kernel)
    assert not slow(traced)


def test_switched_off_convolutions_stay_as_they_are():
    loss, kernel, values = problem("strided")
    traced = jax.make_jaxpr(jax.grad(loss))(kernel, values)
    assert slow(traced)
    with switches.switched(off=["convolutions"]):
        assert not slow(traced)
        assert str(inlined(traced)) == str(traced)


def test_without_hoisting_convolutions_are_in_the_fast_order_all_the_same():
    loss, kernel, values = problem("strided")

    def body(constants, carry, number):
        return in_a_scan(partial(update, loss, values=constants), carry), number

    with switches.switched(off=["hoist"]):
        parts = hoisting.split(body, values, kernel, jnp.uint32(0))
        step = jax.make_jaxpr(parts.step)(values, kernel, jnp.uint32(0), [])
        assert not slow(step)
        found, _ = parts.step(values, kernel, jnp.uint32(0), [])
    expected, _ = body(values, kernel, 0)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_on_other_devices_convolutions_stay_as_they_are(monkeypatch):
    loss, kernel, values = problem("strided")
    traced = jax.make_jaxpr(jax.grad(loss))(kernel, values)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert not slow(traced)
