"""Loops of many steps, and the programs that run them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kitae.base.xla.hoisting import Split
from kitae.base.xla.keys import key_impl, plain, typed
from kitae.base.xla.packing import packing


class Span(NamedTuple):
    """Which steps of a group are run.

    Attributes:
        begin: The first, from 0 on.
        end: The one after the last.
    """

    begin: Any
    end: Any


def loop(
    parts: Split,
    length: int,
    constants: Any,
    carry: Any,
    numbers: jax.Array,
    values: list[jax.Array],
    n: jax.Array,
    first: jax.Array | int = 0,
    going: Callable[[Any], jax.Array] | None = None,
    small: int = 0,
) -> tuple[Any, Any]:
    """Runs steps `first` to `n` of `length` steps.

    Args:
        parts: The body.
        length: What memory is set aside for, at least 1.
        constants: The same at every step.
        carry: What a step passes to the next.
        numbers: `[length]`, the `x` of each step.
        values: What `ahead` draws for these numbers.
        n: int32 in `[0, length]`; a value, so that another count is no other program.
        first: int32, likewise. From `n` on, there is none.
        going: Whether a carry has another step, up to `n`. Default: always.
        small: Leaves of at most so many elements travel together; see `packing`.

    Returns:
        The last carry, and every `y`, stacked to `[length, ...]`: zero where no step
        was run.
    """
    pack, unpack = packing(carry, small)
    ys = jax.tree.map(lambda y: jnp.zeros((length, *y.shape), y.dtype), parts.y)
    impls, drawn = list(map(key_impl, values)), list(map(plain, values))

    def step(i: jax.Array, state: tuple[Any, Any]) -> tuple[Any, Any]:
        packed, ys = state
        mine = [typed(x[i], impl) for x, impl in zip(drawn, impls, strict=True)]
        carry, y = parts.step(constants, unpack(packed), numbers[i], mine)
        ys = jax.tree.map(
            lambda column, row: jax.lax.dynamic_update_index_in_dim(column, row, i, 0),
            ys,
            y,
        )
        return pack(carry), ys

    start = pack(carry), ys
    if going is None:
        packed, ys = jax.lax.fori_loop(jnp.int32(first), n, step, start)
    else:
        is_going: Callable[[Any], jax.Array] = going
        _, (packed, ys) = jax.lax.while_loop(
            lambda at: (at[0] < n) & is_going(unpack(at[1][0])),
            lambda at: (at[0] + 1, step(*at)),
            (jnp.int32(first), start),
        )
    return unpack(packed), ys


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
        self, constants: Any, carry: Any, first: int, n: int, span: Span | None = None
    ) -> tuple[Any, Any]:
        """Runs `n` groups, of which the first begins with step `first`.

        Args:
            constants: See `loop`; the groups get these and the span.
            carry: Likewise.
            first: The number of a step.
            n: At least 1.
            span: The steps that are run of each group. Default: all.
        """
        begin, end = span or (0, self.size)
        given = constants, Span(np.int32(begin), np.int32(end))
        numbers = self._numbers(first)
        values = self._ahead(given, numbers)
        return self._loop(given, carry, numbers, values, np.int32(n))

    def _numbers(self, first: int) -> np.ndarray:
        """Returns the numbers of the steps with which groups begin."""
        groups = np.arange(self.length, dtype=np.uint32)
        return np.uint32(first % 2**32) + np.uint32(self.size) * groups
