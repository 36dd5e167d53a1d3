"""The numbers of `jax.random`, bit for bit, in fewer operations.

JAX's generator, Threefry-2x32 (Salmon et al., "Parallel random numbers: as easy as
1, 2, 3", 2011), is a loop of five groups of rounds, and on a CPU a loop costs more than
the few numbers of a batch. Here the rounds are written out, so that they become one
operation together with what is done with the numbers.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp

ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
PARITY = 0x1BD11BDA

# Of more numbers than these, the loop's own cost does not matter.
MOST = 4_096


def random_bits(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Returns `jax.random.bits(key, shape)`, uint32."""
    if math.prod(shape) > MOST or not _is_threefry(key):
        return jax.random.bits(key, shape)
    return _threefry(jax.random.key_data(key), shape)


@partial(jax.jit, static_argnums=1)
def _threefry(key_data: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    first, second = key_data
    keys = first, second, first ^ second ^ jnp.uint32(PARITY)
    # Each number has a counter of 64 bits, of which the upper half stays 0 here.
    count = jnp.arange(math.prod(shape), dtype=jnp.uint32)
    a, b = jnp.zeros_like(count) + keys[0], count + keys[1]
    for group in range(5):
        for rotation in ROTATIONS[group % 2]:
            a = a + b
            b = a ^ ((b << rotation) | (b >> (32 - rotation)))
        a = a + keys[(group + 1) % 3]
        b = b + keys[(group + 2) % 3] + jnp.uint32(group + 1)
    return (a ^ b).reshape(shape)


def random_uniform(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Returns `jax.random.uniform(key, shape)`, float32 in [0, 1)."""
    # The upper 23 bits, as the fraction of a number from 1 to 2.
    one = jnp.uint32(0x3F800000)
    bits = (random_bits(key, shape) >> 9) | one
    return jax.lax.bitcast_convert_type(bits, jnp.float32) - 1.0


def _is_threefry(key: jax.Array) -> bool:
    """Whether JAX would draw from this key as is done here."""
    partitionable: bool = getattr(jax.config, "jax_threefry_partitionable")  # noqa: B009, unknown to type checkers
    return (
        partitionable
        and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
        and str(jax.random.key_impl(key)) == "threefry2x32"
    )
