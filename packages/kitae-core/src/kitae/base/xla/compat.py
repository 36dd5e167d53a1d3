"""The parts of JAX that are not its public API, and of Python's C API.

No other file imports `jax.core`, `jax.extend`, `jax.interpreters` or `ctypes`; the
linter checks it. A version of JAX that lacks one of these names still imports: the name
is None here and listed in `MISSING`, and the trick that needs it is off.
"""

from collections.abc import Callable, Sequence
from typing import Any

try:
    import jax.core as core
except ImportError:
    core = None
try:
    import jax.extend.core as extend
except ImportError:
    extend = None
try:
    from jax.interpreters import mlir
except ImportError:
    mlir = None
try:
    from ctypes import pythonapi
except ImportError:
    pythonapi = None

MISSING: list[str] = []


def _found(module: Any, name: str) -> Any:
    """Returns what a module has by this name; None, and noted down, if it has none."""
    found = getattr(module, name, None)
    if found is None:
        MISSING.append(name)
    return found


Jaxpr = _found(extend, "Jaxpr")
# In JAX 0.12 this is another name of `Jaxpr`: one class holds a program with its
# constants or without.
ClosedJaxpr = getattr(extend, "ClosedJaxpr", Jaxpr)
Literal = _found(extend, "Literal")
Primitive = _found(extend, "Primitive")
ShapedArray = _found(core, "ShapedArray")
emit_python_callback = _found(mlir, "emit_python_callback")
jaxpr_as_fun = _found(extend, "jaxpr_as_fun")
register_lowering = _found(mlir, "register_lowering")
PyGILState_Ensure = _found(pythonapi, "PyGILState_Ensure")


def need(*names: str) -> None:
    """Checks that this version of JAX has these names of this module.

    Raises:
        ImportError: It lacks one.
    """
    lacks = [name for name in names if name in MISSING]
    if lacks:
        raise ImportError(f"it has no {', '.join(lacks)}")


def is_jaxpr(value: Any) -> bool:
    """Whether this is a traced program, with its constants or without."""
    return isinstance(value, (ClosedJaxpr, Jaxpr))


def is_closed(value: Any) -> bool:
    """Whether this is a traced program with its constants."""
    return isinstance(value, ClosedJaxpr)


def opened(jaxpr: Any) -> Any:
    """Returns the program that has `constvars`, `invars`, `eqns` and `outvars`."""
    return jaxpr if Jaxpr is ClosedJaxpr else getattr(jaxpr, "jaxpr", jaxpr)


def part_as_function(
    jaxpr: Any, invars: Sequence[Any], eqns: Sequence[Any], outvars: Sequence[Any]
) -> Callable[..., list[Any]]:
    """Makes a function of some equations of a program.

    Args:
        jaxpr: The program, as `opened` returns it.
        invars: The variables that the function is given.
        eqns: The equations, in their order.
        outvars: The variables whose values it returns.
    """
    part = jaxpr.replace(
        constvars=[], invars=list(invars), outvars=list(outvars), eqns=list(eqns)
    )
    return jaxpr_as_fun(part if Jaxpr is ClosedJaxpr else ClosedJaxpr(part, []))
