"""The trick `one-kernel`: work on a few rows that XLA's CPU backend does in one go.

By default it splits a gather or a scatter among threads if the array they go to is
long, however little they move: waking a thread takes longer than moving a batch of
transitions. It makes a kernel of every few operations. And it runs a program of a
thousand operations or more in another thread, for which the caller waits; it counts
the body of a loop once. So work on few rows is a loop here, and each loop one kernel: a
sample of a uniform replay then has fewer than a thousand operations.

Without it, adding to a prioritised replay, drawing from it and setting priorities, as a
program by itself, took 209 µs instead of 117 at best, by the clock. In processor time,
and within trainings, no gain was shown.

Plain path: all rows at once, compiled as any other operation. Results are the same.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap
from jax.lax import (
    dynamic_slice,
    dynamic_slice_in_dim,
    dynamic_update_slice,
    dynamic_update_slice_in_dim,
    fori_loop,
)

from kitae.buffer import _switches

# Rows, and bytes of them, that one thread moves faster than two. XLA gives a thread so
# many bytes: it splits what goes to an array of twice as many.
MAX_ROWS, MAX_BYTES = 1_024, 2**18


def with_rows(
    data: Any, rows: Any, time: jax.Array, valid: jax.Array | None = None
) -> Any:
    """Writes row `e` at `[time[e], e]` of each leaf: where `valid[e]`, or each row."""
    which = () if valid is None else (valid,)

    def written(column: jax.Array, row: jax.Array) -> jax.Array:
        few = are_long(column) and are_few(len(row), row.nbytes)
        write = write_one_by_one if few else write_at_once
        return write(column, time, row, *which)

    return jax.tree.map(written, data, rows)


def are_long(words: jax.Array) -> bool:
    """Whether these are packed rows, and so many that XLA shares work among threads."""
    packed = words.ndim == 3 and words.dtype == jnp.uint32
    return packed and words.nbytes >= 2 * MAX_BYTES and len(words) > 1


def are_few(n: int, n_bytes: int = 0) -> bool:
    """Whether one CPU device is better off to go through `n` rows one by one."""
    few = n <= MAX_ROWS and n_bytes <= MAX_BYTES
    return few and is_one_cpu() and _switches.active("one-kernel")


def is_one_cpu() -> bool:
    """Whether programs run on one CPU device.

    Of several devices, arrays may be split, and no kernel can ask another for a row.
    """
    return jax.default_backend() == "cpu" and jax.device_count() == 1


def rows_at(column: jax.Array, index: jax.Array) -> jax.Array:
    """Reads rows at `index` `[n]`, `time * n_envs + env`, in range: `[n, ...]`."""
    # What may be negative takes several times as many operations to look up.
    index, n_envs = index.astype(jnp.uint32), column.shape[1]
    places = column.at[index // n_envs, index % n_envs]
    return places.get(mode="promise_in_bounds")


def write_at_once(
    column: jax.Array, time: jax.Array, rows: jax.Array, valid: jax.Array | None = None
) -> jax.Array:
    """Writes rows as XLA does it."""
    if valid is not None:
        # An index past the end is dropped: no read, and no branch.
        time = jnp.where(valid, time, column.shape[0])
    places = column.at[time, jnp.arange(time.size, dtype=jnp.int32)]
    return places.set(rows, mode="drop", unique_indices=True)


def as_one_kernel(loop: Callable[..., Any], many: Callable[..., Any]) -> Any:
    """Has XLA's CPU backend compile `loop` to one kernel, but `many` if it is vmapped.

    A version that does not know the request compiles the loop as any other. One that
    does ends the process where a kernel has no use for one of its arguments: such as an
    index to the only row there is.
    """

    # kitae.base.xla does not take apart what has this name.
    @jax.jit
    def one_kernel(*args: Any) -> Any:
        return loop(*args)

    @custom_vmap
    def call(*args: Any) -> Any:
        return _switches.xla_request()(
            one_kernel(*args), inlineable="false", xla_cpu_small_call="true"
        )

    @call.def_vmap
    def of_many(axis_size: int, in_batched: list[bool], *args: Any) -> Any:
        axes = jax.tree.map(lambda batched: 0 if batched else None, in_batched)
        outs = jax.vmap(many, in_axes=axes, axis_size=axis_size)(*args)
        return outs, jax.tree.map(lambda _: True, outs)

    return call


def by_parts(
    f: Callable[[Any, Any], Any], part: int | None, whole: Any, rows: Any
) -> Any:
    """Returns `f(whole, rows)`, taking `part` of few rows at a time.

    Args:
        f: Gives of rows, leaves `[n, ...]`, as many, each whatever the others are.
        part: At least 1; None for all rows at once.
        whole: Arrays.
        rows: Leaves `[n, ...]`.
    """
    n = len(jax.tree.leaves(rows)[0])
    if part is None or n <= part or not are_few(n):
        return f(whole, rows)
    outs = jax.eval_shape(f, whole, rows)
    n_bytes = sum(out.size * out.dtype.itemsize for out in jax.tree.leaves(outs))
    if not are_few(n, n_bytes):
        return f(whole, rows)

    def loop(whole: Any, rows: Any) -> Any:
        def step(i: jax.Array, outs: Any) -> Any:
            # The last part begins early enough to be as long as the others.
            first = jnp.minimum(i * part, n - part)
            some = jax.tree.map(lambda x: dynamic_slice_in_dim(x, first, part), rows)
            return jax.tree.map(
                lambda out, x: dynamic_update_slice_in_dim(out, x, first, 0),
                outs,
                f(whole, some),
            )

        empty = jax.tree.map(lambda out: jnp.zeros(out.shape, out.dtype), outs)
        return fori_loop(jnp.uint32(0), jnp.uint32(-(-n // part)), step, empty)

    return as_one_kernel(loop, f)(whole, rows)


def write_loop(
    words: jax.Array, time: jax.Array, rows: jax.Array, valid: jax.Array | None = None
) -> jax.Array:
    """Writes one row after the other."""

    def write(i: jax.Array, words: jax.Array) -> jax.Array:
        # The index of a loop is int64 where 64-bit types are on.
        env = i.astype(jnp.int32)
        row, place = rows[env][None, None], (time[env], env, jnp.int32(0))
        if valid is not None:
            # What is not to be written is written as it is.
            row = jnp.where(valid[env], row, dynamic_slice(words, place, row.shape))
        return dynamic_update_slice(words, row, place)

    return fori_loop(0, time.size, write, words)


write_one_by_one = as_one_kernel(write_loop, write_at_once)
