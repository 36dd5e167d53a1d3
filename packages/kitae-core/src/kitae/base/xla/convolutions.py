"""The trick `convolutions`: those in loops, in the order of axes that XLA is fast at.

XLA's CPU backend has fast convolutions for one order: batch, space, features. It brings
those of a program into that order, but not those of the loops and branches within:
there, the gradient of a convolution, whose axes JAX has in another order, takes ten
times as long.

Without it, a compiled training on images took 11.7 times as long.

Plain path: the order in which JAX writes them. Sums are taken in another order then, so
floats differ in their last bits.
"""

from typing import Any

import jax
import numpy as np
from jax.lax import ConvDimensionNumbers

from kitae.base.xla import compat, switches


def is_slow(eqn: Any) -> bool:
    """Whether an equation is a convolution in an order that is slow within loops.

    None is where the trick is off: then all stay as they are.
    """
    if eqn.primitive.name != "conv_general_dilated":
        return False
    in_order = in_fast_order(eqn.invars[0].aval.ndim)
    if jax.default_backend() != "cpu" or order_of(eqn) == in_order:
        return False
    return switches.active("convolutions")


def has_slow(eqn: Any) -> bool:
    """Whether an equation, or one of a loop or a branch that it is, `is_slow`."""
    return is_slow(eqn) or any(
        has_slow(inner)
        for part in jax.tree.leaves(eqn.params, is_leaf=compat.is_jaxpr)
        if compat.is_jaxpr(part)
        for inner in compat.opened(part).eqns
    )


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


@switches.probe("convolutions")
def _probe() -> None:
    compat.need("Jaxpr", "Literal", "jaxpr_as_fun")
    values, kernel = np.ones((1, 2, 5), np.float32), np.ones((3, 2, 2), np.float32)

    def convolved(values: jax.Array, kernel: jax.Array) -> jax.Array:
        return jax.lax.conv_general_dilated(values, kernel, (1,), "VALID")

    (eqn,) = compat.opened(jax.make_jaxpr(convolved)(values, kernel)).eqns
    found = jax.eval_shape(lambda *args: ordered(eqn, *args), values, kernel)
    if found.shape != eqn.outvars[0].aval.shape:
        raise RuntimeError("a convolution in another order has another shape")
