"""Random streams that share nothing: one per purpose, environment and restart."""

from enum import IntEnum

import jax
import numpy as np


class Stream(IntEnum):
    """What random numbers are for. The numbers are part of every seed's meaning."""

    INIT = 0
    INTERACT = 1
    LEARN = 2
    EVALUATE = 3
    TRAIN_ENV = 4
    EVALUATE_ENV = 5


def stream_key(seed: int, stream: Stream) -> jax.Array:
    """Makes the key of one stream of a seed.

    Example:
        >>> a, b = stream_key(0, Stream.INIT), stream_key(0, Stream.LEARN)
        >>> bool((jax.random.key_data(a) == jax.random.key_data(b)).all())
        False
    """
    return jax.random.fold_in(jax.random.key(seed), stream)


def env_seed(seed: int, stream: Stream, restart: int = 0) -> np.random.SeedSequence:
    """Makes the source of the environments' seeds.

    Adding numbers to a seed would make environment 1 of seed 0 the same as
    environment 0 of seed 1; a hashed sequence keeps all of them apart.

    Args:
        seed: The config's.
        stream: Which environments.
        restart: What tells one reset of all environments from another: the
            environment steps taken before it.

    Example:
        >>> a = env_seed(0, Stream.TRAIN_ENV).generate_state(2)
        >>> b = env_seed(1, Stream.TRAIN_ENV).generate_state(2)
        >>> len({*a.tolist(), *b.tolist()})
        4
    """
    high, low = divmod(restart, 2**32)
    return np.random.SeedSequence(seed, spawn_key=(int(stream), low, high))
