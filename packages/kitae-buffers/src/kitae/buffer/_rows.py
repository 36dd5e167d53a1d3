"""Reading and writing a few rows of a long array.

XLA's CPU backend splits a gather or a scatter among threads if the array they go to is
long, however little they move: waking a thread takes longer than to move a batch of
transitions. So these are loops there, which it compiles to one kernel each.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap
from jax.lax import dynamic_index_in_dim, dynamic_update_index_in_dim

# Bytes that XLA gives a thread: it splits what goes to an array of twice as many, and
# is right where as many are moved.
MAX_BYTES = 2**18


def rows_at(column: jax.Array, index: jax.Array) -> jax.Array:
    """Returns `column[index]`, `[n, ...]`, for `index` `[n]` in range."""
    read = read_one_by_one if are_few(index.size, column) else read_at_once
    return read(column, index)


def with_rows(
    data: Any, rows: Any, time: jax.Array, valid: jax.Array | None = None
) -> Any:
    """Writes row `e` at `[time[e], e]` of each leaf: where `valid[e]`, or each row."""
    which = () if valid is None else (valid,)

    def written(column: jax.Array, row: jax.Array) -> jax.Array:
        words = flat(column)
        if not are_few(time.size, words):
            return write_at_once(column, time, row, *which)
        return write_one_by_one(words, time, row, *which).reshape(column.shape)

    return jax.tree.map(written, data, rows)


def flat(column: jax.Array) -> jax.Array:
    """Makes one axis of the first two."""
    return column.reshape(-1, *column.shape[2:])


def are_few(n: int, rows: jax.Array) -> bool:
    """Whether `n` of many `rows` are packed words that one thread moves faster.

    One row is a slice, and no gather.
    """
    if n == 1 or not is_one_cpu():
        return False
    packed = rows.ndim == 2 and rows.dtype == jnp.uint32
    split = 4 * rows.size >= 2 * MAX_BYTES
    return packed and split and 4 * n * rows.shape[1] <= MAX_BYTES


def is_one_cpu() -> bool:
    """Whether programs run on one CPU device.

    Of several devices, arrays may be split, and no kernel can ask another for a row.
    """
    return jax.default_backend() == "cpu" and jax.device_count() == 1


def read_at_once(column: jax.Array, index: jax.Array) -> jax.Array:
    """Reads rows as XLA does it."""
    return column.at[index].get(mode="promise_in_bounds")


def write_at_once(
    column: jax.Array, time: jax.Array, rows: jax.Array, valid: jax.Array | None = None
) -> jax.Array:
    """Writes rows as XLA does it."""
    if valid is not None:
        # An index past the end is dropped: no read, and no branch.
        time = jnp.where(valid, time, column.shape[0])
    places = column.at[time, jnp.arange(time.size)]
    return places.set(rows, mode="drop", unique_indices=True)


def as_one_kernel(loop: Callable[..., Any], many: Callable[..., Any]) -> Any:
    """Has XLA's CPU backend compile `loop` to one kernel, but `many` if it is vmapped.

    A version that does not know the request compiles the loop as any other.
    """

    # By this name a loop that is split in parts knows it: see kitae.base.bulk.KERNEL.
    @jax.jit
    def one_kernel(*args: Any) -> Any:
        return loop(*args)

    @custom_vmap
    def call(*args: Any) -> Any:
        from jax.experimental.xla_metadata import set_xla_metadata

        outs = one_kernel(*args)
        return set_xla_metadata(outs, inlineable="false", xla_cpu_small_call="true")

    @call.def_vmap
    def of_many(axis_size: int, in_batched: list[bool], *args: Any) -> Any:
        axes = [0 if batched else None for batched in in_batched]
        return jax.vmap(many, in_axes=axes, axis_size=axis_size)(*args), True

    return call


def read_loop(words: jax.Array, index: jax.Array) -> jax.Array:
    """Reads one row after the other."""

    def read(i: jax.Array, rows: jax.Array) -> jax.Array:
        row = dynamic_index_in_dim(words, index[i], keepdims=False)
        return dynamic_update_index_in_dim(rows, row, i, 0)

    rows = jnp.zeros((index.size, words.shape[1]), words.dtype)
    return jax.lax.fori_loop(0, index.size, read, rows)


def write_loop(
    words: jax.Array, time: jax.Array, rows: jax.Array, valid: jax.Array | None = None
) -> jax.Array:
    """Writes one row after the other; `words` has one axis of the first two."""

    def write(env: jax.Array, words: jax.Array) -> jax.Array:
        row, index = rows[env], time[env] * time.size + env
        if valid is not None:
            # What is not to be written is written as it is.
            old = dynamic_index_in_dim(words, index, keepdims=False)
            row = jnp.where(valid[env], row, old)
        return dynamic_update_index_in_dim(words, row, index, 0)

    return jax.lax.fori_loop(0, time.size, write, words)


def write_many(words: jax.Array, time: jax.Array, rows: jax.Array, *which: Any) -> Any:
    """Does as `write_loop`, in a program that is vmapped."""
    column = words.reshape(-1, time.size, words.shape[-1])
    return flat(write_at_once(column, time, rows, *which))


read_one_by_one = as_one_kernel(read_loop, read_at_once)
write_one_by_one = as_one_kernel(write_loop, write_many)
