"""What every target checks about its arguments, once, while it is traced."""

import numbers

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


def as_steps(**named: ArrayLike) -> list[jax.Array]:
    """Returns the named values as arrays of one dtype and one shape `[T, ...]`.

    Raises:
        ValueError: if the shapes differ, or if there is no step.
        TypeError: as `as_floats` does.
    """
    arrays = as_floats(**named)
    check_same_shape(**dict(zip(named, arrays, strict=True)))
    shape = arrays[0].shape
    if not shape or shape[0] < 1:
        raise ValueError(
            f"{next(iter(named))} must be [T, ...] with T >= 1, got shape {shape}."
        )
    return arrays


def as_ends(ends: ArrayLike, rewards: jax.Array) -> jax.Array:
    """Returns `ends` as an array of booleans, of the shape of `rewards`."""
    array = as_array("ends", ends)
    if array.dtype != jnp.bool_:
        raise TypeError(f"ends must be bool, got {array.dtype}.")
    check_same_shape(rewards=rewards, ends=array)
    return array


def as_actions(name: str, value: ArrayLike) -> jax.Array:
    """Returns `value` as an array of integers."""
    array = as_array(name, value)
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise TypeError(f"{name} must be integers, got {array.dtype}.")
    return array


def as_scalar(name: str, value: ArrayLike, dtype: jnp.dtype) -> jax.Array:
    """Returns `value`, a number or an array of shape `[]`, in `dtype`."""
    (array,) = as_floats(**{name: value})
    if array.ndim:
        raise ValueError(
            f"{name} must be a number or of shape (), got shape {array.shape}."
        )
    return array.astype(dtype)


def check_number(
    name: str, value: ArrayLike, low: float, high: float, brackets: str = "[]"
) -> ArrayLike:
    """Returns `value`, as a float if it is a number; arrays are not looked into.

    Args:
        name: what the error calls it.
        value: a number, or an array that may be traced.
        low: the lower bound.
        high: the upper bound.
        brackets: of the interval: `"("` or `")"` leaves the bound itself out.

    Raises:
        ValueError: if it is a number outside the interval.
    """
    if not isinstance(value, numbers.Real):
        return value
    # An int and a float would be traced apart.
    number = float(value)
    above = low < number if brackets[0] == "(" else low <= number
    below = number < high if brackets[1] == ")" else number <= high
    if not (above and below):
        raise ValueError(
            f"{name} must be in {brackets[0]}{low:g}, {high:g}{brackets[1]}, "
            f"got {value}."
        )
    return number


def check_same_shape(**named: jax.Array) -> None:
    """Refuses arrays of different shapes, even where they would broadcast.

    Raises:
        ValueError: if two of the shapes differ.
    """
    if len({array.shape for array in named.values()}) > 1:
        shapes = ", ".join(f"{name}: {x.shape}" for name, x in named.items())
        raise ValueError(f"Shapes must be equal (nothing is broadcast), got {shapes}.")


def check_action_axis(**named: jax.Array) -> None:
    """Refuses arrays without the shape of the first one and an axis of actions."""
    (first, like), *others = named.items()
    for name, array in others:
        shape = array.shape
        if shape[:-1] != like.shape or not shape or shape[-1] < 1:
            raise ValueError(
                f"{name} must have the shape of {first} and one more axis of at "
                f"least one action, got {first}: {like.shape}, {name}: {shape}."
            )


def working_dtype(dtype: jnp.dtype) -> jnp.dtype:
    """Returns the dtype to compute in: float32, or `dtype` where that is wider."""
    # A sum of a thousand rewards loses whole units in bfloat16 and float16.
    return jnp.dtype(jnp.float32) if jnp.finfo(dtype).bits < 32 else dtype
