"""One-step targets: the reward, and the discounted value of what follows it.

Under strict dtypes and without broadcasting: all floating-point arguments of a
function have one dtype, which is also the dtype of the result. Half-precision
arguments are computed in float32 and rounded once. No function here stops
gradients: the caller decides, with `jax.lax.stop_gradient`, where they flow.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from kitae.timesteps._arrays import take_actions
from kitae.timesteps._checks import (
    as_floats,
    check_action_axis,
    check_same_shape,
    working_dtype,
)


def compute_td_targets(
    rewards: ArrayLike, discounts: ArrayLike, next_values: ArrayLike
) -> jax.Array:
    """Computes the one-step targets `r_t + discount_t * v_t`.

    The target of TD(0), eq. 6.2 of Sutton and Barto, "Reinforcement Learning: An
    Introduction", 2nd ed., 2018.

    Args:
        rewards: `[...]`, floating-point; in units of reward. Any shape will do.
        discounts: `[...]`, in [0, 1]: gamma, and 0 where the step terminated the
            episode. Truncation is not termination: there it stays gamma.
        next_values: `[...]`, the value of the step's true next observation (the
            final one where an episode ended, not the one after the reset).

    Returns:
        `[...]`, the targets. Gradients flow to every argument.

    Raises:
        ValueError: if the shapes differ; `(B,)` against `(B, 1)` is refused.
        TypeError: if an argument is a list, is not floating-point, or if the
            dtypes differ.

    Example:
        >>> import jax.numpy as jnp
        >>> from kitae.timesteps import compute_td_targets
        >>> rewards = jnp.array([1.0, 2.0])
        >>> discounts = 0.5 * (1.0 - jnp.array([0.0, 1.0]))
        >>> compute_td_targets(rewards, discounts, jnp.array([4.0, 4.0])).tolist()
        [3.0, 2.0]
    """
    return _td_targets(rewards, discounts, next_values)


def compute_q_learning_targets(
    rewards: ArrayLike, discounts: ArrayLike, next_q_values: ArrayLike
) -> jax.Array:
    """Computes the targets `r_t + discount_t * max_a q_t[a]` of Q-learning and DQN.

    Eq. 2 of van Hasselt, Guez and Silver, "Deep Reinforcement Learning with Double
    Q-learning", AAAI 2016; eq. 3 where a target network gives the values.

    Args:
        rewards: `[...]`, floating-point; in units of reward.
        discounts: `[...]`, in [0, 1]: gamma, and 0 where the step terminated the
            episode. Truncation is not termination: there it stays gamma.
        next_q_values: `[..., n_actions]`, the action values of the step's true next
            observation, from the target network if there is one.

    Returns:
        `[...]`, the targets. Gradients flow to every argument.

    Raises:
        ValueError: if `rewards` and `discounts` differ in shape, or if
            `next_q_values` is not of that shape and one axis of actions.
        TypeError: if an argument is a list, is not floating-point, or if the
            dtypes differ.

    Example:
        >>> import jax.numpy as jnp
        >>> from kitae.timesteps import compute_q_learning_targets
        >>> next_q_values = jnp.array([[1.0, 4.0, 2.0]])
        >>> targets = compute_q_learning_targets(
        ...     jnp.array([1.0]), jnp.array([0.5]), next_q_values
        ... )
        >>> targets.tolist()
        [3.0]
    """
    return _q_learning_targets(rewards, discounts, next_q_values)


def compute_double_q_targets(
    rewards: ArrayLike,
    discounts: ArrayLike,
    next_q_values: ArrayLike,
    next_q_values_selector: ArrayLike,
) -> jax.Array:
    """Computes double-Q targets: one network chooses the action, another values it.

    The targets are `r_t + discount_t * q_t[argmax_a selector_t[a]]`: eq. 4 of van
    Hasselt, Guez and Silver, "Deep Reinforcement Learning with Double Q-learning",
    AAAI 2016, with the target network as the second set of weights (Double DQN).

    Args:
        rewards: `[...]`, floating-point; in units of reward.
        discounts: `[...]`, in [0, 1]: gamma, and 0 where the step terminated the
            episode. Truncation is not termination: there it stays gamma.
        next_q_values: `[..., n_actions]`, the target network's action values of the
            step's true next observation.
        next_q_values_selector: `[..., n_actions]`, the online network's, which
            choose the action. Of equal ones, the first is chosen.

    Returns:
        `[...]`, the targets. Gradients flow to every argument but the selector,
        whose argmax has none.

    Raises:
        ValueError: if `rewards` and `discounts` differ in shape, or if the action
            values are not of that shape and one axis of actions.
        TypeError: if an argument is a list, is not floating-point, or if the
            dtypes differ.

    Example:
        >>> import jax.numpy as jnp
        >>> from kitae.timesteps import compute_double_q_targets
        >>> target_q = jnp.array([[10.0, 4.0, 2.0]])
        >>> online_q = jnp.array([[1.0, 3.0, 2.0]])
        >>> targets = compute_double_q_targets(
        ...     jnp.array([1.0]), jnp.array([0.5]), target_q, online_q
        ... )
        >>> targets.tolist()
        [3.0]
    """
    return _double_q_targets(rewards, discounts, next_q_values, next_q_values_selector)


@jax.jit
def _td_targets(
    rewards: ArrayLike, discounts: ArrayLike, next_values: ArrayLike
) -> jax.Array:
    r_t, discount_t, v_t = as_floats(
        rewards=rewards, discounts=discounts, next_values=next_values
    )
    check_same_shape(rewards=r_t, discounts=discount_t, next_values=v_t)
    return _bootstrap(r_t, discount_t, v_t)


@jax.jit
def _q_learning_targets(
    rewards: ArrayLike, discounts: ArrayLike, next_q_values: ArrayLike
) -> jax.Array:
    r_t, discount_t, q_t = as_floats(
        rewards=rewards, discounts=discounts, next_q_values=next_q_values
    )
    check_same_shape(rewards=r_t, discounts=discount_t)
    check_action_axis(rewards=r_t, next_q_values=q_t)
    return _bootstrap(r_t, discount_t, jnp.max(q_t, axis=-1))


@jax.jit
def _double_q_targets(
    rewards: ArrayLike,
    discounts: ArrayLike,
    next_q_values: ArrayLike,
    next_q_values_selector: ArrayLike,
) -> jax.Array:
    r_t, discount_t, q_t, selector_t = as_floats(
        rewards=rewards,
        discounts=discounts,
        next_q_values=next_q_values,
        next_q_values_selector=next_q_values_selector,
    )
    check_same_shape(rewards=r_t, discounts=discount_t)
    check_same_shape(next_q_values=q_t, next_q_values_selector=selector_t)
    check_action_axis(rewards=r_t, next_q_values=q_t)
    a_t = jnp.argmax(selector_t, axis=-1)
    return _bootstrap(r_t, discount_t, take_actions(q_t, a_t))


def _bootstrap(r_t: jax.Array, discount_t: jax.Array, v_t: jax.Array) -> jax.Array:
    dtype = working_dtype(r_t.dtype)
    targets = r_t.astype(dtype) + discount_t.astype(dtype) * v_t.astype(dtype)
    return targets.astype(r_t.dtype)
