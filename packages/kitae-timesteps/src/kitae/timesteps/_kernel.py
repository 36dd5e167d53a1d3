"""The trick `one-kernel`: a small program as one compiled function.

By default XLA's CPU backend makes a task of every few operations, and of each turn of a
loop several: where arrays are small, handing these over takes longer than the work.

Without it, advantages of 1,000 steps of 64 sequences took 100 µs instead of 41.

Plain path: the same function, compiled as any other. Sums may be rounded differently.
"""

from collections.abc import Callable
from typing import Any

import jax

from kitae.timesteps import _switches


def as_one_kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Has XLA's CPU backend compile `function` to one kernel.

    Other backends, and versions of this one that do not know the request, compile the
    function as any other.

    Args:
        function: Pure, of arrays; made of elementwise operations, reductions, slices,
            gathers and loops of such. What the backend cannot put into a kernel, such
            as a scatter or a product of matrices, is an error when it is compiled.
    """

    # kitae.base.xla does not take apart what has this name.
    @jax.jit
    def one_kernel(*args: Any) -> Any:
        return function(*args)

    def call(*args: Any) -> Any:
        outs = one_kernel(*args)
        if jax.default_backend() != "cpu" or not _switches.active("one-kernel"):
            return outs
        return _switches.xla_request()(
            outs, inlineable="false", xla_cpu_small_call="true"
        )

    return call
