"""Random keys with a type, as plain numbers and back.

Typed keys take a slower way into a program, and no index reads one of many in a loop as
quickly as it reads numbers.
"""

from typing import Any

import jax
import jax.numpy as jnp


def is_key(value: Any) -> bool:
    """Whether these are random keys with a type."""
    return jnp.issubdtype(value.dtype, jax.dtypes.prng_key)


def key_impl(value: Any) -> Any:
    """Returns the generator of these keys; None if they are not keys."""
    return jax.random.key_impl(value) if is_key(value) else None


def plain(value: Any) -> jax.Array:
    """Returns keys as the numbers they are made of, and other arrays unchanged."""
    return jax.random.key_data(value) if is_key(value) else value


def typed(value: jax.Array, impl: Any) -> jax.Array:
    """Undoes `plain`."""
    return value if impl is None else jax.random.wrap_key_data(value, impl=impl)
