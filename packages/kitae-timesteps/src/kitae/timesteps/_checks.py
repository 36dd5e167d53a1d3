"""What every target checks about its arguments, once, while it is traced."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike


def as_array(name: str, value: ArrayLike) -> jax.Array:
    """Returns `value` as a jax array; float64 becomes float32 unless x64 is on.

    Raises:
        TypeError: if it is a list, or another container.
    """
    if not jax.tree_util.all_leaves([value]):
        raise TypeError(
            f"{name} must be a jax or numpy array, got {type(value).__name__}."
        )
    return jnp.asarray(value)


def as_floats(**named: ArrayLike) -> list[jax.Array]:
    """Returns the named values, in their order, as arrays of one floating dtype.

    Raises:
        TypeError: if one is a list, if one is not floating-point, or if the dtypes
            differ. Integer rewards, say, are refused: cast them.
    """
    arrays = {name: as_array(name, value) for name, value in named.items()}
    for name, array in arrays.items():
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise TypeError(f"{name} must be floating-point, got {array.dtype}.")
    if len({array.dtype for array in arrays.values()}) > 1:
        dtypes = ", ".join(f"{name}: {x.dtype}" for name, x in arrays.items())
        raise TypeError(f"Dtypes must be equal (cast them first), got {dtypes}.")
    return list(arrays.values())


def check_same_shape(**named: jax.Array) -> None:
    """Refuses arrays of different shapes, even where they would broadcast.

    Raises:
        ValueError: if two of the shapes differ.
    """
    if len({array.shape for array in named.values()}) > 1:
        shapes = ", ".join(f"{name}: {x.shape}" for name, x in named.items())
        raise ValueError(f"Shapes must be equal (nothing is broadcast), got {shapes}.")


def working_dtype(dtype: jnp.dtype) -> jnp.dtype:
    """Returns the dtype to compute in: float32, or `dtype` where that is wider."""
    # A sum of a thousand rewards loses whole units in bfloat16 and float16.
    return jnp.dtype(jnp.float32) if jnp.finfo(dtype).bits < 32 else dtype
