"""Convolutional networks that turn images into features."""

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from kitae.modules._checks import leading_axes, positive_int
from kitae.modules._images import MIN_IMAGE_SIDE, is_channel_first
from kitae.modules.dense import MLP
from kitae.modules.spectral import spectral_normalize


class ImageEncoder(nn.Module):
    """What encoders of images share: a subclass writes `convolve`.

    Parameters do not depend on the layout of the images.

    Attributes:
        hidden_sizes: Units of each dense layer after the convolutions.
        channel_first: True for images `[channels, height, width]`, False for
            `[height, width, channels]`. None: found from the shape, where only one end
            is too small (below 36 pixels) to be a side of the image.
        observation_shape: Shape of one image. None: any.
        layer_norm: Normalise each layer before its activation, as PQN does (Gallici
            et al., 2024).
    """

    hidden_sizes: Sequence[int] = (512,)
    channel_first: bool | None = None
    observation_shape: Sequence[int] | None = None
    layer_norm: bool = False

    # Pixels of the smallest height and width that `convolve` takes.
    min_side: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if self.observation_shape is not None:
            # An image of another size is refused here, not at the first call.
            self.channel_first = is_channel_first(
                self.observation_shape, self.channel_first, self.min_side
            )
        super().__post_init__()

    @nn.compact
    def __call__(self, observations: jax.Array) -> jax.Array:
        """Maps images `[..., *image shape]` to float32 `[..., features]`.

        uint8 is divided by 255; other dtypes are cast to float32 as they are.

        Raises:
            ValueError: If the last axes are not `observation_shape`, if the image is
                too small, or if its layout cannot be inferred.
        """
        observations = jnp.asarray(observations)
        shape = self.observation_shape
        shape = tuple(observations.shape[-3:] if shape is None else shape)
        lead = leading_axes("observations", observations.shape, shape)
        x = observations.reshape(math.prod(lead), *shape)
        if is_channel_first(shape, self.channel_first, self.min_side):
            x = jnp.moveaxis(x, 1, -1)
        scale = 255.0 if x.dtype == jnp.uint8 else 1.0
        x = self.convolve(x.astype(jnp.float32) / scale)
        x = x.reshape(*lead, math.prod(x.shape[1:]))
        return MLP(self.hidden_sizes, layer_norm=self.layer_norm)(x)

    def convolve(self, x: jax.Array) -> jax.Array:
        """Maps `[batch, height, width, channels]` to `[batch, ...]`, activated."""
        raise NotImplementedError(f"{type(self).__qualname__} must write convolve")


class NatureCNN(ImageEncoder):
    """The convolutional network of Mnih et al. (2015), Methods, "Model architecture".

    Convolutions of 32 filters 8x8 with stride 4, 64 filters 4x4 with stride 2 and 64
    filters 3x3 with stride 1, without padding, then dense layers; a ReLU after each.
    With `layer_norm`, a convolution is normalised over the channels of each position,
    so that parameters depend on no size of the image.

    Attributes:
        hidden_sizes: Units of each dense layer after the convolutions.
        channel_first: Layout of the images, see `ImageEncoder`.
        observation_shape: Shape of one image, sides of at least 36. None: any.
        layer_norm: Normalise each layer before its ReLU.

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

    min_side: ClassVar[int] = MIN_IMAGE_SIDE

    def convolve(self, x: jax.Array) -> jax.Array:
        """Maps float32 [batch, height, width, channels] to [batch, h, w, 64]."""
        for features, size, stride in ((32, 8, 4), (64, 4, 2), (64, 3, 1)):
            conv = nn.Conv(features, (size, size), (stride, stride), padding="VALID")
            x = conv(x)
            x = nn.LayerNorm()(x) if self.layer_norm else x
            x = nn.relu(x)
        return x


class ImpalaCNN(ImageEncoder):
    """The residual network of Espeholt et al. (2018), fig. 3 (right), without its LSTM.

    Three sections of 16, 32 and 32 filters, times `width`: a convolution 3x3, a
    maximum over 3x3 with stride 2, and two residual blocks of two convolutions; a ReLU
    comes before each convolution of a block and after the last section. Dense layers
    follow. Beyond the Rainbow (Clark et al., 2024) is `width=2, spectral_norm=True,
    pool_size=6` and dense layers of 512.

    Attributes:
        hidden_sizes: Units of each dense layer after the convolutions.
        channel_first: Layout of the images, see `ImageEncoder`. Given, sides below 36
            are taken too.
        observation_shape: Shape of one image. None: any.
        layer_norm: Normalise each dense layer before its ReLU; convolutions are left
            as they are.
        width: Factor of the number of filters, at least 1.
        spectral_norm: Divide the kernels in the residual blocks by their largest
            singular value, see `spectral_normalize`.
        pool_size: Side to which height and width are reduced by a maximum over each
            cell before the dense layers, so that their parameters depend on no size
            of the image. None: no such reduction.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> cnn = ImpalaCNN(width=2, spectral_norm=True, pool_size=6)
        >>> images = jnp.zeros((2, 4, 84, 84), jnp.uint8)
        >>> features, params = jax.eval_shape(
        ...     cnn.init_with_output, jax.random.key(0), images
        ... )
        >>> features.shape, params["params"]["MLP_0"]["Dense_0"]["kernel"].shape
        ((2, 256), (2304, 256))
    """

    hidden_sizes: Sequence[int] = (256,)
    width: int = 1
    spectral_norm: bool = False
    pool_size: int | None = None

    def __post_init__(self) -> None:
        positive_int("width", self.width)
        if self.pool_size is not None:
            positive_int("pool_size", self.pool_size)
        super().__post_init__()

    def convolve(self, x: jax.Array) -> jax.Array:
        """Maps float32 [batch, height, width, channels] to [batch, h, w, features]."""
        for n_filters in (16, 32, 32):
            features = n_filters * self.width
            x = nn.Conv(features, (3, 3))(x)
            x = nn.max_pool(x, (3, 3), (2, 2), "SAME")
            for _ in range(2):
                x = x + self._residual(self._residual(x, features), features)
        x = nn.relu(x)
        return x if self.pool_size is None else _adaptive_max(x, self.pool_size)

    def _residual(self, x: jax.Array, features: int) -> jax.Array:
        convolution = _normalized_convolution if self.spectral_norm else None
        conv = nn.Conv(features, (3, 3), conv_general_dilated=convolution)
        return conv(nn.relu(x))


def _normalized_convolution(
    inputs: jax.Array, kernel: jax.Array, *args: Any, **kwargs: Any
) -> jax.Array:
    kernel = spectral_normalize(kernel)
    return jax.lax.conv_general_dilated(inputs, kernel, *args, **kwargs)


def _adaptive_max(x: jax.Array, size: int) -> jax.Array:
    """Reduces both sides of [batch, height, width, channels] to `size`.

    Cell `i` of a side of `n` is the maximum from `floor(i n / size)` to before
    `ceil((i + 1) n / size)`; cells overlap where `size` does not divide `n`.
    """
    for axis in (1, 2):
        n = x.shape[axis]
        cells = [
            jax.lax.slice_in_dim(x, i * n // size, -(-(i + 1) * n // size), axis=axis)
            for i in range(size)
        ]
        x = jnp.stack([cell.max(axis) for cell in cells], axis)
    return x
