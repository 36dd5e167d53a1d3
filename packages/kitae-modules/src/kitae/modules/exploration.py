"""Choosing discrete actions from their values."""

import jax
import jax.numpy as jnp

from kitae.modules.masks import check_mask


def greedy(qvalues: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """Chooses the actions of the highest value, the first of equals.

    Args:
        qvalues: `[..., n_actions]`, floating-point.
        mask: `[..., n_actions]` bool, True where the action is allowed; None: all are.

    Returns:
        `[...]` int32 in `[0, n_actions)`; or -1, which no environment takes, where the
        value of an allowed action is not finite (an argmax would choose NaN without a
        word), or where no action is allowed.

    Raises:
        ValueError: `mask` has another shape than `qvalues`.
        TypeError: `mask` is not bool.

    Example:
        >>> import jax.numpy as jnp
        >>> greedy(jnp.array([[0.0, 2.0, 2.0], [0.0, 1.0, jnp.nan]])).tolist()
        [1, -1]
        >>> greedy(jnp.array([0.0, 2.0]), jnp.array([True, False])).item()
        0
    """
    finite = jnp.isfinite(qvalues)
    if mask is None:
        best = jnp.argmax(qvalues, axis=-1)
        valid = finite.all(axis=-1)
    else:
        check_mask(qvalues, mask)
        best = jnp.argmax(jnp.where(mask, qvalues, -jnp.inf), axis=-1)
        valid = (finite | ~mask).all(axis=-1) & mask.any(axis=-1)
    return jnp.where(valid, best.astype(jnp.int32), -1)


def epsilon_greedy(
    key: jax.Array,
    qvalues: jax.Array,
    epsilon: jax.Array | float,
    mask: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Chooses a uniformly random action with probability ε, the greedy one otherwise.

    Each row tosses a coin of its own (Sutton and Barto, "Reinforcement Learning: An
    Introduction", 2nd ed., 2018, section 2.2).

    Args:
        key: A fresh key.
        qvalues: `[..., n_actions]`, floating-point.
        epsilon: A number in [0, 1], or an array of shape `[...]`. For the number 0
            nothing is drawn.
        mask: `[..., n_actions]` bool, True where the action is allowed; None: all are.

    Returns:
        The actions, `[...]` int32 as `greedy` gives them (-1 where a value is not
        finite or no action allowed, at random too), and the log-probabilities of
        choosing them, `[...]`: `log(ε / n + 1 - ε)` for the greedy action and
        `log(ε / n)` for another, where `n` of the row's actions are allowed.

    Raises:
        ValueError: `epsilon` or `mask` has another shape.
        TypeError: `mask` is not bool.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> qvalues = jnp.array([[0.0, 1.0], [1.0, 0.0]])
        >>> actions, log_probs = epsilon_greedy(jax.random.key(0), qvalues, 0.0)
        >>> actions.tolist(), log_probs.tolist()
        ([1, 0], [0.0, 0.0])
    """
    rows, n_actions = qvalues.shape[:-1], qvalues.shape[-1]
    never = isinstance(epsilon, int | float) and epsilon == 0
    epsilon = jnp.asarray(epsilon, qvalues.dtype)
    if epsilon.shape not in ((), rows):
        raise ValueError(
            f"epsilon must be a number or of shape {list(rows)}, as qvalues without "
            f"its last axis, got {list(epsilon.shape)}"
        )
    best = greedy(qvalues, mask)
    if never:
        return best, jnp.zeros(rows, qvalues.dtype)
    # One draw for both: each call of the generator costs more than a small network.
    coin, choice = jax.random.uniform(key, (2, *rows), qvalues.dtype)
    if mask is None:
        n_allowed = n_actions
        anything = _index_below(n_actions, choice)
    else:
        # At least 1: a row without an allowed action is -1 whatever is drawn.
        n_allowed = jnp.maximum(mask.sum(axis=-1), 1).astype(qvalues.dtype)
        anything = _nth_allowed(_index_below(n_allowed, choice), mask)
    actions = jnp.where((coin < epsilon) & (best >= 0), anything, best)
    at_random = epsilon / n_allowed
    probs = jnp.where(actions == best, at_random + (1.0 - epsilon), at_random)
    return actions, jnp.log(probs)


def _index_below(n: jax.Array | int, choice: jax.Array) -> jax.Array:
    """Turns `choice`, uniform in [0, 1), into an int32 index in [0, n)."""
    index = jnp.floor(choice * n).astype(jnp.int32)
    # Close below 1, the product may round up to n.
    return jnp.minimum(index, jnp.asarray(n - 1, jnp.int32))


def _nth_allowed(n: jax.Array, mask: jax.Array) -> jax.Array:
    """Returns the index of the allowed action that has `n` allowed ones before it."""
    seen = jnp.cumsum(mask, axis=-1, dtype=jnp.int32)
    return jnp.argmax(seen == n[..., None] + 1, axis=-1).astype(jnp.int32)
