"""Traced programs, as lists of equations to be read and put together again."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax

from kitae.base.xla import callback, compat, convolutions

CALLS = ("jit", "pjit")
# A function that is compiled to one kernel is not taken apart. The packages that have
# such functions name them so.
KERNEL = "one_kernel"


def used(eqns: Sequence[Any], outvars: Sequence[Any]) -> list[Any]:
    """Returns the variables that the equations and the results read, each once."""
    read = [var for eqn in eqns for var in eqn.invars] + list(outvars)
    return list(dict.fromkeys(var for var in read if not is_literal(var)))


def is_literal(var: Any) -> bool:
    """Whether this is a number in the place of a variable."""
    return isinstance(var, compat.Literal)


def has_effect(eqn: Any) -> bool:
    """Whether an equation must run once for each step, whatever it depends on."""
    return bool(eqn.effects) or eqn.primitive.name == callback.NAME


def program(
    jaxpr: Any, eqns: Sequence[Any], invars: Sequence[Any], outvars: Sequence[Any]
) -> Callable[..., list[jax.Array]]:
    """Makes a function of those of a program's equations that its results need."""
    needed, kept = set(used([], outvars)), []
    for eqn in reversed(eqns):
        if has_effect(eqn) or not needed.isdisjoint(eqn.outvars):
            needed.update(used([eqn], []))
            kept.insert(0, eqn)
    return compat.part_as_function(jaxpr, invars, kept, outvars)


def inlined(closed: Any) -> Any:
    """Returns the same program without calls: a call may mix what is to be split.

    Convolutions that would be slow in a loop are brought into another order.
    """

    def run(closed: Any, *args: Any) -> list[Any]:
        jaxpr = compat.opened(closed)
        values = dict(zip(jaxpr.constvars, closed.consts, strict=True))
        values |= dict(zip(jaxpr.invars, args, strict=True))

        def read(var: Any) -> Any:
            return var.val if is_literal(var) else values[var]

        for eqn in jaxpr.eqns:
            if eqn.primitive.name in CALLS and eqn.params["name"] != KERNEL:
                call = functools.partial(run, eqn.params["jaxpr"])
                outs = call(*map(read, eqn.invars))
            elif convolutions.is_slow(eqn):
                outs = [convolutions.ordered(eqn, *map(read, eqn.invars))]
            else:
                if convolutions.has_slow(eqn):
                    eqn = with_inner_inlined(eqn)
                invars = used([eqn], [])
                call = program(jaxpr, [eqn], invars, eqn.outvars)
                outs = call(*map(read, invars))
            values.update(zip(eqn.outvars, outs, strict=True))
        return list(map(read, jaxpr.outvars))

    return jax.make_jaxpr(functools.partial(run, closed))(*closed.in_avals)


def with_inner_inlined(eqn: Any) -> Any:
    """Returns the same loop or branch with `inlined` applied within."""

    def inner(part: Any) -> Any:
        return inlined(part) if compat.is_closed(part) else part

    return eqn.replace(params=jax.tree.map(inner, eqn.params, is_leaf=compat.is_jaxpr))
