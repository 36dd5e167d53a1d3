"""Small programs as one compiled function."""

from collections.abc import Callable
from typing import Any

import jax


def as_one_kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Has XLA's CPU backend compile `function` to one kernel.

    By itself it makes a task of every few operations, and of each turn of a loop
    several: where arrays are small, handing these over takes longer than the work.
    Other backends, and versions of this one that do not know the request, compile the
    function as any other.

    Args:
        function: Pure, of arrays; made of elementwise operations, reductions, slices,
            gathers and loops of such. What the backend cannot put into a kernel, such
            as a scatter or a product of matrices, is an error when it is compiled.
    """

    # kitae.base.xla knows it by this name, and does not take it apart.
    @jax.jit
    def one_kernel(*args: Any) -> Any:
        return function(*args)

    def call(*args: Any) -> Any:
        outs = one_kernel(*args)
        if jax.default_backend() != "cpu":
            return outs
        from jax.experimental.xla_metadata import set_xla_metadata

        return set_xla_metadata(outs, inlineable="false", xla_cpu_small_call="true")

    return call
