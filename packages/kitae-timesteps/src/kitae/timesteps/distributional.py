"""Distributions of returns: categorical targets, and the loss of quantiles.

Under strict dtypes and without broadcasting: all floating-point arrays of a function
have one dtype, which is also the dtype of the result. Half-precision arrays are
computed in float32 and rounded once.
"""

import functools
import math
import numbers

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from kitae.timesteps._checks import as_floats, check_same_shape, working_dtype


def project_categorical(
    support: ArrayLike, probs: ArrayLike, new_support: ArrayLike
) -> jax.Array:
    """Projects a distribution over some atoms onto the atoms of another support.

    Each atom's probability goes to the two new atoms around it, in proportion to how
    near it is to each; what lies outside goes to the first or the last of them.
    Algorithm 1 of Bellemare, Dabney and Munos, "A Distributional Perspective on
    Reinforcement Learning", ICML 2017, for atoms that may be spaced unequally.

    Args:
        support: `[..., n]`, floating-point; where the atoms lie, in any order and
            also outside `new_support`. In units of reward.
        probs: `[..., n]`, the probabilities of those atoms, in [0, 1].
        new_support: `[m]`, the new atoms, m >= 1; strictly increasing, which is not
            checked.

    Returns:
        `[..., m]`, the probabilities of the new atoms: their sum is that of `probs`,
        and their mean is too if no atom lies outside. Gradients flow to every
        argument; in the paper the result is a constant.

    Raises:
        ValueError: if `support` and `probs` differ in shape, have no atom, or if
            `new_support` is not `[m]`.
        TypeError: if an argument is a list, is not floating-point, or if the dtypes
            differ.

    Example:
        >>> import jax.numpy as jnp
        >>> from kitae.timesteps import project_categorical
        >>> support, probs = jnp.array([0.25, 7.0]), jnp.array([0.5, 0.5])
        >>> project_categorical(support, probs, jnp.array([0.0, 1.0, 2.0])).tolist()
        [0.375, 0.125, 0.5]
    """
    return _project_categorical(support, probs, new_support)


def compute_categorical_targets(
    rewards: ArrayLike, discounts: ArrayLike, next_probs: ArrayLike, support: ArrayLike
) -> jax.Array:
    """Computes the targets of C51: `r_t + discount_t * z`, projected onto `support`.

    Algorithm 1 of Bellemare, Dabney and Munos, "A Distributional Perspective on
    Reinforcement Learning", ICML 2017, from the distribution of the action that was
    chosen in the next observation.

    Args:
        rewards: `[...]`, floating-point; in units of reward.
        discounts: `[...]`, in [0, 1]: gamma, and 0 where the step terminated the
            episode. Truncation is not termination: there it stays gamma.
        next_probs: `[..., m]`, the probabilities of the atoms, for the chosen action
            in the step's true next observation, from the target network.
        support: `[m]`, the atoms z; strictly increasing, which is not checked. In
            units of reward.

    Returns:
        `[..., m]`, the target probabilities of the atoms. Gradients flow to every
        argument; in the paper the targets are constants.

    Raises:
        ValueError: if `rewards` and `discounts` differ in shape, or if `next_probs`
            is not of that shape and the atoms of `support`.
        TypeError: if an argument is a list, is not floating-point, or if the dtypes
            differ.

    Example:
        >>> import jax.numpy as jnp
        >>> from kitae.timesteps import compute_categorical_targets
        >>> support = jnp.array([0.0, 1.0, 2.0])
        >>> compute_categorical_targets(
        ...     jnp.array([1.0, 1.0]),
        ...     jnp.array([0.5, 0.0]),
        ...     jnp.array([[0.0, 1.0, 0.0], [0.0, 1.0, 0.0]]),
        ...     support,
        ... ).tolist()
        [[0.0, 0.5, 0.5], [0.0, 1.0, 0.0]]
    """
    return _categorical_targets(rewards, discounts, next_probs, support)


def quantile_midpoints(n: int) -> jax.Array:
    """Returns the middles of n equal parts of [0, 1]: `(i + 0.5) / n`.

    The fractions for which QR-DQN learns its quantiles, lemma 2 of Dabney et al.,
    "Distributional Reinforcement Learning with Quantile Regression", AAAI 2018.

    Args:
        n: how many, at least 1.

    Returns:
        `[n]`, float32, increasing, in (0, 1).

    Raises:
        ValueError: if n < 1.
        TypeError: if n is not an integer.

    Example:
        >>> from kitae.timesteps import quantile_midpoints
        >>> quantile_midpoints(4).tolist()
        [0.125, 0.375, 0.625, 0.875]
    """
    if not isinstance(n, numbers.Integral):
        raise TypeError(f"n must be an integer, got {type(n).__name__}.")
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}.")
    return (jnp.arange(n, dtype=jnp.float32) + 0.5) / n


def quantile_huber_loss(
    quantiles: ArrayLike, taus: ArrayLike, targets: ArrayLike, *, kappa: float = 1.0
) -> jax.Array:
    """Computes the Huber loss of quantile regression, of each quantile and target.

    With u a target less a quantile, the loss of the pair is `|tau - [u < 0]| *
    L(u) / kappa`, where the Huber loss L(u) is `u^2 / 2` up to `|u| = kappa` and
    `kappa * (|u| - kappa / 2)` beyond: eq. 3 of Dabney et al., "Implicit Quantile
    Networks for Distributional Reinforcement Learning", ICML 2018. Eq. 10 of Dabney
    et al., "Distributional Reinforcement Learning with Quantile Regression", AAAI
    2018, is without the division, which is nothing at their kappa of 1; with it, a
    small kappa comes near to plain quantile regression, eq. 8 there.

    Args:
        quantiles: `[..., n]`, floating-point; the predicted quantiles, in units of
            reward.
        taus: `[..., n]` or `[n]`, in (0, 1): the fraction that each quantile is of.
        targets: `[..., m]`, samples or quantiles of the target distribution. They
            are taken as constants: no gradient flows to them.
        kappa: a number of at least 0; 0 is plain quantile regression, with
            `|u|` in the place of L(u) / kappa. Another kappa compiles once more.

    Returns:
        `[...]`, the losses: the mean over targets, summed over quantiles. Gradients
        flow to `quantiles` and `taus`.

    Raises:
        ValueError: if the shapes do not fit, if there is no quantile or target, or
            if `kappa` is below 0.
        TypeError: if an argument is a list, is not floating-point, if the dtypes
            differ, or if `kappa` is not a number.

    Example:
        >>> import jax.numpy as jnp
        >>> from kitae.timesteps import quantile_huber_loss, quantile_midpoints
        >>> quantiles, targets = jnp.array([[1.0, 3.0]]), jnp.array([[3.0]])
        >>> quantile_huber_loss(quantiles, quantile_midpoints(2), targets).tolist()
        [0.375]
    """
    if not isinstance(kappa, numbers.Real):
        raise TypeError(f"kappa must be a number, got {type(kappa).__name__}.")
    if not 0.0 <= kappa < math.inf:
        raise ValueError(f"kappa must be in [0, inf), got {kappa}.")
    return _quantile_huber_loss(quantiles, taus, targets, kappa=float(kappa))


@jax.jit
def _project_categorical(
    support: ArrayLike, probs: ArrayLike, new_support: ArrayLike
) -> jax.Array:
    arrays = as_floats(support=support, probs=probs, new_support=new_support)
    dtype = working_dtype(arrays[0].dtype)
    z_p, p, z_q = (array.astype(dtype) for array in arrays)
    check_same_shape(support=z_p, probs=p)
    _check_last_axis(support=z_p)
    _check_support(new_support=z_q)
    return _project(z_p, p, z_q).astype(arrays[0].dtype)


@jax.jit
def _categorical_targets(
    rewards: ArrayLike, discounts: ArrayLike, next_probs: ArrayLike, support: ArrayLike
) -> jax.Array:
    arrays = as_floats(
        rewards=rewards, discounts=discounts, next_probs=next_probs, support=support
    )
    dtype = working_dtype(arrays[0].dtype)
    r_t, discount_t, p_t, z = (array.astype(dtype) for array in arrays)
    check_same_shape(rewards=r_t, discounts=discount_t)
    _check_support(support=z)
    if p_t.shape != (*r_t.shape, *z.shape):
        raise ValueError(
            "next_probs must have the shape of rewards and one more axis of the atoms "
            f"of support, got rewards: {r_t.shape}, next_probs: {p_t.shape}, support: "
            f"{z.shape}."
        )
    z_t = r_t[..., None] + discount_t[..., None] * _lift(z, p_t.ndim)
    return _project(z_t, p_t, z).astype(arrays[0].dtype)


@functools.partial(jax.jit, static_argnames="kappa")
def _quantile_huber_loss(
    quantiles: ArrayLike, taus: ArrayLike, targets: ArrayLike, *, kappa: float
) -> jax.Array:
    arrays = as_floats(quantiles=quantiles, taus=taus, targets=targets)
    dtype = working_dtype(arrays[0].dtype)
    theta, tau, target = (array.astype(dtype) for array in arrays)
    _check_last_axis(quantiles=theta, targets=target)
    if tau.shape not in (theta.shape, theta.shape[-1:]):
        raise ValueError(
            "taus must have the shape of quantiles or of its last axis, got "
            f"quantiles: {theta.shape}, taus: {tau.shape}."
        )
    if theta.shape[:-1] != target.shape[:-1]:
        raise ValueError(
            "quantiles and targets must have equal shapes but for the last axis, got "
            f"quantiles: {theta.shape}, targets: {target.shape}."
        )
    u = lax.stop_gradient(target)[..., None, :] - theta[..., :, None]
    weight = jnp.abs(_lift(tau, theta.ndim)[..., None] - (u < 0.0).astype(dtype))
    losses = jnp.mean(weight * _scaled_huber(u, kappa), axis=-1)
    return jnp.sum(losses, axis=-1).astype(arrays[0].dtype)


def _project(z_p: jax.Array, p: jax.Array, z_q: jax.Array) -> jax.Array:
    """Weighs every pair of atoms: a tent of height 1 stands over each new atom."""
    one = jnp.ones_like(z_q[:1])
    # Beyond the ends nothing is to be shared, and 1 is as good a width as another.
    gaps = jnp.concatenate([one, jnp.diff(z_q), one])
    rises, falls = _lift(1.0 / gaps[:-1], p.ndim + 1), _lift(1.0 / gaps[1:], p.ndim + 1)
    away = jnp.clip(z_p, z_q[0], z_q[-1])[..., None] - _lift(z_q, p.ndim + 1)
    weights = jnp.maximum(1.0 - jnp.maximum(away * falls, -away * rises), 0.0)
    # Measured on a CPU, 128 by 51 atoms: 0.13 ms as it stands, 0.26 as a sum of
    # products, 0.22 as a scatter. Accelerators would multiply in a narrower dtype.
    return jnp.einsum("...n,...nm->...m", p, weights, precision=lax.Precision.HIGHEST)


def _scaled_huber(u: jax.Array, kappa: float) -> jax.Array:
    size = jnp.abs(u)
    if kappa == 0.0:
        return size
    inner = jnp.minimum(size, kappa)
    return inner / kappa * (size - 0.5 * inner)


def _lift(array: jax.Array, ndim: int) -> jax.Array:
    """Puts axes of length 1 before those of `array` until it has `ndim`."""
    return jnp.expand_dims(array, tuple(range(ndim - array.ndim)))


def _check_last_axis(**named: jax.Array) -> None:
    for name, array in named.items():
        if not array.ndim or array.shape[-1] < 1:
            raise ValueError(
                f"{name} must be [..., n] with n >= 1, got shape {array.shape}."
            )


def _check_support(**named: jax.Array) -> None:
    for name, array in named.items():
        if array.ndim != 1 or array.shape[0] < 1:
            raise ValueError(
                f"{name} must be [m] with m >= 1, got shape {array.shape}."
            )
