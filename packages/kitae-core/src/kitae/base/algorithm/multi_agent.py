"""Several agents in each environment, who share what is learned.

Where rows are stored, counted and stepped, the agents of a name are environments of
their own: `[n_agents * n_envs, ...]`, one agent's environments after another's. What a
user writes sees them by name: `{name: [n_envs, ...]}`.
"""

from typing import Any

import jax
import jax.numpy as jnp

from kitae.types import ExploreFn

Names = tuple[Any, ...]


def default_names(n_agents: int) -> Names:
    """Returns names for agents whose environment is not known yet."""
    return tuple(f"agent_{i}" for i in range(n_agents))


def by_name(rows: Any, names: Names) -> dict[Any, Any]:
    """Gives each agent its rows.

    Args:
        rows: A pytree of `[n_agents * n_envs, ...]`.
        names: Of the agents, in the order of their rows.

    Example:
        >>> by_name(jnp.arange(6), ("left", "right"))["right"].tolist()
        [3, 4, 5]
    """
    n_agents = len(names)

    def of(index: int) -> Any:
        return jax.tree.map(
            lambda leaf: leaf.reshape(n_agents, -1, *leaf.shape[1:])[index], rows
        )

    return {name: of(index) for index, name in enumerate(names)}


def joined(parts: dict[Any, Any], names: Names) -> Any:
    """Joins what `by_name` gave each agent: a pytree of `[n_agents * n_envs, ...]`.

    Raises:
        TypeError: `parts` is not by these names.

    Example:
        >>> joined({"right": jnp.zeros(2), "left": jnp.ones(2)}, ("left", "right"))
        Array([1., 1., 0., 0.], dtype=float32)
    """
    if not isinstance(parts, dict) or parts.keys() != set(names):
        got = list(parts) if isinstance(parts, dict) else type(parts).__name__
        raise TypeError(
            f"explore and select_action must return dicts of {list(names)}, as they "
            f"are given, got {got}"
        )
    return jax.tree.map(
        lambda *leaves: jnp.concatenate(leaves), *(parts[name] for name in names)
    )


def over_agents(explore_fn: ExploreFn) -> ExploreFn:
    """Lets an `explore_fn` written for one agent act for all of them by name.

    The observations of all agents are one batch of the program, and each agent has a
    key of its own: what it does is what `explore_fn` gives for it alone.

    Args:
        explore_fn: `(state, key, observations, *args, **kwargs)`, which returns a
            tuple.

    Returns:
        The same of dicts by the agents' names: `key`, `observations`, any other
        argument that is a dict of the same names, and each part of the tuple. Every
        other argument is the same for all.

    Example:
        >>> shift = over_agents(lambda state, key, seen, by: (seen + by, seen * state))
        >>> keys = dict(zip("ab", jax.random.split(jax.random.key(0)), strict=True))
        >>> actions, _ = shift(2, keys, {"a": jnp.zeros(3), "b": jnp.ones(3)}, by=4)
        >>> actions["b"].tolist()
        [5.0, 5.0, 5.0]
    """

    def explore_all(
        state: Any, key: Any, observations: Any, *args: Any, **kwargs: Any
    ) -> tuple[Any, ...]:
        names = tuple(observations)

        def is_by_name(part: Any) -> bool:
            return isinstance(part, dict) and part.keys() == observations.keys()

        parts, tree = jax.tree.flatten(
            (key, observations, args, kwargs), is_leaf=is_by_name
        )

        def explore_one(own: list[Any]) -> tuple[Any, ...]:
            rest = iter(own)
            mine = [next(rest) if is_by_name(part) else part for part in parts]
            key, observations, args, kwargs = jax.tree.unflatten(tree, mine)
            return explore_fn(state, key, observations, *args, **kwargs)

        stacked = [_stacked(part, names) for part in parts if is_by_name(part)]
        acted = jax.vmap(explore_one)(stacked)
        return tuple(_unstacked(part, names) for part in acted)

    return explore_all


def _stacked(parts: dict[Any, Any], names: Names) -> Any:
    return jax.tree.map(_stack, *(parts[name] for name in names))


def _stack(*leaves: Any) -> jax.Array:
    if not jnp.issubdtype(jnp.result_type(leaves[0]), jax.dtypes.prng_key):
        return jnp.stack(leaves)
    # Stacked as they are, JAX's check for the reuse of keys takes them for used.
    data = jnp.stack([jax.random.key_data(key) for key in leaves])
    return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaves[0]))


def _unstacked(tree: Any, names: Names) -> dict[Any, Any]:
    def of(index: int) -> Any:
        return jax.tree.map(lambda leaf: leaf[index], tree)

    return {name: of(index) for index, name in enumerate(names)}
