import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rlax
from hypothesis import given, settings
from hypothesis import strategies as st

from kitae.timesteps import (
    compute_categorical_targets,
    distributional,
    project_categorical,
    quantile_huber_loss,
    quantile_midpoints,
)


def f32(*values):
    return jnp.array(values, jnp.float32)


def projection_twin(support, probs, low, high, m):
    """Algorithm 1, atom after atom, onto m equally spaced ones, in float64."""
    out, gap = np.zeros(m), (high - low) / (m - 1)
    for z, p in zip(support.astype(np.float64), probs, strict=True):
        b = (min(max(z, low), high) - low) / gap
        lower, upper = math.floor(b), math.ceil(b)
        if lower == upper:
            out[lower] += p
        else:
            out[lower] += p * (upper - b)
            out[upper] += p * (b - lower)
    return out


def loss_twin(quantiles, taus, targets, kappa):
    """Eq. 3 of IQN, pair after pair, in float64."""
    total = 0.0
    for theta, tau in zip(quantiles.astype(np.float64), taus, strict=True):
        for target in targets:
            u = target - theta
            size = abs(u)
            if kappa and size <= kappa:
                size = u * u / (2 * kappa)
            elif kappa:
                size -= kappa / 2
            total += abs(tau - (u < 0)) * size / len(targets)
    return total


def draw(seed, n=6, m=5, batch=()):
    rng = np.random.default_rng(seed)
    support = rng.normal(scale=3.0, size=(*batch, n)).astype(np.float32)
    probs = rng.dirichlet(np.ones(n), batch).astype(np.float32)
    new_support = np.sort(rng.normal(scale=2.0, size=m)).astype(np.float32)
    return support, probs, new_support


def test_projection_by_hand():
    # .25 lies between 0 and 2, an eighth of the way; 5 between 2 and 6, three
    # quarters of it; -9 and 7 lie outside.
    probs = project_categorical(
        f32(5.0, 0.25, 7.0, -9.0), f32(0.4, 0.3, 0.2, 0.1), f32(0.0, 2.0, 6.0)
    )
    expected = [0.1 + 0.3 * 0.875, 0.3 * 0.125 + 0.4 * 0.25, 0.4 * 0.75 + 0.2]
    np.testing.assert_allclose(probs, expected, rtol=1e-6)
    assert probs.dtype == jnp.float32


def test_an_atom_on_another_gives_it_all():
    support, probs = f32(-1.0, 0.1, 0.7, 3.0), f32(0.1, 0.2, 0.3, 0.4)
    np.testing.assert_array_equal(project_categorical(support, probs, support), probs)
    one = project_categorical(support, probs, f32(0.5))
    np.testing.assert_allclose(one, [1.0], rtol=1e-6)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_projection_equals_its_twin(seed):
    support, probs, _ = draw(seed)
    np.testing.assert_allclose(
        project_categorical(support, probs, jnp.linspace(-4.0, 4.0, 9)),
        projection_twin(support, probs, -4.0, 4.0, 9),
        atol=1e-6,
    )


@pytest.mark.parametrize("seed", range(4))
def test_projection_equals_rlax(seed, peer):
    support, probs, new_support = draw(seed)
    np.testing.assert_allclose(
        project_categorical(support, probs, new_support),
        peer(rlax.categorical_l2_project, support, probs, new_support),
        rtol=1e-4,
        atol=1e-6,
    )


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_projection_keeps_mass_and_mean(seed):
    support, probs, new_support = draw(seed)
    projected = project_categorical(support, probs, new_support)
    assert jnp.all(projected >= 0.0)
    np.testing.assert_allclose(jnp.sum(projected), 1.0, rtol=1e-5)
    inside = np.clip(support, new_support[0], new_support[-1])
    np.testing.assert_allclose(
        jnp.sum(projected * new_support), np.sum(inside * probs), atol=1e-4
    )


def test_projection_of_batches():
    support, probs, new_support = draw(0, batch=(2, 3))
    projected = project_categorical(support, probs, new_support)
    assert projected.shape == (2, 3, 5)
    for index in np.ndindex(2, 3):
        np.testing.assert_allclose(
            projected[index],
            project_categorical(support[index], probs[index], new_support),
            rtol=1e-5,
            atol=1e-7,
        )


def test_infinite_returns_go_to_the_ends():
    probs = project_categorical(
        f32(-math.inf, math.inf), f32(0.25, 0.75), f32(0.0, 1.0, 2.0)
    )
    np.testing.assert_array_equal(probs, [0.25, 0.0, 0.75])


def test_categorical_targets_by_hand():
    # 1 + .5*[0, 1, 2] = [1, 1.5, 2]; where the step terminated all lies at 2 + 0.
    targets = compute_categorical_targets(
        f32(1.0, 2.0),
        f32(0.5, 0.0),
        jnp.array([[0.2, 0.4, 0.4], [0.2, 0.4, 0.4]]),
        f32(0.0, 1.0, 2.0),
    )
    np.testing.assert_allclose(targets, [[0.0, 0.4, 0.6], [0.0, 0.0, 1.0]], rtol=1e-6)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_categorical_targets_equal_the_twin(seed):
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.ones(9), 4).astype(np.float32)
    rewards = rng.normal(size=4).astype(np.float32)
    discounts = (0.9 * rng.integers(0, 2, 4)).astype(np.float32)
    support = np.linspace(-4.0, 4.0, 9, dtype=np.float32)
    targets = compute_categorical_targets(rewards, discounts, probs, support)
    for i in range(4):
        shifted = rewards[i] + discounts[i] * support
        expected = projection_twin(shifted, probs[i], -4.0, 4.0, 9)
        np.testing.assert_allclose(targets[i], expected, atol=2e-6)


def test_gradients_of_the_projection_are_the_weights():
    def second(probs):
        return project_categorical(f32(0.25, 3.0), probs, f32(0.0, 1.0))[1]

    np.testing.assert_allclose(jax.grad(second)(f32(0.5, 0.5)), [0.25, 1.0])


def test_shapes_of_categorical_arguments():
    x, z = jnp.ones((4, 3)), jnp.arange(3.0)
    with pytest.raises(ValueError, match=r"support: \(3,\), probs: \(4, 3\)"):
        project_categorical(z, x, z)
    with pytest.raises(ValueError, match=r"new_support must be \[m\]"):
        project_categorical(x, x, x)
    for shape in [(), (4, 0)]:
        empty = jnp.ones(shape)
        with pytest.raises(ValueError, match="support must be"):
            project_categorical(empty, empty, z)
    b = jnp.ones(4)
    with pytest.raises(ValueError, match=r"rewards: \(4,\), discounts: \(4, 1\)"):
        compute_categorical_targets(b, b[:, None], x, z)
    for probs in [x[:, :2], x[:2], z, x[:, None]]:
        with pytest.raises(ValueError, match="next_probs must have the shape of"):
            compute_categorical_targets(b, b, probs, z)
    with pytest.raises(ValueError, match=r"support must be \[m\]"):
        compute_categorical_targets(b, b, x, x)


@pytest.mark.parametrize("bad", [[1.0], None, jnp.ones(1, jnp.int32)])
def test_what_is_no_floating_array_is_refused_by_name(bad):
    x = jnp.ones(1)
    for function, names in [
        (project_categorical, ("support", "probs", "new_support")),
        (
            compute_categorical_targets,
            ("rewards", "discounts", "next_probs", "support"),
        ),
        (quantile_huber_loss, ("quantiles", "taus", "targets")),
    ]:
        for position, name in enumerate(names):
            arguments = [x] * len(names)
            arguments[position] = bad
            with pytest.raises(TypeError, match=name):
                function(*arguments)
        with pytest.raises(TypeError, match="Dtypes must be equal"):
            function(*arguments[:-2], x, x.astype(jnp.bfloat16))


def test_midpoints_by_hand():
    taus = quantile_midpoints(5)
    np.testing.assert_allclose(taus, [0.1, 0.3, 0.5, 0.7, 0.9], rtol=1e-6)
    assert taus.dtype == jnp.float32
    with pytest.raises(ValueError, match="n must be at least 1, got 0"):
        quantile_midpoints(0)
    with pytest.raises(TypeError, match="n must be an integer, got float"):
        quantile_midpoints(5.0)


def test_quantile_loss_by_hand():
    # u = [3 - 1, 1.5 - 1, 3 - 2, 1.5 - 2]. Huber of kappa 1: 1.5, .125, .5, .125; the
    # weights are .25, .25, .75 and 1 - .75.
    quantiles, targets, taus = f32(1.0, 2.0), f32(3.0, 1.5), f32(0.25, 0.75)
    expected = (0.25 * 1.5 + 0.25 * 0.125 + 0.75 * 0.5 + 0.25 * 0.125) / 2
    np.testing.assert_allclose(quantile_huber_loss(quantiles, taus, targets), expected)
    plain = (0.25 * 2.0 + 0.25 * 0.5 + 0.75 * 1.0 + 0.25 * 0.5) / 2
    np.testing.assert_allclose(
        quantile_huber_loss(quantiles, taus, targets, kappa=0), plain
    )


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), kappa=st.sampled_from([0.0, 0.3, 1.0, 5.0]))
def test_quantile_loss_equals_its_twin(seed, kappa):
    rng = np.random.default_rng(seed)
    quantiles = rng.normal(size=(2, 4)).astype(np.float32)
    targets = rng.normal(size=(2, 3)).astype(np.float32)
    taus = rng.random((2, 4)).astype(np.float32)
    losses = quantile_huber_loss(quantiles, taus, targets, kappa=kappa)
    shared = quantile_huber_loss(quantiles, taus[0], targets, kappa=kappa)
    assert losses.shape == (2,)
    for i in range(2):
        twin = loss_twin(quantiles[i], taus[i], targets[i], kappa)
        np.testing.assert_allclose(losses[i], twin, rtol=1e-5)
        twin = loss_twin(quantiles[i], taus[0], targets[i], kappa)
        np.testing.assert_allclose(shared[i], twin, rtol=1e-5)


@pytest.mark.parametrize("kappa", [0.0, 0.5, 1.0])
def test_quantile_loss_equals_rlax(kappa, peer):
    rng = np.random.default_rng(0)
    quantiles, targets = rng.normal(size=(2, 7)).astype(np.float32)
    taus = np.asarray(quantile_midpoints(7))
    # Of rlax as of eq. 10 of QR-DQN, without the division by kappa.
    scale = kappa or 1.0
    np.testing.assert_allclose(
        quantile_huber_loss(quantiles, taus, targets, kappa=kappa),
        peer(rlax.quantile_regression_loss, quantiles, taus, targets, kappa) / scale,
        rtol=1e-5,
    )


def test_a_small_kappa_comes_near_to_plain_regression():
    quantiles, taus, targets = f32(0.0, 1.0), f32(0.25, 0.75), f32(0.5, 3.0)
    np.testing.assert_allclose(
        quantile_huber_loss(quantiles, taus, targets, kappa=1e-6),
        quantile_huber_loss(quantiles, taus, targets, kappa=0.0),
        rtol=1e-5,
    )


def test_gradients_of_the_quantile_loss_by_hand():
    # d/dtheta is -weight * clip(u / kappa, -1, 1): u = 3 and -.5.
    def loss(quantiles, targets):
        return quantile_huber_loss(quantiles, f32(0.25, 0.75), targets)

    to_quantiles, to_targets = jax.grad(loss, (0, 1))(f32(0.0, 3.5), f32(3.0))
    np.testing.assert_allclose(to_quantiles, [-0.25, 0.25 * 0.5])
    np.testing.assert_array_equal(to_targets, [0.0])
    # Where a quantile meets its target.
    to_quantiles = jax.grad(loss)(f32(3.0, 3.0), f32(3.0))
    np.testing.assert_array_equal(to_quantiles, [0.0, 0.0])


@pytest.mark.parametrize("kappa", [0.0, 0.1])
def test_the_least_loss_is_at_the_quantiles(kappa):
    # 0, 1 .. 100: their quantile of tau is 100 tau.
    targets, taus = jnp.arange(101.0), f32(0.1, 0.5, 0.9)
    quantiles = jnp.full(3, 50.0)
    gradient = jax.jit(
        jax.grad(lambda q: quantile_huber_loss(q, taus, targets, kappa=kappa))
    )
    for _ in range(400):
        quantiles = quantiles - gradient(quantiles)
    np.testing.assert_allclose(quantiles, [10.0, 50.0, 90.0], atol=1.0)


def test_shapes_of_quantile_arguments():
    x, taus = jnp.ones((4, 3)), jnp.ones(3)
    assert quantile_huber_loss(x, taus, jnp.ones((4, 7))).shape == (4,)
    for bad in [jnp.ones(4), jnp.ones(()), jnp.ones((1, 3)), jnp.ones((4, 1))]:
        with pytest.raises(ValueError, match="taus must have the shape of quantiles"):
            quantile_huber_loss(x, bad, x)
    for bad in [jnp.ones(3), jnp.ones((1, 3)), jnp.ones((4, 1, 3))]:
        with pytest.raises(ValueError, match=r"but for the last axis, got quantiles"):
            quantile_huber_loss(x, taus, bad)
    for shape in [(), (4, 0)]:
        with pytest.raises(ValueError, match="targets must be"):
            quantile_huber_loss(x, taus, jnp.ones(shape))


def test_kappa_is_a_number_of_at_least_zero():
    x = jnp.ones(2)
    for bad in (-1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match=r"kappa must be in \[0, inf\), got"):
            quantile_huber_loss(x, x, x, kappa=bad)
    for bad in (None, jnp.ones(()), "1"):
        with pytest.raises(TypeError, match="kappa must be a number"):
            quantile_huber_loss(x, x, x, kappa=bad)


def test_half_precision_is_rounded_once():
    rng = np.random.default_rng(1)
    probs = rng.dirichlet(np.ones(51), 32)
    support = jnp.linspace(-8.0, 8.0, 51)
    rewards, discounts = rng.normal(size=32), np.full(32, 0.9)
    taus = quantile_midpoints(51)
    for function, arguments in [
        (compute_categorical_targets, (rewards, discounts, probs, support)),
        (project_categorical, (probs, probs, support)),
        (quantile_huber_loss, (probs, taus, probs[:, ::-1])),
    ]:
        half = [jnp.asarray(x, jnp.bfloat16) for x in arguments]
        got = function(*half)
        assert got.dtype == jnp.bfloat16
        expected = function(*[x.astype(jnp.float32) for x in half])
        np.testing.assert_array_equal(got, expected.astype(jnp.bfloat16))


@pytest.mark.parametrize("transform", [jax.jit, jax.vmap])
def test_under_transformations(transform):
    support, probs, new_support = draw(2, batch=(3,))
    taus = quantile_midpoints(6)

    def project(z, p):
        return project_categorical(z, p, new_support)

    def loss(q, t):
        return quantile_huber_loss(q, taus, t)

    for function in (project, loss):
        np.testing.assert_allclose(
            transform(function)(support, probs),
            function(support, probs),
            rtol=1e-5,
            atol=1e-6,
        )


def test_a_shape_is_traced_once(monkeypatch):
    traces = []
    project = distributional._project
    monkeypatch.setattr(
        distributional, "_project", lambda *xs: (traces.append(1), project(*xs))[1]
    )
    for value in range(3):
        z = jnp.arange(13.0) + value
        compute_categorical_targets(jnp.ones(3), jnp.ones(3), jnp.ones((3, 13)), z)
    assert len(traces) == 1
