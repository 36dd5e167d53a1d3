"""Names for what passes between Kitae's parts and a user's functions."""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax

Params: TypeAlias = Any
"""A network's parameters: a pytree of arrays, as `flax.linen.Module.init` makes."""

PyTree: TypeAlias = Any
"""Arrays in nested containers that `jax.tree` knows."""

State: TypeAlias = Any
"""An agent's train state: whatever pytree its `train_state_factory` returns."""

Observation: TypeAlias = Any
"""An array, or for composite spaces a pytree of arrays, environments first."""

Info: TypeAlias = dict[str, jax.Array]
"""Names to scalars: the metrics of one update."""

ExploreFn: TypeAlias = Callable[..., tuple[Any, ...]]
"""`(state, key, observations, **kwargs) -> (actions, log_probs)`, or more."""

ProcessExperienceFn: TypeAlias = Callable[[State, jax.Array, Any], tuple[Any, ...]]
"""`(state, key, experience) -> tuple of arrays`."""

UpdateStepFn: TypeAlias = Callable[[State, jax.Array, Any], tuple[State, Info]]
"""`(state, key, processed experience) -> (state, info)`."""

__all__ = [
    "ExploreFn",
    "Info",
    "Observation",
    "Params",
    "ProcessExperienceFn",
    "PyTree",
    "State",
    "UpdateStepFn",
]
