"""Choosing discrete actions from their values."""

import jax
import jax.numpy as jnp


def greedy(qvalues: jax.Array) -> jax.Array:
    """Chooses the actions of the highest value, the first of equals.

    Args:
        qvalues: `[..., n_actions]`, floating-point.

    Returns:
        `[...]` int32 in `[0, n_actions)`; or -1, which no environment takes, where a
        value is not finite: an argmax would choose NaN without a word.

    Example:
        >>> import jax.numpy as jnp
        >>> greedy(jnp.array([[0.0, 2.0, 2.0], [0.0, 1.0, jnp.nan]])).tolist()
        [1, -1]
    """
    best = jnp.argmax(qvalues, axis=-1).astype(jnp.int32)
    return jnp.where(jnp.isfinite(qvalues).all(axis=-1), best, -1)


def epsilon_greedy(
    key: jax.Array, qvalues: jax.Array, epsilon: jax.Array | float
) -> tuple[jax.Array, jax.Array]:
    """Chooses a uniformly random action with probability ε, the greedy one otherwise.

    Each row tosses a coin of its own (Sutton and Barto, "Reinforcement Learning: An
    Introduction", 2nd ed., 2018, section 2.2).

    Args:
        key: A fresh key.
        qvalues: `[..., n_actions]`, floating-point.
        epsilon: A number in [0, 1], or an array of shape `[...]`.

    Returns:
        The actions, `[...]` int32 as `greedy` gives them (-1 where a value is not
        finite, at random too), and the log-probabilities of choosing them, `[...]`:
        `log(ε / n + 1 - ε)` for the greedy action, `log(ε / n)` for another.

    Raises:
        ValueError: `epsilon` has another shape.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> qvalues = jnp.array([[0.0, 1.0], [1.0, 0.0]])
        >>> actions, log_probs = epsilon_greedy(jax.random.key(0), qvalues, 0.0)
        >>> actions.tolist(), log_probs.tolist()
        ([1, 0], [0.0, 0.0])
    """
    rows, n_actions = qvalues.shape[:-1], qvalues.shape[-1]
    epsilon = jnp.asarray(epsilon, qvalues.dtype)
    if epsilon.shape not in ((), rows):
        raise ValueError(
            f"epsilon must be a number or of shape {list(rows)}, as qvalues without "
            f"its last axis, got {list(epsilon.shape)}"
        )
    best = greedy(qvalues)
    # One draw for both: each call of the generator costs more than a small network.
    coin, choice = jax.random.uniform(key, (2, *rows), qvalues.dtype)
    anything = jnp.floor(choice * n_actions).astype(jnp.int32)
    # Close below 1, the product may round up to n_actions.
    anything = jnp.minimum(anything, n_actions - 1)
    actions = jnp.where((coin < epsilon) & (best >= 0), anything, best)
    at_random = epsilon / n_actions
    probs = jnp.where(actions == best, at_random + (1.0 - epsilon), at_random)
    return actions, jnp.log(probs)
