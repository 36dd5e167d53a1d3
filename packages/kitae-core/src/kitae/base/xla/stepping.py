"""Calling one function at every step, with its random numbers drawn ahead."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kitae.base.xla import hoisting, loops
from kitae.base.xla.compiling import quickly_compiled
from kitae.base.xla.keys import key_impl, plain, typed

# Numbers that are drawn for together, and bytes.
MAX_LENGTH = 256
MAX_BYTES = 2**23


class HoistedFunction:
    """`function(constants, number, *carry)`, compiled, for one number after another.

    What it computes of the constants and the number alone, all random numbers above
    all, is computed for the next `MAX_LENGTH` numbers together and kept until its turn
    comes; see `hoisting`. The numbers are those that `function` would draw, bit
    for bit. Shapes and dtypes are those of the first call.

    Args:
        function: Pure; traced once.
        donate: Which of `carry` are given up at a call.
        beside: Pure; what `both` calls too.
        donate_beside: Which of its arguments are given up.

    Attributes:
        function: The function, as part of a program that is being traced.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        donate: Sequence[int] = (),
        beside: Callable[..., Any] = lambda: None,
        donate_beside: Sequence[int] = (),
    ) -> None:
        self.function = jax.jit(function)
        self._donate = donate
        self._beside = beside
        self._donate_beside = donate_beside
        self._programs: Compiled | None = None
        self._drawn_for: tuple[Any, int] = None, 0
        self._values: Any = None
        self._length = MAX_LENGTH

    def __call__(self, constants: Any, number: int, *carry: Any) -> Any:
        """Calls the function.

        Args:
            constants: The same object as before, as long as they are the same.
            number: From 0 to 2**32 - 1.
            *carry: Whatever else it takes.
        """
        programs, drawn = self._drawn(constants, number, carry)
        return programs.step(constants, drawn, *carry)

    def both(
        self, others: Sequence[Any], constants: Any, number: int, *carry: Any
    ) -> tuple[Any, Any]:
        """Calls `beside(*others)` and the function, in one program.

        Returns:
            What each gives.
        """
        programs, drawn = self._drawn(constants, number, carry)
        return programs.both(constants, drawn, carry, *others)

    def eval_shape(self, constants: Any, number: int, *carry: Any) -> Any:
        """Returns the shapes and dtypes of what a call would give."""
        return self.function.eval_shape(constants, np.uint32(number), *carry)

    def _drawn(self, constants: Any, number: int, carry: Any) -> tuple["Compiled", Any]:
        """Returns the programs, and what a step needs besides the carry."""
        programs = self._programs
        if programs is None:
            programs = self._programs = self._made(constants, np.uint32(number), carry)
        if programs.ahead is None:
            return programs, np.uint32(number)
        known, first = self._drawn_for
        at = number - first
        if known is not constants or not 0 <= at < self._length:
            at = 0
            self._drawn_for = constants, number
            numbers = np.arange(number, number + self._length) % 2**32
            self._values = programs.ahead(constants, numbers.astype(np.uint32))
        return programs, (self._values, np.int32(at))

    def _made(self, constants: Any, number: np.uint32, carry: Any) -> "Compiled":
        def body(constants: Any, carry: Any, number: Any) -> tuple[Any, Any]:
            return carry, self.function(constants, number, *carry)

        parts = hoisting.split(body, constants, carry, jnp.asarray(number), MAX_BYTES)
        if parts.bytes_ahead == 0:
            return self._compiled(None, partial(whole, parts))
        self._length = loops.n_groups(1, MAX_LENGTH, parts.bytes_ahead, MAX_BYTES)
        impls: list[Any] = []  # known once `ahead` is traced

        def ahead(constants: Any, numbers: jax.Array) -> tuple[jax.Array, Any]:
            drawn = hoisting.ahead(parts, constants, numbers)
            # Typed keys take a slower way into a program.
            impls.extend(map(key_impl, drawn))
            return numbers, list(map(plain, drawn))

        def step(constants: Any, drawn: Any, *carry: Any) -> Any:
            (numbers, values), at = drawn
            kinds = zip(values, impls, strict=True)
            mine = [typed(x[at], impl) for x, impl in kinds]
            return parts.step(constants, carry, numbers[at], mine)[1]

        return self._compiled(jax.jit(ahead, compiler_options=quickly_compiled()), step)

    def _compiled(
        self, ahead: Callable[..., Any] | None, step: Callable[..., Any]
    ) -> "Compiled":
        def both(constants: Any, drawn: Any, carry: Any, *others: Any) -> Any:
            return self._beside(*others), step(constants, drawn, *carry)

        return Compiled(
            ahead,
            jax.jit(step, donate_argnums=[2 + i for i in self._donate]),
            jax.jit(both, donate_argnums=[3 + i for i in self._donate_beside]),
        )


def whole(parts: hoisting.Split, constants: Any, number: jax.Array, *carry: Any) -> Any:
    """Draws, and does the rest."""
    values = parts.ahead(constants, number)
    return parts.step(constants, carry, number, values)[1]


class Compiled(NamedTuple):
    """What a `HoistedFunction` calls.

    Attributes:
        ahead: `ahead(constants, numbers)` draws; None if there is nothing to draw.
        step: `step(constants, drawn, *carry)`.
        both: `both(constants, drawn, carry, *others)`.
    """

    ahead: Callable[..., Any] | None
    step: Callable[..., Any]
    both: Callable[..., Any]
