"""Initialising a flax module from the shapes of its inputs."""

import shutil
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from kitae.modules._checks import positive_int


def init_params(
    key: jax.Array,
    module: nn.Module,
    input_shapes: Sequence[Any],
    tabulate: bool = False,
) -> Any:
    """Initialises the parameters of a module from the shapes of its inputs.

    The module sees zeros with one batch axis of size 1 before each shape. The
    initialisation is compiled as one program, which is several times quicker than
    running it operation by operation and never computes the forward pass; a second
    call with an equal module and the same shapes does not compile again.

    Args:
        key: One random key; the same key gives the same parameters.
        module: A flax linen module.
        input_shapes: One item for each input of `module`: its shape without the
            batch axis, such as `(4,)` (the input is then float32), or a
            `jax.ShapeDtypeStruct` for another dtype, such as uint8 images, or a pytree
            of them for an input that is one, such as dict observations. For the
            observations of a space it is `observation_spec(space)`.
        tabulate: Print flax's table of the module's layers and parameters.

    Returns:
        The variables `{"params": ...}`, which `module.apply(params, inputs)` takes.

    Raises:
        TypeError: If `key` is not a random key, `module` not a module, `tabulate` not a
            bool, or if `input_shapes` is a shape and not a list of shapes.
        ValueError: If `key` holds several keys, if `input_shapes` is empty or has a
            size below 1, or if the module has other variables than parameters (batch
            statistics, say): an optimizer would update them as if they were weights.

    Examples:
        >>> import flax.linen as nn, jax, jax.numpy as jnp
        >>> dense = nn.Dense(3)
        >>> params = init_params(jax.random.key(0), dense, [(4,)])
        >>> params["params"]["kernel"].shape
        (4, 3)
        >>> dense.apply(params, jnp.ones((32, 4))).shape
        (32, 3)
    """
    _check_key(key)
    if not isinstance(module, nn.Module):
        raise TypeError(f"module must be a flax.linen.Module, got {module!r}")
    if not isinstance(tabulate, bool):
        raise TypeError(f"tabulate must be a bool, got {tabulate!r}")
    specs = _input_specs(input_shapes)
    if tabulate:
        print(_table(key, module, specs))
    try:
        hash(module)
    except TypeError:  # a field holds a list or an array: compile it for this call
        variables = jax.jit(lambda key: module.init(key, *_inputs(specs)))(key)
    else:  # options are of a whole program only
        init = _compiled_init if _is_traced(key) else _quickly_compiled_init
        variables = init(module, specs, key)
    if others := sorted(set(variables) - {"params"}):
        raise ValueError(
            f"{type(module).__qualname__} has the variables {others} besides 'params', "
            "and an optimizer would update them as if they were weights"
        )
    return variables


class _Spec(NamedTuple):
    """One input, hashable: its structure, and the shape and dtype of each leaf."""

    structure: Any
    leaves: tuple[tuple[tuple[int, ...], np.dtype], ...]


_Specs = tuple[_Spec, ...]


def _init(module: nn.Module, specs: _Specs, key: jax.Array) -> Any:
    return module.init(key, *_inputs(specs))


_compiled_init = jax.jit(_init, static_argnums=(0, 1))
# By itself it runs once: all of XLA's optimisations would take longer than they save.
_quickly_compiled_init = jax.jit(
    _init,
    static_argnums=(0, 1),
    compiler_options={"xla_backend_optimization_level": 1},
)


def _inputs(specs: _Specs) -> list[Any]:
    """Zeros with one batch axis of size 1."""
    return [
        spec.structure.unflatten(
            [jnp.zeros((1, *shape), dtype) for shape, dtype in spec.leaves]
        )
        for spec in specs
    ]


def _is_traced(key: jax.Array) -> bool:
    """Whether a key is part of a program that is being traced."""
    try:
        key.devices()
    except jax.errors.ConcretizationTypeError:
        return True
    return False


def _check_key(key: jax.Array) -> None:
    if not isinstance(key, jax.Array):
        raise TypeError(f"key must be a jax random key, got {key!r}")
    typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    if not typed and key.dtype != jnp.uint32:
        raise TypeError(f"key must be a jax random key, got a {key.dtype} array")
    if key.ndim != (0 if typed else 1):
        raise ValueError(f"key must be one random key, got the shape {key.shape}")


def _input_specs(input_shapes: Any) -> _Specs:
    if isinstance(input_shapes, str) or not isinstance(input_shapes, Sequence):
        raise TypeError(f"input_shapes must be a list of shapes, got {input_shapes!r}")
    if not input_shapes:
        raise ValueError("input_shapes must have one shape for each input, got none")
    return tuple(_input_spec(i, shape) for i, shape in enumerate(input_shapes))


def _input_spec(i: int, item: Any) -> _Spec:
    name = f"input_shapes[{i}]"
    leaves, structure = jax.tree.flatten(item)
    if leaves and all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves):
        return _Spec(structure, tuple(_leaf_spec(name, leaf) for leaf in leaves))
    if isinstance(item, str) or not isinstance(item, Sequence):
        raise TypeError(
            f"{name} must be a shape such as (4,), a jax.ShapeDtypeStruct or a pytree "
            f"of them, got {item!r}; input_shapes is a list with one item for each "
            "input, such as [(4,)]"
        )
    shape = tuple(positive_int(name, size) for size in item)
    return _input_spec(i, jax.ShapeDtypeStruct(shape, jnp.float32))


def _leaf_spec(
    name: str, leaf: jax.ShapeDtypeStruct
) -> tuple[tuple[int, ...], np.dtype]:
    shape = tuple(positive_int(name, size) for size in leaf.shape)
    return shape, jax.dtypes.canonicalize_dtype(leaf.dtype)


def _table(key: jax.Array, module: nn.Module, specs: _Specs) -> str:
    console = {
        "force_terminal": sys.stdout.isatty(),
        "width": shutil.get_terminal_size(fallback=(120, 24)).columns,
    }
    return module.tabulate(key, *_inputs(specs), console_kwargs=console)
