"""Targets over several steps of an agent that learns action values, time-major.

Axis 0 of every array is time, oldest first; any batch axes follow it. All
floating-point arrays of a call have one dtype, which is also the dtype of the
result; half-precision arrays are computed in float32 and rounded once. No function
here stops gradients: the caller decides where they flow.
"""

import functools
import numbers

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from kitae.timesteps._arrays import following, take_actions
from kitae.timesteps._checks import (
    as_actions,
    as_ends,
    as_floats,
    as_steps,
    check_action_axis,
    check_number,
    check_same_shape,
    working_dtype,
)
from kitae.timesteps.returns import compute_lambda_returns


def compute_n_step_targets(
    rewards: ArrayLike,
    discounts: ArrayLike,
    next_values: ArrayLike,
    n: int,
    *,
    ends: ArrayLike | None = None,
) -> jax.Array:
    """Computes n-step targets: up to n rewards, and the value of what follows them.

    The target of step t is `r_t + discount_t * (r_{t+1} + discount_{t+1} * (...))`
    over n steps, or over fewer where the first end or the last row comes earlier;
    behind the step it stops at stands `next_values` of that step. Eq. 7.1 of Sutton
    and Barto, "Reinforcement Learning: An Introduction", 2nd ed., 2018.

    Args:
        rewards: `[T, ...]`, floating-point, T >= 1; in units of reward.
        discounts: `[T, ...]`, in [0, 1]: gamma, and 0 where the step terminated the
            episode. Truncation is not termination: there it stays gamma.
        next_values: `[T, ...]`, the value of the true next observation of step t
            (the final one where an episode ended, not the one after the reset).
        n: how many steps, at least 1. 1 gives the one-step targets; T or more, the
            whole discounted sums of rewards. Another n compiles once more.
        ends: `[T, ...]`, bool; True at the last step of each episode, terminated or
            truncated. No target looks past an end. Left out, episodes end only
            where `discounts` is 0, so give it if any was truncated.

    Returns:
        `[T, ...]`, the targets, in units of reward. Gradients flow to every
        floating-point argument.

    Raises:
        ValueError: if the shapes differ, if there is no step, or if n < 1.
        TypeError: if an argument is a list, has the wrong dtype, if the dtypes
            differ, or if n is not an integer.

    Example:
        >>> import jax.numpy as jnp
        >>> from kitae.timesteps import compute_n_step_targets
        >>> rewards, next_values = jnp.ones(4), jnp.full(4, 8.0)
        >>> discounts = jnp.full(4, 0.5)
        >>> ends = jnp.array([False, False, True, False])
        >>> compute_n_step_targets(
        ...     rewards, discounts, next_values, 2, ends=ends
        ... ).tolist()
        [3.5, 3.5, 5.0, 5.0]
    """
    if not isinstance(n, numbers.Integral):
        raise TypeError(f"n must be an integer, got {type(n).__name__}.")
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}.")
    return _n_step_targets(rewards, discounts, next_values, int(n), ends=ends)


def compute_q_lambda_targets(
    rewards: ArrayLike,
    discounts: ArrayLike,
    next_q_values: ArrayLike,
    lambda_: ArrayLike,
    *,
    ends: ArrayLike | None = None,
    watkins_actions: ArrayLike | None = None,
) -> jax.Array:
    """Computes the targets of Q(λ): Peng's, or Watkins's where actions are given.

    Both are λ-returns, eq. 12.18 of Sutton and Barto, "Reinforcement Learning: An
    Introduction", 2nd ed., 2018, over `max_a q_t[a]`. Peng's (Peng and Williams,
    "Incremental Multi-Step Q-Learning", Machine Learning 22, 1996) continue whatever
    action was taken; they are the targets of PQN (Gallici et al., "Simplifying Deep
    Temporal Difference Learning", ICLR 2025). Watkins's ("Learning from Delayed
    Rewards", PhD thesis, Cambridge, 1989) bootstrap from the first step on whose
    next action is not greedy, since what follows it is not a return of the greedy
    policy.

    Args:
        rewards: `[T, ...]`, floating-point, T >= 1; in units of reward.
        discounts: `[T, ...]`, in [0, 1]: gamma, and 0 where the step terminated the
            episode. Truncation is not termination: there it stays gamma.
        next_q_values: `[T, ..., n_actions]`, the action values of the true next
            observation of step t (the final one where an episode ended).
        lambda_: a number in [0, 1], or an array of the shape of `rewards` or `[]`
            whose values in [0, 1] are not checked. 0 gives the one-step targets of
            Q-learning.
        ends: `[T, ...]`, bool; True at the last step of each episode, terminated or
            truncated. No return is carried back over an end. Left out, episodes
            end only where `discounts` is 0, so give it if any was truncated.
        watkins_actions: `[T, ...]`, integers in [0, n_actions), which are not
            checked: the action taken at step t. Given, the targets are Watkins's;
            left out, Peng's. An action as good as the best is greedy too.

    Returns:
        `[T, ...]`, the targets, in units of reward. Gradients flow to every
        floating-point argument.

    Raises:
        ValueError: if the shapes differ, if there is no step, or if the number
            `lambda_` is outside [0, 1].
        TypeError: if an argument is a list, has the wrong dtype, or if the dtypes
            differ.

    Example:
        >>> import jax.numpy as jnp
        >>> from kitae.timesteps import compute_q_lambda_targets
        >>> rewards, discounts = jnp.ones(2), jnp.full(2, 0.5)
        >>> next_q_values = jnp.array([[2.0, 4.0], [8.0, 2.0]])
        >>> compute_q_lambda_targets(rewards, discounts, next_q_values, 1.0).tolist()
        [3.5, 5.0]

        The second action, 0, was worth 2 where the best one was worth 4:

        >>> actions = jnp.array([1, 0])
        >>> compute_q_lambda_targets(
        ...     rewards, discounts, next_q_values, 1.0, watkins_actions=actions
        ... ).tolist()
        [3.0, 5.0]
    """
    return _q_lambda_targets(
        rewards,
        discounts,
        next_q_values,
        check_number("lambda_", lambda_, 0.0, 1.0),
        ends=ends,
        watkins_actions=watkins_actions,
    )


@functools.partial(jax.jit, static_argnums=3)
def _n_step_targets(
    rewards: ArrayLike,
    discounts: ArrayLike,
    next_values: ArrayLike,
    n: int,
    *,
    ends: ArrayLike | None,
) -> jax.Array:
    arrays = as_steps(rewards=rewards, discounts=discounts, next_values=next_values)
    dtype = arrays[0].dtype
    r_t, discount_t, v_t = (array.astype(working_dtype(dtype)) for array in arrays)
    end_t = None if ends is None else as_ends(ends, r_t)

    def look_further(_, targets):
        later = following(targets, v_t[-1])
        if end_t is not None:
            later = jnp.where(end_t, v_t, later)
        return r_t + discount_t * later

    one_step = r_t + discount_t * v_t
    # No row has more than T steps before it stops.
    more = min(n, r_t.shape[0]) - 1
    return lax.fori_loop(0, more, look_further, one_step).astype(dtype)


@jax.jit
def _q_lambda_targets(
    rewards: ArrayLike,
    discounts: ArrayLike,
    next_q_values: ArrayLike,
    lambda_: ArrayLike,
    *,
    ends: ArrayLike | None,
    watkins_actions: ArrayLike | None,
) -> jax.Array:
    r_t, discount_t, q_t = as_floats(
        rewards=rewards, discounts=discounts, next_q_values=next_q_values
    )
    as_steps(rewards=r_t, discounts=discount_t)
    check_action_axis(rewards=r_t, next_q_values=q_t)
    v_t = jnp.max(q_t, axis=-1)
    if watkins_actions is not None:
        a_tm1 = as_actions("watkins_actions", watkins_actions)
        check_same_shape(rewards=r_t, watkins_actions=a_tm1)
        # The action after the last row is not known, nor asked for: there it ends.
        a_t = following(a_tm1, a_tm1[-1])
        cuts = take_actions(q_t, a_t) < v_t
        ends = cuts if ends is None else as_ends(ends, r_t) | cuts
    return compute_lambda_returns(r_t, discount_t, v_t, lambda_, ends=ends)
