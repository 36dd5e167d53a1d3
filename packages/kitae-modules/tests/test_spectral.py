import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kitae.modules.spectral import spectral_normalize

RNG = np.random.default_rng(0)


def largest(kernel):
    kernel = np.asarray(kernel, np.float64)
    return np.linalg.svd(kernel.reshape(-1, kernel.shape[-1]), compute_uv=False)[0]


def with_spectrum(values, n_rows):
    """A matrix of these singular values, and its first singular vectors."""
    left = np.linalg.qr(RNG.normal(size=(n_rows, len(values))))[0]
    right = np.linalg.qr(RNG.normal(size=(len(values), len(values))))[0]
    return np.float32(left * values @ right.T), left[:, 0], right[:, 0]


def test_where_one_value_stands_out_the_result_has_norm_one():
    matrix, *_ = with_spectrum([7.0, 1.0, 0.5, 0.1], 18)
    kernel = jnp.asarray(matrix.reshape(3, 3, 2, 4))
    out = jax.jit(spectral_normalize)(kernel)
    assert (out.shape, out.dtype) == (kernel.shape, kernel.dtype)
    np.testing.assert_allclose(out, kernel / largest(kernel), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("features", [16, 32, 64])
def test_random_kernels_are_close_from_above(features):
    kernel = jax.nn.initializers.lecun_normal()(
        jax.random.key(features), (3, 3, features, features)
    )
    norm = largest(spectral_normalize(kernel))
    assert 1.0 - 1e-5 <= norm < 1.15
    assert 1.0 - 1e-5 <= largest(spectral_normalize(kernel, 100)) < 1.01


def test_the_gradient_flows_through_the_kernel_alone():
    matrix, u, v = with_spectrum([5.0, 0.5, 0.1], 6)
    weights = RNG.normal(size=matrix.shape)
    grad = jax.grad(lambda w: (spectral_normalize(w) * jnp.float32(weights)).sum())
    # Of W / sigma, with d sigma / dW = u v^T (Miyato et al., eq. 12).
    expected = weights / 5.0 - (weights * matrix).sum() / 25.0 * np.outer(u, v)
    np.testing.assert_allclose(grad(matrix), expected, rtol=1e-3, atol=1e-4)


def test_a_kernel_of_zeros_and_one_scaled():
    assert (spectral_normalize(jnp.zeros((3, 2))) == 0).all()
    assert np.isfinite(jax.jacobian(spectral_normalize)(jnp.zeros((3, 2)))).all()
    kernel = jnp.float32(RNG.normal(size=(6, 4)))
    np.testing.assert_allclose(
        spectral_normalize(100.0 * kernel), spectral_normalize(kernel), rtol=1e-5
    )


def test_arguments_that_are_refused():
    with pytest.raises(ValueError, match=r"at least two axes, got \(3,\)"):
        spectral_normalize(jnp.ones(3))
    with pytest.raises(ValueError, match="n_iterations must be at least 1, got 0"):
        spectral_normalize(jnp.ones((3, 2)), 0)
