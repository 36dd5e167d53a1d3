"""A squashing of values, for rewards of very different sizes, and its inverse.

Half-precision arrays are computed in float32 and rounded once.
"""

import math

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from kitae.timesteps._checks import as_floats, as_scalar, check_number, working_dtype


def signed_hyperbolic(x: ArrayLike, eps: ArrayLike = 1e-3) -> jax.Array:
    """Squashes values: `sign(x) * (sqrt(|x| + 1) - 1) + eps * x`.

    The function h of section 3.2 of Pohlen et al., "Observe and Look Further:
    Achieving Consistent Performance on Atari", 2018. A network learns `h(value)`;
    its targets are `h(r + discount * signed_parabolic(next))`.

    Args:
        x: `[...]`, floating-point; values, in units of reward.
        eps: a number of at least 0, or an array of shape `[]` whose value is not
            checked; 0.01 in the paper, 0.001 in those that came after it.

    Returns:
        `[...]`, of the dtype of `x`. Gradients flow to both arguments; at 0 the
        slope is 1 / 2 + eps.

    Raises:
        ValueError: if the number `eps` is below 0, or if `eps` has a shape.
        TypeError: if an argument is a list or is not floating-point.

    Example:
        >>> import jax.numpy as jnp
        >>> from kitae.timesteps import signed_hyperbolic
        >>> signed_hyperbolic(jnp.array([3.0, -8.0]), eps=0.0).tolist()
        [1.0, -2.0]
    """
    return _signed_hyperbolic(x, check_number("eps", eps, 0.0, math.inf, "[)"))


def signed_parabolic(x: ArrayLike, eps: ArrayLike = 1e-3) -> jax.Array:
    """Undoes `signed_hyperbolic` of the same eps.

    Proposition A.2 of Pohlen et al., "Observe and Look Further: Achieving Consistent
    Performance on Atari", 2018, in a form that subtracts no two close numbers: in
    float32 the formula as it is printed is wrong by 1e-4 near 0.

    Args:
        x: `[...]`, floating-point; squashed values.
        eps: a number of at least 0, or an array of shape `[]` whose value is not
            checked; that of `signed_hyperbolic`.

    Returns:
        `[...]`, of the dtype of `x`, in units of reward. Gradients flow to both
        arguments.

    Raises:
        ValueError: if the number `eps` is below 0, or if `eps` has a shape.
        TypeError: if an argument is a list or is not floating-point.

    Example:
        >>> import jax.numpy as jnp
        >>> from kitae.timesteps import signed_parabolic
        >>> signed_parabolic(jnp.array([1.0, -2.0]), eps=0.0).tolist()
        [3.0, -8.0]
    """
    return _signed_parabolic(x, check_number("eps", eps, 0.0, math.inf, "[)"))


@jax.jit
def _signed_hyperbolic(x: ArrayLike, eps: ArrayLike) -> jax.Array:
    (array,) = as_floats(x=x)
    v = array.astype(working_dtype(array.dtype))
    eps = as_scalar("eps", eps, v.dtype)
    # sqrt(|v| + 1) - 1 without the difference, and with the right slope at 0.
    squashed = v / (jnp.sqrt(jnp.abs(v) + 1.0) + 1.0) + eps * v
    return squashed.astype(array.dtype)


@jax.jit
def _signed_parabolic(x: ArrayLike, eps: ArrayLike) -> jax.Array:
    (array,) = as_floats(x=x)
    h = array.astype(working_dtype(array.dtype))
    eps = as_scalar("eps", eps, h.dtype)
    # With w = sqrt(|x| + 1) - 1, h(x) = eps w^2 + (1 + 2 eps) w where x > 0. The
    # root w of that, multiplied out so that nothing is subtracted, gives x.
    b = 1.0 + 2.0 * eps
    w = 2.0 * h / (b + jnp.sqrt(b * b + 4.0 * eps * jnp.abs(h)))
    return (w * (jnp.abs(w) + 2.0)).astype(array.dtype)
