"""Networks that turn observations into features."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from gymnasium import spaces

from kitae.modules._checks import leading_axes, sizes
from kitae.modules._images import MIN_IMAGE_SIDE, is_channel_first

_VECTOR_HIDDEN_SIZES = (64, 64)
_IMAGE_HIDDEN_SIZES = (512,)

# Batch size of the example that `preprocess_fn` is traced with.
_BATCH = 7


class MLP(nn.Module):
    """Dense layers, each followed by the activation, the last one too.

    Attributes:
        hidden_sizes: Number of units of each layer.
        activation: Function applied after each layer.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from kitae.modules import init_params
        >>> mlp = MLP((32, 16))
        >>> params = init_params(jax.random.key(0), mlp, [(4,)])
        >>> mlp.apply(params, jnp.ones((5, 4))).shape
        (5, 16)
    """

    hidden_sizes: Sequence[int] = _VECTOR_HIDDEN_SIZES
    activation: Callable[[jax.Array], jax.Array] = nn.relu

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps floats of shape [..., n] to [..., hidden_sizes[-1]]."""
        for size in self.hidden_sizes:
            x = self.activation(nn.Dense(size)(x))
        return x


class VectorEncoder(nn.Module):
    """Flattens observations, casts them to float32 and applies an MLP.

    Attributes:
        observation_shape: Shape of one observation.
        hidden_sizes: Units of each dense layer; with none, it only flattens.
        activation: Function applied after each layer.
    """

    observation_shape: Sequence[int]
    hidden_sizes: Sequence[int] = _VECTOR_HIDDEN_SIZES
    activation: Callable[[jax.Array], jax.Array] = nn.relu

    @nn.compact
    def __call__(self, observations: jax.Array) -> jax.Array:
        """Maps [..., *observation_shape] of any dtype to float32 [..., features].

        Raises:
            ValueError: If the last axes are not `observation_shape`.
        """
        observations = jnp.asarray(observations)
        shape = tuple(self.observation_shape)
        lead = leading_axes("observations", observations.shape, shape)
        x = observations.reshape(*lead, math.prod(shape)).astype(jnp.float32)
        return MLP(self.hidden_sizes, self.activation)(x)


class DiscreteEncoder(nn.Module):
    """One-hot encoding of the observations of a Discrete space, then an MLP.

    A value outside the space gives a row of zeros: compiled code cannot refuse it.

    Attributes:
        n: Number of values.
        start: Smallest value.
        hidden_sizes: Units of each dense layer; with none, it is only one-hot.
        activation: Function applied after each layer.
    """

    n: int
    start: int = 0
    hidden_sizes: Sequence[int] = _VECTOR_HIDDEN_SIZES
    activation: Callable[[jax.Array], jax.Array] = nn.relu

    @nn.compact
    def __call__(self, observations: jax.Array) -> jax.Array:
        """Maps whole numbers of shape [...] to float32 [..., features]."""
        index = jnp.asarray(observations).astype(jnp.int32) - self.start
        x = jax.nn.one_hot(index, self.n, dtype=jnp.float32)
        return MLP(self.hidden_sizes, self.activation)(x)


class NatureCNN(nn.Module):
    """The convolutional network of Mnih et al. (2015), Methods, "Model architecture".

    Convolutions of 32 filters 8x8 with stride 4, 64 filters 4x4 with stride 2 and 64
    filters 3x3 with stride 1, without padding, then dense layers; a ReLU after each.
    Parameters do not depend on the layout of the images.

    Attributes:
        hidden_sizes: Units of each dense layer after the convolutions.
        channel_first: True for images [channels, height, width], False for [height,
            width, channels]. None: found from the shape, where only one end is too
            small (below 36 pixels) to be a side of the image.
        observation_shape: Shape of one image. None: any.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> cnn = NatureCNN()
        >>> images = jnp.zeros((2, 4, 84, 84), jnp.uint8)
        >>> features, params = jax.eval_shape(
        ...     cnn.init_with_output, jax.random.key(0), images
        ... )
        >>> features.shape
        (2, 512)
    """

    hidden_sizes: Sequence[int] = _IMAGE_HIDDEN_SIZES
    channel_first: bool | None = None
    observation_shape: Sequence[int] | None = None

    @nn.compact
    def __call__(self, observations: jax.Array) -> jax.Array:
        """Maps images [..., *image shape] to float32 [..., features].

        uint8 is divided by 255; other dtypes are cast to float32 as they are.

        Raises:
            ValueError: If the last axes are not `observation_shape`, if the image is
                too small, or if its layout cannot be told from its shape.
        """
        observations = jnp.asarray(observations)
        shape = self.observation_shape
        shape = tuple(observations.shape[-3:] if shape is None else shape)
        lead = leading_axes("observations", observations.shape, shape)
        x = observations.reshape(math.prod(lead), *shape)
        if is_channel_first(shape, self.channel_first):
            x = jnp.moveaxis(x, 1, -1)
        scale = 255.0 if x.dtype == jnp.uint8 else 1.0
        x = x.astype(jnp.float32) / scale
        for features, size, stride in ((32, 8, 4), (64, 4, 2), (64, 3, 1)):
            conv = nn.Conv(features, (size, size), (stride, stride), padding="VALID")
            x = nn.relu(conv(x))
        return MLP(self.hidden_sizes)(x.reshape(*lead, math.prod(x.shape[1:])))


class PreprocessedEncoder(nn.Module):
    """An encoder behind a function of the observations.

    Attributes:
        encoder: The encoder of what `preprocess_fn` returns.
        preprocess_fn: Maps [batch, *observation_shape] to [batch, ...].
        observation_shape: Shape of one observation before `preprocess_fn`.
    """

    encoder: nn.Module
    preprocess_fn: Callable[[jax.Array], jax.Array]
    observation_shape: Sequence[int]

    @nn.compact
    def __call__(self, observations: jax.Array) -> jax.Array:
        """Maps [..., *observation_shape] to float32 [..., features].

        Raises:
            ValueError: If the last axes are not `observation_shape`.
        """
        observations = jnp.asarray(observations)
        shape = tuple(self.observation_shape)
        lead = leading_axes("observations", observations.shape, shape)
        batch = observations.reshape(math.prod(lead), *shape)
        features = self.encoder(self.preprocess_fn(batch))
        return features.reshape(*lead, features.shape[-1])


def encoder_factory(
    observation_space: spaces.Space,
    *,
    hidden_sizes: Sequence[int] | None = None,
    preprocess_fn: Callable[[jax.Array], jax.Array] | None = None,
    channel_first: bool | None = None,
) -> nn.Module:
    """Chooses the encoder of an observation space.

    A Box of up to two axes gets a `VectorEncoder`, one of three axes the `NatureCNN`,
    a Discrete space a one-hot `DiscreteEncoder`. Behind a `preprocess_fn`, the shape
    and dtype of what it returns decide, as if they were those of a Box.

    Args:
        observation_space: Gymnasium space of one observation: a Box or a Discrete.
        hidden_sizes: Units of each dense layer, those after the convolutions for an
            image; `()` for none. None: (64, 64), and (512,) for an image.
        preprocess_fn: Function applied first, inside the network, to observations
            [batch, *shape] of the space's dtype. It returns one array [batch, ...].
        channel_first: Layout of an image, see `NatureCNN`.

    Returns:
        A module that maps observations [..., *shape] to float32 [..., features].

    Raises:
        TypeError: If the space is neither Box nor Discrete, or an argument has another
            type.
        ValueError: If an observation has a shape that no encoder takes, if the layout
            of an image cannot be told, if `channel_first` is given without an image,
            or if `preprocess_fn` does not keep the batch axis.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from gymnasium import spaces
        >>> from kitae.modules import init_params
        >>> encoder = encoder_factory(spaces.Discrete(16), hidden_sizes=(32,))
        >>> params = init_params(jax.random.key(0), encoder, [()])
        >>> encoder.apply(params, jnp.array([3, 15])).shape
        (2, 32)
    """
    if not isinstance(observation_space, (spaces.Box, spaces.Discrete)):
        raise TypeError(
            f"observation_space must be a Box or a Discrete, got {observation_space!r}"
        )
    if hidden_sizes is not None:
        hidden_sizes = sizes("hidden_sizes", hidden_sizes)
    if channel_first is not None and not isinstance(channel_first, bool):
        raise TypeError(f"channel_first must be a bool or None, got {channel_first!r}")
    shape = tuple(observation_space.shape or ())
    dtype = jax.dtypes.canonicalize_dtype(observation_space.dtype)
    if preprocess_fn is not None:
        output = _preprocessed(preprocess_fn, shape, dtype)
        inner = _array_encoder(
            output.shape[1:], output.dtype, hidden_sizes, channel_first
        )
        return PreprocessedEncoder(inner, preprocess_fn, shape)
    if isinstance(observation_space, spaces.Box):
        return _array_encoder(shape, dtype, hidden_sizes, channel_first)
    _refuse_layout(channel_first, shape)
    n, start = int(observation_space.n), int(observation_space.start)
    return DiscreteEncoder(n, start, _default(hidden_sizes, _VECTOR_HIDDEN_SIZES))


def _array_encoder(
    shape: tuple[int, ...],
    dtype: Any,
    hidden_sizes: tuple[int, ...] | None,
    channel_first: bool | None,
) -> nn.Module:
    if 0 in shape:
        raise ValueError(f"Observations of shape {shape} are empty")
    if len(shape) == 3:
        layout = is_channel_first(shape, channel_first)
        return NatureCNN(_default(hidden_sizes, _IMAGE_HIDDEN_SIZES), layout, shape)
    _refuse_layout(channel_first, shape)
    pixels = len(shape) == 2 and dtype == jnp.uint8 and min(shape) >= MIN_IMAGE_SIDE
    if pixels or len(shape) > 3:
        raise ValueError(
            f"Observations of shape {shape} and dtype {dtype} are neither vectors nor "
            "images with three axes: reshape them in preprocess_fn, to [batch, "
            "features] or to [batch, height, width, channels]"
        )
    return VectorEncoder(shape, _default(hidden_sizes, _VECTOR_HIDDEN_SIZES))


def _default(
    hidden_sizes: tuple[int, ...] | None, default: tuple[int, ...]
) -> tuple[int, ...]:
    return default if hidden_sizes is None else hidden_sizes


def _refuse_layout(channel_first: bool | None, shape: tuple[int, ...]) -> None:
    if channel_first is not None:
        raise ValueError(
            f"channel_first={channel_first} is for images with three axes, and an "
            f"observation has the shape {shape}"
        )


def _preprocessed(
    preprocess_fn: Callable[[jax.Array], jax.Array], shape: tuple[int, ...], dtype: Any
) -> jax.ShapeDtypeStruct:
    """Traces `preprocess_fn` and returns the shape and dtype of its output."""
    if not callable(preprocess_fn):
        raise TypeError(f"preprocess_fn must be callable, got {preprocess_fn!r}")
    batch = jax.ShapeDtypeStruct((_BATCH, *shape), dtype)
    try:
        # Behind a lambda, since jax cannot trace every kind of callable.
        output = jax.eval_shape(lambda x: preprocess_fn(x), batch)
    except Exception as error:
        error.add_note(f"Raised by preprocess_fn, traced by jax with {batch}")
        raise
    if not isinstance(output, jax.ShapeDtypeStruct) or output.shape[:1] != (_BATCH,):
        raise ValueError(
            "preprocess_fn must return one array and keep the batch axis: it returned "
            f"{output} for {batch}"
        )
    return output
