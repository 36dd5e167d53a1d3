"""Targets over many steps, time-major: advantages and λ-returns.

Axis 0 of every array is time, oldest first; any batch axes follow it. All
floating-point arrays of a call have one dtype, which is also the dtype of the
result; half-precision arrays are computed in float32 and rounded once. No function
here stops gradients: the caller decides where they flow.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from kitae.timesteps._arrays import scan_back
from kitae.timesteps._checks import as_steps, check_number


def compute_gae(
    rewards: ArrayLike,
    discounts: ArrayLike,
    values: ArrayLike,
    next_values: ArrayLike,
    lambda_: ArrayLike,
    *,
    ends: ArrayLike | None = None,
) -> jax.Array:
    """Computes generalized advantage estimates, GAE(gamma, λ).

    Backwards in time, `A_t = δ_t + discounts[t] * lambda_[t] * A_{t+1}` where
    `δ_t = rewards[t] + discounts[t] * next_values[t] - values[t]`: eq. 16 of Schulman
    et al., "High-Dimensional Continuous Control Using Generalized Advantage
    Estimation", ICLR 2016. An episode that continues past the last row is bootstrapped
    from `next_values[-1]`.

    Args:
        rewards: `[T, ...]`, floating-point, T >= 1; in units of reward.
        discounts: `[T, ...]`, in [0, 1]: gamma, and 0 where the step terminated the
            episode. Truncation is not termination: there it stays gamma.
        values: `[T, ...]`, the value of the observation that step t acted on.
        next_values: `[T, ...]`, the value of the true next observation of step t
            (the final one where an episode ended, not the one after the reset).
        lambda_: a number in [0, 1], or an array of the shape of `rewards` or `[]`
            whose values in [0, 1] are not checked. 0 gives δ_t, 1 gives the whole
            discounted sum of rewards less `values`.
        ends: `[T, ...]`, bool; True at the last step of each episode, terminated or
            truncated. No advantage is carried back over an end. Left out, episodes
            end only where `discounts` is 0, so give it if any was truncated.

    Returns:
        `[T, ...]`, the advantages, in units of reward. Add `values` for the targets
        of the critic. Gradients flow to every floating-point argument.

    Raises:
        ValueError: if the shapes differ, if there is no step, or if the number
            `lambda_` is outside [0, 1].
        TypeError: if an argument is a list, has the wrong dtype, or if the dtypes
            differ.

    Example:
        >>> import jax.numpy as jnp
        >>> from kitae.timesteps import compute_gae
        >>> rewards, values = jnp.ones(3), jnp.zeros(3)
        >>> discounts = jnp.array([0.5, 0.5, 0.0])
        >>> compute_gae(rewards, discounts, values, values, 1.0).tolist()
        [1.75, 1.5, 1.0]
    """
    return _gae(
        rewards,
        discounts,
        values,
        next_values,
        check_number("lambda_", lambda_, 0.0, 1.0),
        ends=ends,
    )


def compute_lambda_returns(
    rewards: ArrayLike,
    discounts: ArrayLike,
    next_values: ArrayLike,
    lambda_: ArrayLike,
    *,
    ends: ArrayLike | None = None,
) -> jax.Array:
    """Computes λ-returns, the targets of TD(λ).

    Backwards in time, `G_t = rewards[t] + discounts[t] * ((1 - lambda_[t]) *
    next_values[t] + lambda_[t] * G_{t+1})`: eq. 12.18 of Sutton and Barto,
    "Reinforcement Learning: An Introduction", 2nd ed., 2018. At the last step of an
    episode, and at the last row, `next_values[t]` stands for `G_{t+1}`.

    Args:
        rewards: `[T, ...]`, floating-point, T >= 1; in units of reward.
        discounts: `[T, ...]`, in [0, 1]: gamma, and 0 where the step terminated the
            episode. Truncation is not termination: there it stays gamma.
        next_values: `[T, ...]`, the value of the true next observation of step t
            (the final one where an episode ended, not the one after the reset).
        lambda_: a number in [0, 1], or an array of the shape of `rewards` or `[]`
            whose values in [0, 1] are not checked. 0 gives the one-step targets,
            1 the discounted sums of rewards.
        ends: `[T, ...]`, bool; True at the last step of each episode, terminated or
            truncated. No return is carried back over an end. Left out, episodes
            end only where `discounts` is 0, so give it if any was truncated.

    Returns:
        `[T, ...]`, the returns, in units of reward. Gradients flow to every
        floating-point argument.

    Raises:
        ValueError: if the shapes differ, if there is no step, or if the number
            `lambda_` is outside [0, 1].
        TypeError: if an argument is a list, has the wrong dtype, or if the dtypes
            differ.

    Example:
        >>> import jax.numpy as jnp
        >>> from kitae.timesteps import compute_lambda_returns
        >>> rewards, next_values = jnp.ones(3), jnp.full(3, 4.0)
        >>> discounts = jnp.full(3, 0.5)
        >>> ends = jnp.array([False, True, False])
        >>> compute_lambda_returns(
        ...     rewards, discounts, next_values, 1.0, ends=ends
        ... ).tolist()
        [2.5, 3.0, 3.0]
    """
    return _lambda_returns(
        rewards,
        discounts,
        next_values,
        check_number("lambda_", lambda_, 0.0, 1.0),
        ends=ends,
    )


@jax.jit
def _gae(
    rewards: ArrayLike,
    discounts: ArrayLike,
    values: ArrayLike,
    next_values: ArrayLike,
    lambda_: ArrayLike,
    *,
    ends: ArrayLike | None,
) -> jax.Array:
    arrays = as_steps(
        rewards=rewards, discounts=discounts, values=values, next_values=next_values
    )

    def step(advantage, lambda_t, end_t, r_t, discount_t, v_tm1, v_t):
        later = discount_t * lambda_t * advantage
        if end_t is not None:
            later = jnp.where(end_t, 0.0, later)
        return r_t + discount_t * v_t - v_tm1 + later

    return scan_back(step, jnp.zeros_like, arrays, lambda_, ends)


@jax.jit
def _lambda_returns(
    rewards: ArrayLike,
    discounts: ArrayLike,
    next_values: ArrayLike,
    lambda_: ArrayLike,
    *,
    ends: ArrayLike | None,
) -> jax.Array:
    arrays = as_steps(rewards=rewards, discounts=discounts, next_values=next_values)

    def step(return_, lambda_t, end_t, r_t, discount_t, v_t):
        later = (1.0 - lambda_t) * v_t + lambda_t * return_
        if end_t is not None:
            later = jnp.where(end_t, v_t, later)
        return r_t + discount_t * later

    return scan_back(step, lambda v_t: v_t, arrays, lambda_, ends)
