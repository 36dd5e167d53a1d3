"""The trick `drawn-bits`: the bits of JAX's generator, from one kernel.

Where a program runs on a CPU, JAX writes the twenty rounds of Threefry as a loop, which
XLA compiles to some twenty kernels that run five times each: for a batch of indices,
starting them takes longer than computing them. Written out, the rounds are one kernel.

It keeps a program short enough for the caller's thread, which need not be woken. By
itself, a call that draws 256 rows from a uniform replay takes 30 µs, without it 130.
Trainings, which draw inside a larger program, take as long without it.

Plain path: `jax.random.bits` and `jax.random.uniform`. Results are the same bits.
"""

import math

import jax
import jax.numpy as jnp

from kitae.buffer import _switches
from kitae.buffer._rows import by_parts

ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
PARITY = 0x1BD11BDA
# A float's exponent for `[1, 2)`, and how many of its bits are others.
ONE, N_OTHERS = 0x3F800000, 9


def random_bits(
    key: jax.Array, shape: tuple[int, ...], part: int | None = None
) -> jax.Array:
    """Draws the uint32 numbers that `jax.random.bits(key, shape)` draws.

    Args:
        key: A random key.
        shape: Of the numbers.
        part: How many at a time; see `by_parts`.
    """
    n = math.prod(shape)
    if not (
        jax.default_backend() == "cpu"
        # A version without this option has only the way that it switches on.
        and getattr(jax.config, "jax_threefry_partitionable", True)
        and str(jax.random.key_impl(key)) == "threefry2x32"
        and n < 2**32
        and _switches.active("drawn-bits")
    ):
        return jax.random.bits(key, shape, jnp.uint32)
    count = jax.lax.iota(jnp.uint32, n)
    return by_parts(bits_of, part, jax.random.key_data(key), count).reshape(shape)


def bits_of(words: jax.Array, count: jax.Array) -> jax.Array:
    """Hashes numbers from 0 on by the two words of a key."""
    high, low = threefry(words[0], words[1], jnp.zeros_like(count), count)
    return high ^ low


def random_uniform(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Draws the float32 numbers that `jax.random.uniform(key, shape)` draws."""
    bits = (random_bits(key, shape) >> N_OTHERS) | ONE
    return jax.lax.bitcast_convert_type(bits, jnp.float32) - 1.0


def threefry(
    key0: jax.Array, key1: jax.Array, x0: jax.Array, x1: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Hashes pairs of uint32 by Threefry-2x32 of twenty rounds.

    Salmon et al. ("Parallel random numbers: as easy as 1, 2, 3", 2011), section 3.3.
    """
    keys = key0, key1, key0 ^ key1 ^ PARITY
    x0, x1 = x0 + keys[0], x1 + keys[1]
    for i in range(5):
        for rotation in ROTATIONS[i % 2]:
            x0 = x0 + x1
            x1 = ((x1 << rotation) | (x1 >> (32 - rotation))) ^ x0
        x0, x1 = x0 + keys[(i + 1) % 3], x1 + keys[(i + 2) % 3] + jnp.uint32(i + 1)
    return x0, x1
