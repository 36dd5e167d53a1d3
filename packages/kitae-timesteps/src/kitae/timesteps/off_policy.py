"""Targets from steps that another policy took: Retrace and V-trace, time-major.

Axis 0 of every array is time, oldest first; any batch axes follow it. All
floating-point arrays of a call have one dtype, which is also the dtype of the
result; half-precision arrays are computed in float32 and rounded once. No function
here stops gradients: the caller decides where they flow.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from kitae.timesteps._arrays import following, scan_back
from kitae.timesteps._checks import (
    as_ends,
    as_floats,
    as_scalar,
    as_steps,
    check_action_axis,
    check_number,
    check_same_shape,
    working_dtype,
)


class VTrace(NamedTuple):
    """What V-trace makes of a trajectory; both are `[T, ...]`, in units of reward."""

    targets: jax.Array
    """What the critic should say of the observation that step t acted on."""

    advantages: jax.Array
    """What the gradient of step t's log-probability is to be weighted with."""


def compute_retrace_targets(
    rewards: ArrayLike,
    discounts: ArrayLike,
    q_values: ArrayLike,
    next_q_values: ArrayLike,
    next_probs: ArrayLike,
    log_ratios: ArrayLike,
    lambda_: ArrayLike,
    *,
    ends: ArrayLike | None = None,
) -> jax.Array:
    """Computes the targets of Retrace(λ) for the action values of a policy pi.

    Backwards in time, `G_t = rewards[t] + discounts[t] * (E_t + lambda_[t] * c_{t+1}
    * (G_{t+1} - q_values[t+1]))` where `E_t = sum_a next_probs[t, a] *
    next_q_values[t, a]` and `c_t = min(1, exp(log_ratios[t]))`: eq. 3 and section 3
    of Munos et al., "Safe and Efficient Off-Policy Reinforcement Learning", NeurIPS
    2016. At the last step of an episode, and at the last row, only `E_t` remains.

    Args:
        rewards: `[T, ...]`, floating-point, T >= 1; in units of reward.
        discounts: `[T, ...]`, in [0, 1]: gamma, and 0 where the step terminated the
            episode. Truncation is not termination: there it stays gamma.
        q_values: `[T, ...]`, the value of the action that step t took.
        next_q_values: `[T, ..., n_actions]`, the action values of the true next
            observation of step t (the final one where an episode ended).
        next_probs: `[T, ..., n_actions]`, pi's probabilities there, which sum to 1.
        log_ratios: `[T, ...]`, of the action that step t took: the logarithm of its
            probability under pi less that under the policy that took it. The first
            row's counts for nothing.
        lambda_: a number in [0, 1], or an array of the shape of `rewards` or `[]`
            whose values in [0, 1] are not checked; `lambda_[t]` weighs what follows
            step t. 0 gives the one-step targets of expected Sarsa.
        ends: `[T, ...]`, bool; True at the last step of each episode, terminated or
            truncated. No return is carried back over an end. Left out, episodes
            end only where `discounts` is 0, so give it if any was truncated.

    Returns:
        `[T, ...]`, the targets of `q_values`, in units of reward. Gradients flow to
        every floating-point argument; in the paper the targets are constants.

    Raises:
        ValueError: if the shapes differ, if there is no step, or if the number
            `lambda_` is outside [0, 1].
        TypeError: if an argument is a list, has the wrong dtype, or if the dtypes
            differ.

    Example:
        >>> import jax.numpy as jnp
        >>> from kitae.timesteps import compute_retrace_targets
        >>> rewards, discounts = jnp.ones(2), jnp.full(2, 0.5)
        >>> q_values, next_q_values = jnp.full(2, 2.0), jnp.full((2, 2), 4.0)
        >>> next_probs = jnp.array([[0.25, 0.75], [1.0, 0.0]])
        >>> log_ratios = jnp.log(jnp.array([1.0, 0.5]))
        >>> compute_retrace_targets(
        ...     rewards, discounts, q_values, next_q_values, next_probs, log_ratios, 1.0
        ... ).tolist()
        [3.25, 3.0]
    """
    return _retrace_targets(
        rewards,
        discounts,
        q_values,
        next_q_values,
        next_probs,
        log_ratios,
        check_number("lambda_", lambda_, 0.0, 1.0),
        ends=ends,
    )


def compute_vtrace(
    rewards: ArrayLike,
    discounts: ArrayLike,
    values: ArrayLike,
    next_values: ArrayLike,
    log_ratios: ArrayLike,
    lambda_: ArrayLike = 1.0,
    *,
    ends: ArrayLike | None = None,
    rho_clip: ArrayLike = 1.0,
    c_clip: ArrayLike = 1.0,
    advantage_rho_clip: ArrayLike = 1.0,
) -> VTrace:
    """Computes V-trace: targets of a critic, and advantages of an actor.

    With `ratio_t = exp(log_ratios[t])`, backwards in time, `target_t - values[t] =
    min(rho_clip, ratio_t) * (rewards[t] + discounts[t] * next_values[t] - values[t])
    + discounts[t] * lambda_[t] * min(c_clip, ratio_t) * (target_{t+1} -
    values[t+1])`: eq. 1 and remark 2 of Espeholt et al., "IMPALA: Scalable
    Distributed Deep-RL with Importance Weighted Actor-Learner Architectures", ICML
    2018. The advantage of step t, after section 4.2, is `min(advantage_rho_clip,
    ratio_t) * (rewards[t] + discounts[t] * ((1 - lambda_[t]) * next_values[t] +
    lambda_[t] * target_{t+1}) - values[t])`. At the last step of an episode, and at
    the last row, `next_values[t]` stands for what follows.

    Args:
        rewards: `[T, ...]`, floating-point, T >= 1; in units of reward.
        discounts: `[T, ...]`, in [0, 1]: gamma, and 0 where the step terminated the
            episode. Truncation is not termination: there it stays gamma.
        values: `[T, ...]`, the value of the observation that step t acted on.
        next_values: `[T, ...]`, the value of the true next observation of step t
            (the final one where an episode ended, not the one after the reset).
        log_ratios: `[T, ...]`, of the action that step t took: the logarithm of its
            probability under the policy that learns less that under the one that
            took it. Zeros make the targets λ-returns.
        lambda_: a number in [0, 1], or an array of the shape of `rewards` or `[]`
            whose values in [0, 1] are not checked.
        ends: `[T, ...]`, bool; True at the last step of each episode, terminated or
            truncated. Nothing is carried back over an end. Left out, episodes end
            only where `discounts` is 0, so give it if any was truncated.
        rho_clip: a number above 0, or an array of shape `[]`; it decides what policy
            the values are of. `math.inf` clips nothing, here and below.
        c_clip: a number above 0, at most `rho_clip`, or an array of shape `[]`; it
            decides how far back an error reaches.
        advantage_rho_clip: a number above 0, or an array of shape `[]`.

    Returns:
        A `VTrace` of `targets` and `advantages`. Gradients flow to every
        floating-point argument; in the losses of the paper both are constants.

    Raises:
        ValueError: if the shapes differ, if there is no step, or if a number is out
            of its range.
        TypeError: if an argument is a list, has the wrong dtype, or if the dtypes
            differ.

    Example:
        >>> import jax.numpy as jnp
        >>> from kitae.timesteps import compute_vtrace
        >>> rewards, discounts = jnp.ones(2), jnp.full(2, 0.5)
        >>> values, next_values = jnp.array([2.0, 4.0]), jnp.array([4.0, 8.0])
        >>> log_ratios = jnp.log(jnp.array([2.0, 0.5]))
        >>> vtrace = compute_vtrace(rewards, discounts, values, next_values, log_ratios)
        >>> vtrace.targets.tolist()
        [3.25, 4.5]
        >>> vtrace.advantages.tolist()
        [1.25, 0.5]
    """
    rho_clip = check_number("rho_clip", rho_clip, 0.0, math.inf, "(]")
    highest = rho_clip if isinstance(rho_clip, float) else math.inf
    return _vtrace(
        rewards,
        discounts,
        values,
        next_values,
        log_ratios,
        check_number("lambda_", lambda_, 0.0, 1.0),
        rho_clip,
        check_number("c_clip", c_clip, 0.0, highest, "(]"),
        check_number("advantage_rho_clip", advantage_rho_clip, 0.0, math.inf, "(]"),
        ends=ends,
    )


@jax.jit
def _retrace_targets(
    rewards: ArrayLike,
    discounts: ArrayLike,
    q_values: ArrayLike,
    next_q_values: ArrayLike,
    next_probs: ArrayLike,
    log_ratios: ArrayLike,
    lambda_: ArrayLike,
    *,
    ends: ArrayLike | None,
) -> jax.Array:
    r_t, discount_t, qa_tm1, log_ratio_tm1, q_t, probs_t = as_floats(
        rewards=rewards,
        discounts=discounts,
        q_values=q_values,
        log_ratios=log_ratios,
        next_q_values=next_q_values,
        next_probs=next_probs,
    )
    as_steps(
        rewards=r_t, discounts=discount_t, q_values=qa_tm1, log_ratios=log_ratio_tm1
    )
    check_same_shape(next_q_values=q_t, next_probs=probs_t)
    check_action_axis(rewards=r_t, next_q_values=q_t)
    dtype = working_dtype(r_t.dtype)
    v_t = jnp.sum(probs_t.astype(dtype) * q_t.astype(dtype), axis=-1)
    # The last row has no next action: with the value that is expected of it, and
    # that value as its return, nothing is corrected there.
    qa_t = following(qa_tm1.astype(dtype), v_t[-1])
    log_ratio_t = following(log_ratio_tm1, jnp.zeros_like(log_ratio_tm1[-1]))

    def step(return_, lambda_t, end_t, r_t, discount_t, log_ratio_t, qa_t, v_t):
        trace = lambda_t * _clipped_ratio(log_ratio_t, 1.0)
        later = v_t + trace * (return_ - qa_t)
        if end_t is not None:
            later = jnp.where(end_t, v_t, later)
        return r_t + discount_t * later

    arrays = [r_t, discount_t, log_ratio_t, qa_t, v_t]
    return scan_back(step, lambda v_t: v_t, arrays, lambda_, ends)


@jax.jit
def _vtrace(
    rewards: ArrayLike,
    discounts: ArrayLike,
    values: ArrayLike,
    next_values: ArrayLike,
    log_ratios: ArrayLike,
    lambda_: ArrayLike,
    rho_clip: ArrayLike,
    c_clip: ArrayLike,
    advantage_rho_clip: ArrayLike,
    *,
    ends: ArrayLike | None,
) -> VTrace:
    arrays = as_steps(
        rewards=rewards,
        discounts=discounts,
        log_ratios=log_ratios,
        values=values,
        next_values=next_values,
    )
    dtype = working_dtype(arrays[0].dtype)
    rho_clip = as_scalar("rho_clip", rho_clip, dtype)
    c_clip = as_scalar("c_clip", c_clip, dtype)
    advantage_rho_clip = as_scalar("advantage_rho_clip", advantage_rho_clip, dtype)

    def step(error, lambda_t, end_t, r_t, discount_t, log_ratio_t, v_tm1, v_t):
        later = lambda_t * _clipped_ratio(log_ratio_t, c_clip) * error
        if end_t is not None:
            later = jnp.where(end_t, 0.0, later)
        delta = r_t + discount_t * v_t - v_tm1
        return _clipped_ratio(log_ratio_t, rho_clip) * delta + discount_t * later

    # In the wider dtype already, so that the errors come back unrounded.
    working = [array.astype(dtype) for array in arrays]
    r_t, discount_t, log_ratio_t, v_tm1, v_t = working
    targets = v_tm1 + scan_back(step, jnp.zeros_like, working, lambda_, ends)

    (lambdas,) = as_floats(lambda_=lambda_)
    lambdas = lambdas.astype(dtype)
    later = (1.0 - lambdas) * v_t + lambdas * following(targets, v_t[-1])
    if ends is not None:
        later = jnp.where(as_ends(ends, r_t), v_t, later)
    rho_tm1 = _clipped_ratio(log_ratio_t, advantage_rho_clip)
    advantages = rho_tm1 * (r_t + discount_t * later - v_tm1)
    return VTrace(targets.astype(arrays[0].dtype), advantages.astype(arrays[0].dtype))


def _clipped_ratio(log_ratios: jax.Array, clip: jax.Array | float) -> jax.Array:
    # Clipped before exp, which overflows, and whose gradient there would be NaN.
    return jnp.exp(jnp.minimum(log_ratios, jnp.log(clip)))
