"""Convolutions in loops, in the order of axes that XLA's CPU backend is fast at.

It has fast convolutions for one order: batch, space, features. It brings those of a
program into that order, but not those of the loops and branches within: there, the
gradient of a convolution, whose axes JAX has in another order, takes ten times as long.
"""

from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr
from jax.lax import ConvDimensionNumbers


def is_slow(eqn: Any) -> bool:
    """Whether an equation is a convolution in an order that is slow within loops."""
    if eqn.primitive is not jax.lax.conv_general_dilated_p:
        return False
    in_order = in_fast_order(eqn.invars[0].aval.ndim)
    return jax.default_backend() == "cpu" and order_of(eqn) != in_order


def has_slow(eqn: Any) -> bool:
    """Whether an equation, or one of a loop or a branch that it is, `is_slow`."""
    return is_slow(eqn) or any(
        has_slow(inner)
        for part in jax.tree.leaves(eqn.params, is_leaf=is_jaxpr)
        if is_jaxpr(part)
        for inner in part.eqns
    )


def is_jaxpr(value: Any) -> bool:
    """Whether this is a part of a program."""
    return isinstance(value, ClosedJaxpr | Jaxpr)


def order_of(eqn: Any) -> ConvDimensionNumbers:
    """Returns which axes of a convolution are which."""
    return eqn.params["dimension_numbers"]


def in_fast_order(ndim: int) -> ConvDimensionNumbers:
    """Returns the fast order of a convolution of arrays with `ndim` axes."""
    space, last = tuple(range(1, ndim - 1)), ndim - 1
    of_values = 0, last, *space
    return ConvDimensionNumbers(
        of_values, (last, last - 1, *range(ndim - 2)), of_values
    )


def ordered(eqn: Any, values: jax.Array, kernel: jax.Array) -> jax.Array:
    """Computes a convolution in the fast order; returns it in its own."""
    (batch, features, *space), (out, into, *window), result = order_of(eqn)
    params = eqn.params | {"dimension_numbers": in_fast_order(values.ndim)}
    values = values.transpose(batch, *space, features)
    kernel = kernel.transpose(*window, into, out)
    outcome = eqn.primitive.bind(values, kernel, **params)
    there = result[0], *result[2:], result[1]
    return outcome.transpose([there.index(axis) for axis in range(len(there))])
