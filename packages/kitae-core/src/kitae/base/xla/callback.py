"""Calling Python from within a compiled program, for numpy arrays."""

import ctypes
import threading
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import mlir

callback_p = Primitive("host_callback")
callback_p.multiple_results = True

# Of each thread, whether Python keeps what it knows of it.
_thread = threading.local()


def callback(
    function: Callable[..., Sequence[Any]],
    results: Sequence[jax.ShapeDtypeStruct],
    *args: jax.Array,
) -> list[jax.Array]:
    """Calls `function` with numpy arrays each time the program comes to it.

    As `jax.experimental.io_callback`, but in 5 µs instead of 45 on a CPU: nothing is
    made a JAX array on the way. What `function` is given is the program's own memory,
    to be read only while it runs. Calls come in the order of what they depend on.

    Args:
        function: Gives arrays as `results` says; it must not raise, nor call JAX. The
            program holds it as long as there is the program, and Python's collector
            does not look into programs: what `function` holds must not hold this one.
        results: Shapes and dtypes.
        *args: What it is given.
    """
    return callback_p.bind(*args, function=function, results=tuple(results))


@callback_p.def_abstract_eval
def _shapes(*_: Any, function: Any, results: Any) -> list[Any]:
    return [ShapedArray(result.shape, result.dtype) for result in results]


@callback_p.def_impl
def _called(*args: Any, function: Any, results: Any) -> list[jax.Array]:
    """Calls it where nothing is compiled, with JAX_DISABLE_JIT."""
    given = function(*map(np.asarray, args))
    # What it gives is overwritten at its next call.
    return [
        jnp.array(x, result.dtype) for x, result in zip(given, results, strict=True)
    ]


def _stay() -> None:
    """Has Python keep what it knows of this thread from one call to the next.

    A program runs in a thread of XLA's. Python makes its state for such a thread, with
    memory fresh from the system, as a call begins, and throws it away as it ends. Who
    asks for the interpreter once more than he gives it back keeps the state.
    """
    if not hasattr(_thread, "stays"):
        _thread.stays = True
        ctypes.pythonapi.PyGILState_Ensure()


def _lowered(ctx: Any, *args: Any, function: Any, results: Any) -> Any:
    def call(*values: Any) -> Sequence[Any]:
        _stay()
        return function(*values)

    values, _, _ = mlir.emit_python_callback(
        ctx,
        call,
        None,
        args,
        ctx.avals_in,
        ctx.avals_out,
        has_side_effect=True,
    )
    return values


mlir.register_lowering(callback_p, _lowered)
