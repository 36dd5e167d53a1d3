import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rlax
from hypothesis import given, settings
from hypothesis import strategies as st

from kitae.timesteps import signed_hyperbolic, signed_parabolic

EPSILONS = [0.0, 1e-3, 1e-2, 1.0]
VALUES = st.floats(-(2.0**100), 2.0**100, width=32, allow_subnormal=False)


def f32(*values):
    return jnp.array(values, jnp.float32)


def squash(x, eps):
    """The printed formula, in numpy's widest floats."""
    x = np.asarray(x, np.longdouble)
    return np.sign(x) * (np.sqrt(np.abs(x) + 1) - 1) + np.longdouble(eps) * x


def test_by_hand():
    # sqrt(8 + 1) - 1 = 2, and .5 * 8 = 4 on top.
    np.testing.assert_allclose(signed_hyperbolic(f32(8.0, -8.0), 0.5), [6.0, -6.0])
    np.testing.assert_allclose(signed_parabolic(f32(6.0, -6.0), 0.5), [8.0, -8.0])
    assert signed_hyperbolic(f32(8.0)).dtype == jnp.float32


@settings(max_examples=100, deadline=None)
@given(x=VALUES, eps=st.sampled_from(EPSILONS))
def test_they_undo_each_other(x, eps):
    x = np.float32(x)
    # A relative error of h grows by 2 at most where it is undone, like a square.
    # What is near the least float underflows on the way.
    np.testing.assert_allclose(
        signed_parabolic(signed_hyperbolic(x, eps), eps), x, rtol=2e-6, atol=1e-37
    )


@settings(max_examples=100, deadline=None)
@given(x=VALUES, eps=st.sampled_from(EPSILONS))
def test_the_squashing_is_accurate(x, eps):
    x = np.float32(x)
    # The printed formula cancels near 0, even in numpy's widest floats.
    np.testing.assert_allclose(
        signed_hyperbolic(x, eps),
        squash(x, np.float32(eps)).astype(np.float64),
        rtol=1e-6,
        atol=1e-15,
    )


@pytest.mark.parametrize("eps", [1e-3, 1e-2])
def test_both_equal_rlax(eps, peer):
    x = f32(-300.0, -1.0, -0.1, 0.0, 0.2, 1.0, 25.0, 1e4)
    np.testing.assert_allclose(
        signed_hyperbolic(x, eps), peer(rlax.signed_hyperbolic, x, eps), rtol=1e-5
    )
    # What rlax computes in float32 is off by as much.
    np.testing.assert_allclose(
        signed_parabolic(x, eps),
        peer(rlax.signed_parabolic, x, eps),
        rtol=1e-3,
        atol=2e-4,
    )


def test_large_values_stay_finite():
    x = f32(1e10, 1e20, 1e30, -1e38)
    squashed = signed_hyperbolic(x)
    np.testing.assert_allclose(squashed, squash(x, 1e-3).astype(float), rtol=1e-6)
    np.testing.assert_allclose(signed_parabolic(squashed), x, rtol=1e-5)


def test_small_values_keep_their_digits():
    x = f32(1e-30, 1e-7, -1e-4)
    np.testing.assert_allclose(signed_hyperbolic(x), 0.501 * x, rtol=1e-4)
    np.testing.assert_allclose(signed_parabolic(signed_hyperbolic(x)), x, rtol=1e-6)


def test_slopes_at_zero():
    np.testing.assert_allclose(jax.grad(signed_hyperbolic)(0.0, 0.01), 0.51, rtol=1e-6)
    np.testing.assert_allclose(
        jax.grad(signed_parabolic)(0.0, 0.01), 1 / 0.51, rtol=1e-6
    )


@pytest.mark.parametrize("function", [signed_hyperbolic, signed_parabolic])
def test_what_is_refused(function):
    for bad in ([1.0], None, jnp.ones(2, jnp.int32)):
        with pytest.raises(TypeError, match="x must be"):
            function(bad)
    for bad in (-1e-3, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=r"eps must be in \[0, inf\), got"):
            function(jnp.ones(2), bad)
    with pytest.raises(ValueError, match=r"eps must be a number or of shape \(\)"):
        function(jnp.ones(2), jnp.ones(2))


@pytest.mark.parametrize("function", [signed_hyperbolic, signed_parabolic])
def test_half_precision_is_rounded_once(function):
    half = jnp.linspace(-5.0, 5.0, 101).astype(jnp.bfloat16)
    got = function(half)
    assert got.dtype == jnp.bfloat16
    expected = function(half.astype(jnp.float32)).astype(jnp.bfloat16)
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("function", [signed_hyperbolic, signed_parabolic])
@pytest.mark.parametrize("transform", [jax.jit, jax.vmap])
def test_under_transformations(function, transform):
    x = f32(-3.0, 0.0, 7.0)
    np.testing.assert_allclose(transform(function)(x), function(x), rtol=1e-6)
