import threading
from collections import defaultdict

import jax
import jax.numpy as jnp
import numpy as np

from kitae.base.xla.callback import callback
from kitae.base.xla.switches import switched
from kitae.base.xla.threads import staying

INT = jax.ShapeDtypeStruct((), jnp.int32)


@jax.jit
def power(matrix: jax.Array) -> jax.Array:
    return jax.lax.fori_loop(0, 1_000, lambda _, power: power @ matrix, matrix)


def called_often(function, n: int) -> int:
    """Calls `function` with 0, 1, .. from a program; returns the last result."""

    def program(matrix: jax.Array) -> tuple[jax.Array, jax.Array]:
        def body(i: jax.Array, carry: tuple) -> tuple:
            matrix, _ = carry
            return matrix @ matrix, callback(function, [INT], i)[0]

        return jax.lax.fori_loop(0, n, body, (matrix, jnp.int32(0)))

    matrix = jnp.eye(256)
    compiled = jax.jit(program).lower(matrix).compile()
    # A program that has to wait for what it is given has a thread of XLA's.
    return int(compiled(power(matrix))[1])


def test_a_program_is_given_what_the_function_returns():
    seen = []

    def squared(i: np.ndarray) -> list[np.ndarray]:
        seen.append(int(i))
        return [np.int32(i * i)]

    assert called_often(squared, 5) == 16
    assert seen == [0, 1, 2, 3, 4]


def test_python_knows_a_thread_again_at_the_next_call():
    here, calls = threading.local(), defaultdict(list)

    def count(i: np.ndarray) -> list[np.ndarray]:
        here.calls = getattr(here, "calls", 0) + 1
        calls[threading.get_ident()].append(here.calls)
        return [np.int32(i)]

    # Where what it waits for is there at once, the caller's thread runs a program.
    for _ in range(50):
        if not calls.keys() <= {threading.get_ident()}:
            break
        calls.clear()
        called_often(count, 9)
    assert not calls.keys() <= {threading.get_ident()}
    # In the thread that calls there is nothing to keep.
    for thread, counts in calls.items():
        if thread != threading.get_ident():
            assert counts == list(range(counts[0], counts[0] + len(counts)))


def test_switched_off_no_thread_keeps_anything():
    # A thread that keeps Python's state does so until the process ends.
    with switched(off=["threads"]):
        assert staying(called_often) is called_often
    assert staying(called_often) is not called_often


def test_without_compiling_it_is_called_at_once():
    found = np.zeros((), np.int32)

    def count(i: np.ndarray) -> list[np.ndarray]:
        found[...] = i
        return [found]

    with jax.disable_jit():
        first, second = (callback(count, [INT], jnp.int32(i))[0] for i in (1, 2))
    assert (int(first), int(second)) == (1, 2)
