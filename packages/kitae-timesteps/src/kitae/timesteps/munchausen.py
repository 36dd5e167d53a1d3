"""Munchausen targets: the reward is raised by how sure the policy was of its action.

The policy is a softmax of the action values, `pi = softmax(q / temperature)`. Under
strict dtypes and without broadcasting: all floating-point arrays of a function have
one dtype, which is also the dtype of the result. Half-precision arrays are computed
in float32 and rounded once. No function here stops gradients; in the paper all that
they are given comes from the target network, and is constant.
"""

import math

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from kitae.timesteps._arrays import take_actions
from kitae.timesteps._checks import (
    as_actions,
    as_floats,
    as_scalar,
    check_action_axis,
    check_number,
    check_same_shape,
    working_dtype,
)


def compute_soft_policy(q_values: ArrayLike, *, temperature: ArrayLike) -> jax.Array:
    """Computes the soft policy, `softmax(q / temperature)`.

    Section 2 of Vieillard, Pietquin and Geist, "Munchausen Reinforcement Learning",
    NeurIPS 2020. It is computed from differences to the greatest value, so that a
    small temperature overflows nothing.

    Args:
        q_values: `[..., n_actions]`, floating-point; an action of value -inf has the
            probability 0.
        temperature: a number above 0, in units of reward, or an array of shape `[]`
            whose value is not checked; 0.03 in the paper.

    Returns:
        `[..., n_actions]`, probabilities, which sum to 1. Gradients flow to both
        arguments.

    Raises:
        ValueError: if there is no axis of at least one action, or if the number
            `temperature` is not above 0.
        TypeError: if an argument is a list or is not floating-point.

    Example:
        >>> import jax.numpy as jnp
        >>> from kitae.timesteps import compute_soft_policy
        >>> compute_soft_policy(jnp.array([5.0, 5.0]), temperature=0.03).tolist()
        [0.5, 0.5]
    """
    return _soft_policy(q_values, _check_temperature(temperature))


def compute_soft_values(q_values: ArrayLike, *, temperature: ArrayLike) -> jax.Array:
    """Computes the soft values, `temperature * log sum_a exp(q[a] / temperature)`.

    They are `sum_a pi[a] * (q[a] - temperature * log pi[a])`, what eq. 2 of
    Vieillard, Pietquin and Geist, "Munchausen Reinforcement Learning", NeurIPS 2020,
    bootstraps from. An agent of which `q` is the mean of a distribution moves the
    mixture of its actions' distributions, of weights pi, by the soft value less
    `sum_a pi[a] * q[a]`.

    Args:
        q_values: `[..., n_actions]`, floating-point; in units of reward.
        temperature: a number above 0, in units of reward, or an array of shape `[]`
            whose value is not checked; 0.03 in the paper.

    Returns:
        `[...]`, the soft values: at least the greatest action value, and at most
        `temperature * log(n_actions)` more. Gradients flow to both arguments.

    Raises:
        ValueError: if there is no axis of at least one action, or if the number
            `temperature` is not above 0.
        TypeError: if an argument is a list or is not floating-point.

    Example:
        >>> import jax.numpy as jnp
        >>> from kitae.timesteps import compute_soft_values
        >>> compute_soft_values(jnp.array([[5.0, 1.0]]), temperature=0.03).tolist()
        [5.0]
    """
    return _soft_values(q_values, _check_temperature(temperature))


def compute_munchausen_bonus(
    q_values: ArrayLike,
    actions: ArrayLike,
    *,
    temperature: ArrayLike,
    scale: ArrayLike,
    clip: ArrayLike,
) -> jax.Array:
    """Computes what M-DQN adds to the reward, `scale * [temperature * log pi[a]]`.

    The brackets stand for clipping to [clip, 0]: the second term of eq. 2 of
    Vieillard, Pietquin and Geist, "Munchausen Reinforcement Learning", NeurIPS 2020,
    clipped as in their section 4.

    Args:
        q_values: `[..., n_actions]`, floating-point; the action values of the
            observation that was acted on, from the target network.
        actions: `[...]`, integers in [0, n_actions), which are not checked: the
            actions taken.
        temperature: a number above 0, in units of reward, or an array of shape `[]`
            whose value is not checked, as below; 0.03 in the paper.
        scale: a number in [0, 1], or an array of shape `[]`; alpha, 0.9 in the
            paper. 0 makes M-DQN soft DQN.
        clip: a number below 0, in units of reward, or an array of shape `[]`; l0, -1
            in the paper. `-math.inf` clips nothing.

    Returns:
        `[...]`, the bonuses, in [scale * clip, 0]. Gradients flow to every
        floating-point argument.

    Raises:
        ValueError: if `q_values` is not of the shape of `actions` and one axis of
            actions, or if a number is out of its range.
        TypeError: if an argument is a list or has the wrong dtype.

    Example:
        >>> import jax.numpy as jnp
        >>> from kitae.timesteps import compute_munchausen_bonus
        >>> q_values, actions = jnp.array([[5.0, 4.5], [5.0, 1.0]]), jnp.array([1, 1])
        >>> compute_munchausen_bonus(
        ...     q_values, actions, temperature=0.03, scale=0.5, clip=-1.0
        ... ).tolist()
        [-0.25, -0.5]
    """
    return _munchausen_bonus(
        q_values,
        actions,
        _check_temperature(temperature),
        check_number("scale", scale, 0.0, 1.0),
        check_number("clip", clip, -math.inf, 0.0, "[)"),
    )


def compute_munchausen_targets(
    rewards: ArrayLike,
    discounts: ArrayLike,
    q_values: ArrayLike,
    actions: ArrayLike,
    next_q_values: ArrayLike,
    *,
    temperature: ArrayLike,
    scale: ArrayLike,
    clip: ArrayLike,
) -> jax.Array:
    """Computes the targets of M-DQN, `r_t + bonus_t + discount_t * soft value_t`.

    Eq. 2 of Vieillard, Pietquin and Geist, "Munchausen Reinforcement Learning",
    NeurIPS 2020, with the clipping of section 4: `compute_munchausen_bonus` of the
    action taken, and `compute_soft_values` of what follows it.

    Args:
        rewards: `[...]`, floating-point; in units of reward.
        discounts: `[...]`, in [0, 1]: gamma, and 0 where the step terminated the
            episode. Truncation is not termination: there it stays gamma.
        q_values: `[..., n_actions]`, the action values of the observation that was
            acted on, from the target network.
        actions: `[...]`, integers in [0, n_actions), which are not checked: the
            actions taken.
        next_q_values: `[..., n_actions]`, those of the step's true next observation,
            from the target network.
        temperature: a number above 0, in units of reward, or an array of shape `[]`
            whose value is not checked, as below; 0.03 in the paper.
        scale: a number in [0, 1], or an array of shape `[]`; alpha, 0.9 in the
            paper. 0 makes M-DQN soft DQN.
        clip: a number below 0, in units of reward, or an array of shape `[]`; l0, -1
            in the paper. `-math.inf` clips nothing.

    Returns:
        `[...]`, the targets, in units of reward. Gradients flow to every
        floating-point argument.

    Raises:
        ValueError: if `rewards`, `discounts` and `actions` differ in shape, if the
            action values are not of that shape and one axis of actions, or if a
            number is out of its range.
        TypeError: if an argument is a list, has the wrong dtype, or if the dtypes
            differ.

    Example:
        >>> import jax.numpy as jnp
        >>> from kitae.timesteps import compute_munchausen_targets
        >>> compute_munchausen_targets(
        ...     jnp.array([1.0]),
        ...     jnp.array([0.5]),
        ...     jnp.array([[5.0, 4.5]]),
        ...     jnp.array([1]),
        ...     jnp.array([[8.0, 2.0]]),
        ...     temperature=0.03,
        ...     scale=0.5,
        ...     clip=-1.0,
        ... ).tolist()
        [4.75]
    """
    return _munchausen_targets(
        rewards,
        discounts,
        q_values,
        actions,
        next_q_values,
        _check_temperature(temperature),
        check_number("scale", scale, 0.0, 1.0),
        check_number("clip", clip, -math.inf, 0.0, "[)"),
    )


@jax.jit
def _soft_policy(q_values: ArrayLike, temperature: ArrayLike) -> jax.Array:
    q, working, tau = _as_soft(q_values, temperature)
    return jnp.exp(_log_policy(working, tau) / tau).astype(q.dtype)


@jax.jit
def _soft_values(q_values: ArrayLike, temperature: ArrayLike) -> jax.Array:
    q, working, tau = _as_soft(q_values, temperature)
    return _value(working, tau).astype(q.dtype)


@jax.jit
def _munchausen_bonus(
    q_values: ArrayLike,
    actions: ArrayLike,
    temperature: ArrayLike,
    scale: ArrayLike,
    clip: ArrayLike,
) -> jax.Array:
    q, working, tau = _as_soft(q_values, temperature)
    a = as_actions("actions", actions)
    check_action_axis(actions=a, q_values=q)
    return _bonus(working, a, tau, scale, clip).astype(q.dtype)


@jax.jit
def _munchausen_targets(
    rewards: ArrayLike,
    discounts: ArrayLike,
    q_values: ArrayLike,
    actions: ArrayLike,
    next_q_values: ArrayLike,
    temperature: ArrayLike,
    scale: ArrayLike,
    clip: ArrayLike,
) -> jax.Array:
    arrays = as_floats(
        rewards=rewards,
        discounts=discounts,
        q_values=q_values,
        next_q_values=next_q_values,
    )
    dtype = working_dtype(arrays[0].dtype)
    r_t, discount_t, q_tm1, q_t = (array.astype(dtype) for array in arrays)
    a_tm1 = as_actions("actions", actions)
    check_same_shape(rewards=r_t, discounts=discount_t, actions=a_tm1)
    check_same_shape(q_values=q_tm1, next_q_values=q_t)
    check_action_axis(rewards=r_t, q_values=q_tm1)
    tau = as_scalar("temperature", temperature, dtype)
    bonus_t = _bonus(q_tm1, a_tm1, tau, scale, clip)
    targets = r_t + bonus_t + discount_t * _value(q_t, tau)
    return targets.astype(arrays[0].dtype)


def _check_temperature(temperature: ArrayLike) -> ArrayLike:
    return check_number("temperature", temperature, 0.0, math.inf, "()")


def _as_soft(
    q_values: ArrayLike, temperature: ArrayLike
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns the values, the values in the working dtype, and the temperature."""
    (q,) = as_floats(q_values=q_values)
    if not q.ndim or q.shape[-1] < 1:
        raise ValueError(
            f"q_values must be [..., n_actions] with n_actions >= 1, got {q.shape}."
        )
    dtype = working_dtype(q.dtype)
    return q, q.astype(dtype), as_scalar("temperature", temperature, dtype)


def _shift(q: jax.Array, tau: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns the greatest value, the rest less it, and tau log sum exp of those."""
    # The greatest value cancels in all that is made of it, so its gradient would too.
    greatest = lax.stop_gradient(jnp.max(q, axis=-1, keepdims=True))
    shifted = q - greatest
    total = jnp.sum(jnp.exp(shifted / tau), axis=-1, keepdims=True)
    return greatest, shifted, tau * jnp.log(total)


def _value(q: jax.Array, tau: jax.Array) -> jax.Array:
    greatest, _, rest = _shift(q, tau)
    return (greatest + rest).squeeze(-1)


def _log_policy(q: jax.Array, tau: jax.Array) -> jax.Array:
    """Returns tau log pi; exact differences, where `q - _value(q)` would round."""
    _, shifted, rest = _shift(q, tau)
    return shifted - rest


def _bonus(
    q: jax.Array, a: jax.Array, tau: jax.Array, scale: ArrayLike, clip: ArrayLike
) -> jax.Array:
    scale = as_scalar("scale", scale, q.dtype)
    clip = as_scalar("clip", clip, q.dtype)
    return scale * jnp.clip(take_actions(_log_policy(q, tau), a), clip, 0.0)
