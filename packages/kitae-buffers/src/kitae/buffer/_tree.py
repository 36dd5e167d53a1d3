"""Priorities of rows as sums of sums: one tree for each environment.

A node is the sum of `FAN_OUT` nodes of the level below. After a change, the nodes
above are added up anew, never corrected by a difference, so that errors of rounding
do not pile up. Environments stay apart up to their roots: they are an axis.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.lax import dynamic_slice, dynamic_update_slice, fori_loop

from kitae.buffer import _switches
from kitae.buffer._random import random_uniform
from kitae.buffer._rows import are_few, as_one_kernel, is_one_cpu

# Of 4, 8, 16 and 32 the fastest on a CPU, for adding and drawing together.
FAN_OUT = 8

# A sum times this is less than the sum. So a draw below it ends at a last child that is
# not empty, however `u * sum` is rounded.
BELOW_ONE = 1.0 - 2.0**-23


class Priorities(NamedTuple):
    """What rows are drawn by.

    Attributes:
        levels: Float32 sums, each level `[n_envs, n_nodes]`: the priorities of the
            rows first, 0 for a place that is not to be drawn, then sums of `FAN_OUT`
            at a time. Widths are padded to multiples of `FAN_OUT` with zeros.
        largest: `[n_envs]` float32, the largest priority seen so far; the same for
            all environments that are held together.
    """

    levels: tuple[jax.Array, ...]
    largest: jax.Array


def empty_priorities(capacity: int, n_envs: int) -> Priorities:
    """Makes priorities of 0 for `capacity` places in each environment."""
    levels, n_nodes = [], capacity
    while not levels or n_nodes > 1:
        n_nodes = -(-n_nodes // FAN_OUT)
        levels.append(jnp.zeros((n_envs, n_nodes * FAN_OUT), jnp.float32))
    return Priorities(tuple(levels), jnp.ones(n_envs, jnp.float32))


def children(level: jax.Array, env: jax.Array, node: jax.Array) -> jax.Array:
    """Gathers the `[n, FAN_OUT]` children of nodes `[n]` of the level above."""
    n_nodes = level.shape[1] // FAN_OUT
    return level.reshape(-1, FAN_OUT)[env * n_nodes + node]


def summed_up(children: jax.Array) -> jax.Array:
    """Adds up `[n, FAN_OUT]` children, in their order: to the same bits everywhere."""
    return functools.reduce(jnp.add, jnp.unstack(children, axis=1))


def set_leaves(
    levels: tuple[jax.Array, ...],
    index: jax.Array,
    value: jax.Array,
    valid: jax.Array,
) -> tuple[jax.Array, ...]:
    """Writes leaves and adds up what is above them.

    Of a leaf given twice the larger value is kept, whatever the order of writing is: so
    the result is the same on every device.

    Args:
        levels: The tree.
        index: `[n]` int32, `leaf * n_envs + env`, in range.
        value: `[n]` float32, at least 0.
        valid: `[n]` bool, which of them to write.
    """
    write = write_one_by_one if are_few(index.size) else write_at_once
    return write(levels, index, value, valid)


def write_loop(
    levels: tuple[jax.Array, ...],
    index: jax.Array,
    value: jax.Array,
    valid: jax.Array,
) -> tuple[jax.Array, ...]:
    """Writes one leaf after the other."""
    n_envs = levels[0].shape[0]

    def place_of(i: jax.Array) -> tuple[jax.Array, jax.Array]:
        # What may be negative takes several times as many operations to look up.
        place = index[i].astype(jnp.uint32)
        return place % n_envs, place // n_envs

    def write(leaves: jax.Array, i: jax.Array, change: Callable[..., Any]) -> jax.Array:
        place = place_of(i)
        old = dynamic_slice(leaves, place, (1, 1))
        new = jnp.where(valid[i], change(old, value[i]), old)
        return dynamic_update_slice(leaves, new, place)

    def empty(i: jax.Array, leaves: jax.Array) -> jax.Array:
        return write(leaves, i, lambda old, _: jnp.zeros_like(old))

    def fill(i: jax.Array, leaves: jax.Array) -> jax.Array:
        return write(leaves, i, jnp.maximum)

    def add_up(i: jax.Array, levels: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        env, node = place_of(i)
        summed = [levels[0]]
        for level in levels[1:]:
            node = node // FAN_OUT
            below = dynamic_slice(summed[-1], (env, node * FAN_OUT), (1, FAN_OUT))
            total = summed_up(below)[:, None]
            summed.append(dynamic_update_slice(level, total, (env, node)))
        return tuple(summed)

    first, end = jnp.uint32(0), jnp.uint32(index.size)
    leaves = fori_loop(first, end, empty, levels[0])
    leaves = fori_loop(first, end, fill, leaves)
    return fori_loop(first, end, add_up, (leaves, *levels[1:]))


def write_at_once(
    levels: tuple[jax.Array, ...],
    index: jax.Array,
    value: jax.Array,
    valid: jax.Array,
) -> tuple[jax.Array, ...]:
    """Writes all leaves, then all nodes of a level."""
    n_envs, width = levels[0].shape
    env, node = index % n_envs, index // n_envs
    place = jnp.where(valid, node, width)  # past the end: dropped
    leaves = levels[0].at[env, place].set(0.0, mode="drop")
    summed = [leaves.at[env, place].max(value, mode="drop")]
    for level in levels[1:]:
        node = node // FAN_OUT
        total = summed_up(children(summed[-1], env, node))
        summed.append(level.at[env, node].set(total))
    return tuple(summed)


write_one_by_one = as_one_kernel(write_loop, write_at_once)


def draw_leaves(
    levels: tuple[jax.Array, ...], key: jax.Array, n: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Draws `n` leaves, each with probability proportional to its value.

    The draws are stratified: the `i`-th falls in the `i`-th of `n` equal parts of the
    sum (Schaul et al., 2016, appendix B.2.1), which varies less than plain draws. The
    24 bits of one float would favour some of a million leaves, so the last step has
    random bits of its own.

    Returns:
        env: `[n]` int32.
        leaf: `[n]` int32, of a value above 0, if there is any.
        probability: `[n]` float32, of one plain draw: value over sum.
    """
    random, last_random = random_uniform(key, (2, n))
    part = (jnp.arange(n, dtype=jnp.float32) + random) / n
    env, total, part = draw_env(jnp.sum(levels[-1], axis=1), part)
    node = jnp.zeros(n, jnp.int32)
    for level in reversed(levels):
        part = last_random if level is levels[0] else part
        node, part = descend_if(total > 0, level, env, node, part)
    return env, node, levels[0][env, node] / total


def descend(
    level: jax.Array, env: jax.Array, node: jax.Array, part: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Goes from nodes `[n]` of the level above to one of the children of each."""
    child, part = draw_child(children(level, env, node), part)
    return node * FAN_OUT + child, part


def descend_if(
    there_are_any: jax.Array,
    level: jax.Array,
    env: jax.Array,
    node: jax.Array,
    part: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Descends; on a CPU, only if there is any row to be drawn.

    What it is for is that XLA computes a branch by itself: else it puts all levels so
    far in the kernel of the next one, which then computes them for each child anew.
    Devices other than CPUs would wait for the host to learn which branch to take.
    """
    if not (is_one_cpu() and _switches.active("one-kernel")):
        return descend(level, env, node, part)
    at = level, env, node, part
    return jax.lax.cond(there_are_any, descend, lambda *at: at[2:], *at)


def draw_env(
    roots: jax.Array, part: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Draws environments by their roots `[n_envs]`; see `draw_child` for `part`.

    Returns:
        env: `[n]` int32.
        total: Float32 sum of the roots.
        part: `[n]` float32, how far the draw goes into the environment.
    """
    # A cumulative sum is rounded in an order of the compiler's: the maximum makes it
    # rise nowhere but at an environment that is not empty.
    ends = jax.lax.cummax(jnp.where(roots > 0, jnp.cumsum(roots), 0.0))
    starts = jnp.concatenate([jnp.zeros(1, ends.dtype), ends[:-1]])
    total = ends[-1]
    target = jnp.minimum(part * total, total * BELOW_ONE)
    env = jnp.searchsorted(ends, target, side="right", method="compare_all")
    env = jnp.minimum(env.astype(jnp.int32), roots.size - 1)
    return env, total, (target - starts[env]) / (ends[env] - starts[env])


def draw_child(weights: jax.Array, part: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Draws one of the children in proportion to their weights.

    Args:
        weights: `[n, FAN_OUT]` float32, at least 0.
        part: `[n]` float32 from 0 to 1: how far to go into the sum of the weights.

    Returns:
        child: `[n]` int32, of a weight above 0, if there is any.
        part: `[n]` float32 from 0 to 1, how far that goes into the child.
    """
    # One column after the other: an empty child adds nothing, not even by rounding,
    # and a short unrolled loop is far faster than `cumsum` along a short axis.
    total, ends = jnp.zeros_like(part), []
    for column in range(FAN_OUT):
        total = total + weights[:, column]
        ends.append(total)
    target = jnp.minimum(part * total, total * BELOW_ONE)
    child, start, end = jnp.zeros(part.shape, jnp.int32), jnp.zeros_like(part), total
    for passed in ends[:-1]:
        child = child + (passed <= target).astype(jnp.int32)
        start = jnp.where(passed <= target, passed, start)
    for passed in reversed(ends[:-1]):
        end = jnp.where(passed <= target, end, passed)
    return child, (target - start) / (end - start)
