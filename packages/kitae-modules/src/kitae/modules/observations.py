"""Shapes and dtypes of observations, as their space gives them."""

from typing import Any

import jax
from gymnasium import spaces


def observation_spec(space: spaces.Space) -> Any:
    """Returns the shape and dtype of one observation of a space.

    The dtype is the one that jax gives it: int32 for the int64 of a Discrete space,
    where 64-bit types are off. It is what `init_params` takes as one input.

    Args:
        space: A Box, Discrete, MultiDiscrete or MultiBinary space, or a Dict or a Tuple
            of such spaces, nested as it may be.

    Returns:
        A `jax.ShapeDtypeStruct`; a dict or a tuple of them for a Dict or a Tuple.

    Raises:
        TypeError: The space is of another kind.

    Examples:
        >>> from gymnasium import spaces
        >>> spec = observation_spec(spaces.Dict(n=spaces.Discrete(3)))
        >>> spec["n"].shape, str(spec["n"].dtype)
        ((), 'int32')
    """
    if isinstance(space, spaces.Dict):
        return {name: observation_spec(part) for name, part in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(observation_spec(part) for part in space.spaces)
    arrays = spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary
    if not isinstance(space, arrays):
        raise TypeError(
            "space must be a Box, a Discrete, a MultiDiscrete, a MultiBinary, or a "
            f"Dict or Tuple of them, got {space!r}"
        )
    dtype = jax.dtypes.canonicalize_dtype(space.dtype)
    return jax.ShapeDtypeStruct(tuple(space.shape or ()), dtype)
