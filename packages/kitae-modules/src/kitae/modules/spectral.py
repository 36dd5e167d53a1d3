"""Spectral normalisation without a state."""

import jax
import jax.numpy as jnp
import numpy as np

_EPS = 1e-12


def spectral_normalize(kernel: jax.Array, n_iterations: int = 5) -> jax.Array:
    """Divides a kernel by an estimate of its largest singular value.

    As Miyato et al. (2018), eq. 8 and Algorithm 1, with the kernel as a matrix of its
    last axis against all others. They keep the vectors `u` and `v` of the power
    iteration from one update to the next, one iteration each; here each call makes
    `n_iterations` from one fixed start, so that a network has no variables but its
    parameters. The estimate is never above the largest singular value, and below it
    by little where the next one is much smaller.

    Args:
        kernel: `[..., n_outputs]`, floating-point, at least two axes.
        n_iterations: Power iterations, at least 1.

    Returns:
        The kernel divided by `u^T W v`, of the same shape and dtype; a kernel of zeros
        as it is. Gradients flow through `W`, not through `u` and `v`, as in the paper
        (eq. 12).

    Raises:
        ValueError: `kernel` has fewer than two axes, or `n_iterations` is below 1.

    Examples:
        >>> import jax.numpy as jnp
        >>> spectral_normalize(jnp.diag(jnp.array([4.0, 1.0]))).round(3).tolist()
        [[1.0, 0.0], [0.0, 0.25]]
    """
    if kernel.ndim < 2:
        raise ValueError(f"kernel must have at least two axes, got {kernel.shape}")
    if n_iterations < 1:
        raise ValueError(f"n_iterations must be at least 1, got {n_iterations}")
    matrix = kernel.reshape(-1, kernel.shape[-1])
    weights = jax.lax.stop_gradient(matrix)
    # Drawn by numpy: a constant of the program, and orthogonal to nothing in practice.
    start = np.random.default_rng(0).normal(size=matrix.shape[-1])
    v = _unit(jnp.asarray(start, matrix.dtype))
    for _ in range(n_iterations):
        v = _unit(_unit(weights @ v) @ weights)
    u = _unit(weights @ v)
    sigma = u @ matrix @ v
    return kernel / jnp.maximum(sigma, jnp.asarray(_EPS, matrix.dtype))


def _unit(vector: jax.Array) -> jax.Array:
    return vector / (jnp.linalg.norm(vector) + jnp.asarray(_EPS, vector.dtype))
