"""Loops whose random numbers are drawn for many steps at once.

Drawing a few random numbers in every step of a compiled loop costs far more than
drawing the numbers of a thousand steps together: each draw is a loop of its own, with
a fixed cost. So a loop's body is split in two. What depends on the number of the step
and on nothing that an earlier step computed (folding in keys, drawing numbers, the
value of a schedule) is computed for many steps in one vectorised program before the
loop; the loop runs the rest. The results are the same to the last bit, since JAX's
generator gives the same numbers for a key alone and among many.

What is larger than what it is made of is not kept: the noise of a layer's weights is
the product of two vectors, and that each step computes again.
"""

import functools
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal, jaxpr_as_fun

from kitae.base.common.pytrees import n_bytes
from kitae.base.xla import convolutions

SMALL = 32
# To draw for fewer steps together would take longer than to draw for each.
WORTH_IT = 8
CALLS = ("jit", "pjit")
# A function that is to be compiled as one is not taken apart: kitae.timesteps._kernel
# names it so.
KERNEL = "one_kernel"
# What a step may as well compute again: as quick as to read it, and the same bits.
CHEAP = ("broadcast_in_dim", "convert_element_type", "mul", "reshape", "squeeze")
QUICKLY = {"xla_backend_optimization_level": 1, "xla_cpu_use_fusion_emitters": False}


class Split(NamedTuple):
    """A loop's body in two parts; see `split`.

    Attributes:
        ahead: `ahead(constants, x) -> ahead_values`, of one step, to be vmapped.
        step: `step(constants, carry, x, ahead_values) -> (carry, y)`.
        bytes_ahead: What `ahead` gives for one step.
        y: Shapes and dtypes of `y`.
    """

    ahead: Callable[[Any, jax.Array], list[jax.Array]]
    step: Callable[[Any, Any, jax.Array, list[jax.Array]], tuple[Any, Any]]
    bytes_ahead: int
    y: Any


def split(
    body: Callable[[Any, Any, jax.Array], tuple[Any, Any]],
    constants: Any,
    carry: Any,
    x: jax.Array,
    room: float = math.inf,
) -> Split:
    """Splits a loop's body by what it needs the carry for.

    Args:
        body: `body(constants, carry, x) -> (carry, y)`, pure.
        constants: The same at every step; arrays or their shapes, as `carry` and `x`.
        carry: What a step passes to the next.
        x: What tells one step from another, its number say.
        room: Bytes for what is drawn ahead for many steps. Where they are enough for
            few steps only, each step draws for itself.

    Returns:
        Two functions that together do what `body` does.
    """
    closed, (_, y) = jax.make_jaxpr(body, return_shape=True)(constants, carry, x)
    flat = _inlined(closed)
    jaxpr = flat.jaxpr
    n_constants, n_carry = len(jax.tree.leaves(constants)), len(jax.tree.leaves(carry))
    constant_vars = jaxpr.invars[:n_constants]
    carry_vars = jaxpr.invars[n_constants : n_constants + n_carry]
    x_vars = jaxpr.invars[n_constants + n_carry :]

    of_x, of_carry = set(x_vars), set(carry_vars)
    for eqn in jaxpr.eqns:
        inputs = {var for var in eqn.invars if not isinstance(var, Literal)}
        if inputs & of_carry or eqn.effects:
            of_carry.update(eqn.outvars)
        elif inputs & of_x:
            of_x.update(eqn.outvars)
    ahead_eqns = [eqn for eqn in jaxpr.eqns if not of_carry.issuperset(eqn.outvars)]
    drawn = {var: eqn for eqn in ahead_eqns for var in eqn.outvars if var in of_x}
    # What is of constants only, either part may need: XLA computes it once.
    rest = [eqn for eqn in jaxpr.eqns if drawn.keys().isdisjoint(eqn.outvars)]
    kept = drawn.keys() - _computed_again(drawn, _used(rest, jaxpr.outvars))
    step_eqns = [eqn for eqn in jaxpr.eqns if kept.isdisjoint(eqn.outvars)]
    passed = [var for var in _used(step_eqns, jaxpr.outvars) if var in kept]
    if WORTH_IT * n_bytes([var.aval for var in passed]) > room:
        step_eqns, passed = jaxpr.eqns, []

    inputs = [*jaxpr.constvars, *constant_vars]
    run_ahead = _program(jaxpr, ahead_eqns, [*inputs, *x_vars], passed)
    run_step = _program(
        jaxpr, step_eqns, [*jaxpr.constvars, *jaxpr.invars, *passed], jaxpr.outvars
    )
    carry_def, y_def = jax.tree.structure(carry), jax.tree.structure(y)

    def ahead(constants: Any, x: jax.Array) -> list[jax.Array]:
        return run_ahead(*flat.consts, *jax.tree.leaves((constants, x)))

    def step(
        constants: Any, carry: Any, x: jax.Array, values: Sequence[jax.Array]
    ) -> tuple[Any, Any]:
        leaves = jax.tree.leaves((constants, carry, x))
        # A number that the program has as a constant is none of JAX's arrays.
        outs = [
            out if isinstance(out, jax.Array) else jnp.asarray(out, out.dtype)
            for out in run_step(*flat.consts, *leaves, *values)
        ]
        new_carry = jax.tree.unflatten(carry_def, outs[:n_carry])
        return new_carry, jax.tree.unflatten(y_def, outs[n_carry:])

    return Split(ahead, step, n_bytes([var.aval for var in passed]), y)


def _computed_again(drawn: dict[Any, Any], wanted: Iterable[Any]) -> set[Any]:
    """Tells what a step computes again, since what it is made of is smaller.

    Args:
        drawn: What depends on the number of the step alone, and the equations that
            give it, in their order.
        wanted: What the steps read of it.
    """
    least: dict[Any, int] = {}  # bytes to keep, so that a step has this
    for var, eqn in drawn.items():
        least[var] = n_bytes([var.aval])
        if eqn.primitive.name in CHEAP:
            parts = sum(least.get(part, 0) for part in _used([eqn], []))
            least[var] = min(least[var], parts)
    wanted, again = set(wanted), set()
    for var, eqn in reversed(drawn.items()):
        if var in wanted and least[var] < n_bytes([var.aval]):
            again.add(var)
            wanted.update(_used([eqn], []))
    return again


def _used(eqns: Sequence[Any], outvars: Sequence[Any]) -> list[Any]:
    """Returns the variables that the equations and the results read, each once."""
    read = [var for eqn in eqns for var in eqn.invars] + list(outvars)
    return list(dict.fromkeys(var for var in read if not isinstance(var, Literal)))


def ahead(parts: Split, constants: Any, numbers: jax.Array) -> list[jax.Array]:
    """Draws what all steps of a loop need.

    Args:
        parts: The body.
        constants: The same at every step.
        numbers: `[length]`, the `x` of each step.

    Returns:
        Arrays `[length, ...]`.
    """
    return jax.vmap(parts.ahead, in_axes=(None, 0))(constants, numbers)


def loop(
    parts: Split,
    length: int,
    small: int,
    constants: Any,
    carry: Any,
    numbers: jax.Array,
    values: list[jax.Array],
    n: jax.Array,
    going: Callable[[Any], jax.Array] | None = None,
) -> tuple[Any, Any]:
    """Runs the first `n` of `length` steps.

    Args:
        parts: The body.
        length: What memory is set aside for, at least 1.
        small: Leaves of at most so many elements travel together; see `packing`.
        constants: The same at every step.
        carry: What a step passes to the next.
        numbers: `[length]`, the `x` of each step.
        values: What `ahead` draws for these numbers.
        n: int32 in `[0, length]`; a value, so that another count is no other program.
        going: Tells of a carry whether there is another step, up to `n`. Default:
            always.

    Returns:
        The last carry, and every `y`, stacked to `[length, ...]`: zero from `n` on.
    """
    pack, unpack = packing(carry, small)
    pack_y, unpack_y = packing(parts.y, small)
    ys = jax.tree.map(
        lambda y: jnp.zeros((length, *y.shape), y.dtype),
        jax.eval_shape(pack_y, parts.y),
    )

    impls, drawn = list(map(key_impl, values)), list(map(plain, values))

    def step(i: jax.Array, state: tuple[Any, Any]) -> tuple[Any, Any]:
        packed, ys = state
        mine = [typed(x[i], impl) for x, impl in zip(drawn, impls, strict=True)]
        carry, y = parts.step(constants, unpack(packed), numbers[i], mine)
        ys = jax.tree.map(
            lambda column, row: jax.lax.dynamic_update_index_in_dim(column, row, i, 0),
            ys,
            pack_y(y),
        )
        return pack(carry), ys

    start = pack(carry), ys
    if going is None:
        packed, ys = jax.lax.fori_loop(jnp.int32(0), n, step, start)
    else:
        told: Callable[[Any], jax.Array] = going
        _, (packed, ys) = jax.lax.while_loop(
            lambda at: (at[0] < n) & told(unpack(at[1][0])),
            lambda at: (at[0] + 1, step(*at)),
            (jnp.int32(0), start),
        )
    if not jax.tree.leaves(parts.y):
        return unpack(packed), parts.y
    return unpack(packed), jax.vmap(unpack_y)(ys)


def n_groups(size: int, steps: int, group_bytes: int, room: int) -> int:
    """Returns how many groups of steps one program runs at most; at least 1.

    Args:
        size: Steps in a group.
        steps: As many at most, rounded up to whole groups.
        group_bytes: What is set aside for a group.
        room: Bytes for all of them.
    """
    return max(1, min(-(-steps // size), room // max(group_bytes, 1)))


class Loop:
    """A program of many groups of steps, with a count that is a value.

    Args:
        ahead: Draws what all groups need; compiled.
        loop: Runs them; compiled, and gives up the carry.
        size: Steps in a group.
        length: The most groups in one call.
    """

    def __init__(self, ahead: Any, loop: Any, size: int, length: int) -> None:
        self.size = size
        self.length = length
        self._ahead = ahead
        self._loop = loop

    def __call__(
        self, constants: Any, carry: Any, first: int, n: int
    ) -> tuple[Any, Any]:
        """Runs `n` groups, of which the first begins with step `first`."""
        numbers = self._numbers(first)
        values = self._ahead(constants, numbers)
        return self._loop(constants, carry, numbers, values, np.int32(n))

    def lowered(self, constants: Any, carry: Any) -> Iterator[Any]:
        """Gives both programs before XLA compiles them, for such arguments."""
        numbers = self._numbers(0)
        values = jax.eval_shape(self._ahead, constants, numbers)
        yield self._loop.lower(constants, carry, numbers, values, np.int32(0))
        yield self._ahead.lower(constants, numbers)

    def _numbers(self, first: int) -> np.ndarray:
        """Returns the numbers of the steps with which groups begin."""
        groups = np.arange(self.length, dtype=np.uint32)
        return np.uint32(first % 2**32) + np.uint32(self.size) * groups


def compile_all(loops: Iterable[Loop], constants: Any, carry: Any) -> None:
    """Compiles programs at the same time; calls to them then find them.

    Each is begun with as soon as it is traced: of loops that are made only when they
    are asked for, the one that takes longest comes first.
    """
    with ThreadPoolExecutor() as pool:
        begun = [
            pool.submit(program.compile)
            for loop in loops
            for program in loop.lowered(constants, carry)
        ]
    for compiled in begun:
        compiled.result()


def is_key(value: Any) -> bool:
    """Whether these are random keys with a type of their own."""
    return jnp.issubdtype(value.dtype, jax.dtypes.prng_key)


def key_impl(value: Any) -> Any:
    """Returns whose keys they are; None if they are none."""
    return jax.random.key_impl(value) if is_key(value) else None


def plain(value: Any) -> jax.Array:
    """Returns keys as the numbers they are."""
    return jax.random.key_data(value) if is_key(value) else value


def typed(value: jax.Array, impl: Any) -> jax.Array:
    """Undoes `plain`."""
    return value if impl is None else jax.random.wrap_key_data(value, impl=impl)


def packing(tree: Any, small: int) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """Makes functions that put all small leaves of one dtype into one array.

    What a loop passes on costs by the leaf: each is copied by an operation of its own,
    and a dozen counters and flags take as long as a matrix product.

    Args:
        tree: Arrays, or their shapes.
        small: The most elements of a leaf that is small.

    Returns:
        `pack(tree) -> (arrays by dtype, others)` and its inverse.
    """
    leaves, treedef = jax.tree.flatten(tree)
    kinds = [str(leaf.dtype) if leaf.size <= small else None for leaf in leaves]
    groups = sorted({kind for kind in kinds if kind is not None})

    def pack(tree: Any) -> tuple[list[jax.Array], list[jax.Array]]:
        of = list(zip(jax.tree.leaves(tree), kinds, strict=True))
        packed = [
            jnp.concatenate([leaf.ravel() for leaf, kind in of if kind == group])
            for group in groups
        ]
        return packed, [leaf for leaf, kind in of if kind is None]

    def unpack(packed: tuple[list[jax.Array], list[jax.Array]]) -> Any:
        parts: dict[str | None, Any] = {None: iter(packed[1])}
        for group, array in zip(groups, packed[0], strict=True):
            sizes = [
                leaf.size for leaf, k in zip(leaves, kinds, strict=True) if k == group
            ]
            parts[group] = iter(jnp.split(array, np.cumsum(sizes)))
        return jax.tree.unflatten(
            treedef,
            [
                next(parts[kind]).reshape(leaf.shape)
                for leaf, kind in zip(leaves, kinds, strict=True)
            ],
        )

    return pack, unpack


@functools.cache
def quickly_compiled() -> dict[str, Any]:
    """Compiler options for a program that takes longer to compile than to run.

    As it is set, XLA's CPU backend takes seconds to optimise a few calls of the random
    generator, which then cost a thousandth of a training's time. What `XLA_FLAGS` say
    stays as it is.
    """
    if jax.default_backend() != "cpu":
        return {}
    flags = os.environ.get("XLA_FLAGS", "")
    options = {name: value for name, value in QUICKLY.items() if name not in flags}
    return {name: value for name, value in options.items() if is_known(name, value)}


def is_known(name: str, value: Any) -> bool:
    """Whether this version of XLA has such a compiler option."""
    try:
        jax.jit(lambda x: x, compiler_options={name: value})(np.float32(0))
    except jax.errors.JaxRuntimeError:
        return False
    return True


def _program(
    jaxpr: Jaxpr, eqns: Sequence[Any], invars: Sequence[Any], outvars: Sequence[Any]
) -> Callable[..., list[jax.Array]]:
    """Makes a function of those of a program's equations that its results need."""
    needed, kept = set(_used([], outvars)), []
    for eqn in reversed(eqns):
        if eqn.effects or not needed.isdisjoint(eqn.outvars):
            needed.update(_used([eqn], []))
            kept.insert(0, eqn)
    part = jaxpr.replace(
        constvars=[], invars=list(invars), outvars=list(outvars), eqns=kept
    )
    return jaxpr_as_fun(ClosedJaxpr(part, []))


def _inlined(closed: ClosedJaxpr) -> ClosedJaxpr:
    """Returns the same program without calls: a call may mix both parts.

    Convolutions that would be slow in a loop are brought into another order.
    """

    def run(closed: ClosedJaxpr, *args: Any) -> list[Any]:
        jaxpr = closed.jaxpr
        values = dict(zip(jaxpr.constvars, closed.consts, strict=True))
        values |= dict(zip(jaxpr.invars, args, strict=True))

        def read(var: Any) -> Any:
            return var.val if isinstance(var, Literal) else values[var]

        for eqn in jaxpr.eqns:
            if eqn.primitive.name in CALLS and eqn.params["name"] != KERNEL:
                call = functools.partial(run, eqn.params["jaxpr"])
                outs = call(*map(read, eqn.invars))
            elif convolutions.is_slow(eqn):
                outs = [convolutions.ordered(eqn, *map(read, eqn.invars))]
            else:
                if convolutions.has_slow(eqn):
                    eqn = _with_inner_inlined(eqn)
                invars = [var for var in eqn.invars if not isinstance(var, Literal)]
                invars = list(dict.fromkeys(invars))
                call = _program(jaxpr, [eqn], invars, eqn.outvars)
                outs = call(*map(read, invars))
            values.update(zip(eqn.outvars, outs, strict=True))
        return list(map(read, jaxpr.outvars))

    return jax.make_jaxpr(functools.partial(run, closed))(*closed.in_avals)


def _with_inner_inlined(eqn: Any) -> Any:
    """Returns the same loop or branch with `_inlined` applied within."""

    def inlined(part: Any) -> Any:
        return _inlined(part) if isinstance(part, ClosedJaxpr) else part

    params = jax.tree.map(inlined, eqn.params, is_leaf=convolutions.is_jaxpr)
    return eqn.replace(params=params)
