"""Networks that turn vectors and whole numbers into features."""

import math
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from kitae.modules._checks import leading_axes
from kitae.modules.dense import MLP, VECTOR_HIDDEN_SIZES


class VectorEncoder(nn.Module):
    """Flattens observations, casts them to float32 and applies an MLP.

    Attributes:
        observation_shape: Shape of one observation.
        hidden_sizes: Units of each dense layer; with none, it only flattens.
        activation: Function applied after each layer.
        layer_norm: Normalise each layer before its activation.
    """

    observation_shape: Sequence[int]
    hidden_sizes: Sequence[int] = VECTOR_HIDDEN_SIZES
    activation: Callable[[jax.Array], jax.Array] = nn.relu
    layer_norm: bool = False

    @nn.compact
    def __call__(self, observations: jax.Array) -> jax.Array:
        """Maps `[..., *observation_shape]` of any dtype to float32 `[..., features]`.

        Raises:
            ValueError: If the last axes are not `observation_shape`.
        """
        observations = jnp.asarray(observations)
        shape = tuple(self.observation_shape)
        lead = leading_axes("observations", observations.shape, shape)
        x = observations.reshape(*lead, math.prod(shape)).astype(jnp.float32)
        return MLP(self.hidden_sizes, self.activation, self.layer_norm)(x)


class DiscreteEncoder(nn.Module):
    """One-hot encoding of the observations of a Discrete space, then an MLP.

    A value outside the space gives a row of zeros: compiled code cannot refuse it.

    Attributes:
        n: Number of values.
        start: Smallest value.
        hidden_sizes: Units of each dense layer; with none, it is only one-hot.
        activation: Function applied after each layer.
        layer_norm: Normalise each layer before its activation.
    """

    n: int
    start: int = 0
    hidden_sizes: Sequence[int] = VECTOR_HIDDEN_SIZES
    activation: Callable[[jax.Array], jax.Array] = nn.relu
    layer_norm: bool = False

    @nn.compact
    def __call__(self, observations: jax.Array) -> jax.Array:
        """Maps whole numbers of shape `[...]` to float32 `[..., features]`."""
        index = jnp.asarray(observations).astype(jnp.int32) - self.start
        x = jax.nn.one_hot(index, self.n, dtype=jnp.float32)
        return MLP(self.hidden_sizes, self.activation, self.layer_norm)(x)


class MultiDiscreteEncoder(nn.Module):
    """One-hot encodings of a MultiDiscrete space's components, joined, then an MLP.

    A component outside its range gives zeros: compiled code cannot refuse it.

    Attributes:
        nvec: Number of values of each component, in row-major order.
        start: Smallest value of each component; as long as `nvec`.
        observation_shape: Shape of one observation; None: one axis.
        hidden_sizes: Units of each dense layer; with none, it is only one-hot.
        layer_norm: Normalise each layer before its activation.

    Examples:
        >>> import jax.numpy as jnp
        >>> encoder = MultiDiscreteEncoder((2, 3), (0, 0), hidden_sizes=())
        >>> encoder.apply({}, jnp.array([1, 0])).tolist()
        [0.0, 1.0, 1.0, 0.0, 0.0]
    """

    nvec: Sequence[int]
    start: Sequence[int]
    observation_shape: Sequence[int] | None = None
    hidden_sizes: Sequence[int] = VECTOR_HIDDEN_SIZES
    layer_norm: bool = False

    @nn.compact
    def __call__(self, observations: jax.Array) -> jax.Array:
        """Maps whole numbers `[..., *observation_shape]` to float32 `[..., features]`.

        Raises:
            ValueError: If the last axes are not `observation_shape`.
        """
        observations = jnp.asarray(observations)
        n_parts = len(self.nvec)
        shape = self.observation_shape
        shape = (n_parts,) if shape is None else tuple(shape)
        lead = leading_axes("observations", observations.shape, shape)
        parts = observations.reshape(*lead, n_parts).astype(jnp.int32)
        # Column by column: the component that it belongs to, the value it stands for.
        owners = np.repeat(np.arange(n_parts), self.nvec)
        ranges = zip(self.nvec, self.start, strict=True)
        values = np.concatenate([start + np.arange(n) for n, start in ranges])
        values = values.astype(np.int32).reshape((1,) * len(lead) + (-1,))
        x = (parts[..., owners] == values).astype(jnp.float32)
        return MLP(self.hidden_sizes, layer_norm=self.layer_norm)(x)
