"""The encoder of an observation space: which network turns what into features."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from gymnasium import spaces

from kitae.modules._checks import boolean, sizes
from kitae.modules._images import MIN_IMAGE_SIDE
from kitae.modules.dense import MLP, VECTOR_HIDDEN_SIZES
from kitae.modules.images import ImageEncoder, ImpalaCNN, NatureCNN
from kitae.modules.joint import (
    DictEncoder,
    PreprocessedEncoder,
    TupleEncoder,
    has_image,
    innermost,
)
from kitae.modules.masks import ACTION_MASK
from kitae.modules.observations import observation_spec
from kitae.modules.vectors import DiscreteEncoder, MultiDiscreteEncoder, VectorEncoder

__all__ = [
    "MLP",
    "DictEncoder",
    "DiscreteEncoder",
    "ImageEncoder",
    "ImpalaCNN",
    "MultiDiscreteEncoder",
    "NatureCNN",
    "PreprocessedEncoder",
    "TupleEncoder",
    "VectorEncoder",
    "encoder_factory",
    "split_encoder",
]

# Batch size of the example that `preprocess_fn` is traced with.
_BATCH = 7


def encoder_factory(
    observation_space: spaces.Space,
    *,
    hidden_sizes: Sequence[int] | None = None,
    preprocess_fn: Callable[[Any], jax.Array] | None = None,
    channel_first: bool | None = None,
    layer_norm: bool = False,
    image_encoder: Callable[..., ImageEncoder] = NatureCNN,
) -> nn.Module:
    """Chooses the encoder of an observation space.

    A Box of up to two axes and a MultiBinary space get a `VectorEncoder`, a Box of
    three axes the `image_encoder`, a Discrete or a MultiDiscrete space a one-hot
    `DiscreteEncoder` or `MultiDiscreteEncoder`. Behind a `preprocess_fn`, the shape and
    dtype of what it returns decide, as if they were those of a Box.

    A Dict gets a `DictEncoder`: each part but "action_mask" (see
    `kitae.modules.masks`) is encoded by its kind without dense layers, an image by its
    convolutions, and the dense layers are those of the joint features. A Tuple gets a
    `TupleEncoder`, which does the same.

    Args:
        observation_space: Gymnasium space of one observation: a Box, Discrete,
            MultiDiscrete or MultiBinary, or a Dict or a Tuple of them, nested as it
            may be.
        hidden_sizes: Units of each dense layer, those after the convolutions for an
            image; `()` for none. None: (64, 64); where there is an image, what the
            image encoder has, (512,) for `NatureCNN`.
        preprocess_fn: Function applied first, inside the network, to observations
            `[batch, *shape]` of the space's dtype, or to a dict or a tuple of such
            arrays. It returns one array `[batch, ...]`.
        channel_first: Layout of images, see `ImageEncoder`.
        layer_norm: Normalise each layer before its activation; of the layers of an
            image encoder, those that it says.
        image_encoder: Makes the encoder of images: `NatureCNN`, `ImpalaCNN`, another
            subclass of `ImageEncoder`, or a `functools.partial` of one, such as
            `partial(ImpalaCNN, width=2)`.

    Returns:
        A module that maps observations `[..., *shape]` to float32 `[..., features]`.

    Raises:
        TypeError: If the space is of another kind, or an argument has another type.
        ValueError: If an observation has a shape that no encoder takes, if the layout
            of an image is unclear, if `channel_first` is given without an image,
            if `preprocess_fn` does not keep the batch axis, or if a Dict or a Tuple
            has no part.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from gymnasium import spaces
        >>> from kitae.modules import init_params
        >>> encoder = encoder_factory(spaces.Discrete(16), hidden_sizes=(32,))
        >>> params = init_params(jax.random.key(0), encoder, [()])
        >>> encoder.apply(params, jnp.array([3, 15])).shape
        (2, 32)
    """
    _check_space(observation_space)
    if hidden_sizes is not None:
        hidden_sizes = sizes("hidden_sizes", hidden_sizes)
    if channel_first is not None and not isinstance(channel_first, bool):
        raise TypeError(f"channel_first must be a bool or None, got {channel_first!r}")
    if not callable(image_encoder):
        raise TypeError(f"image_encoder must be callable, got {image_encoder!r}")
    options = _Options(channel_first, boolean("layer_norm", layer_norm), image_encoder)
    if preprocess_fn is None:
        encoder = _space_encoder(observation_space, hidden_sizes, options)
    else:
        spec = observation_spec(observation_space)
        output = _preprocessed(preprocess_fn, spec)
        inner = _array_encoder(output.shape[1:], output.dtype, hidden_sizes, options)
        shape = jax.tree.map(lambda leaf: leaf.shape, spec)
        encoder = PreprocessedEncoder(inner, preprocess_fn, shape)
    if channel_first is not None and not has_image(encoder):
        raise ValueError(
            f"channel_first={channel_first} is for images with three axes, and there "
            f"is none in {observation_space!r}"
        )
    return encoder


def split_encoder(
    observation_space: spaces.Space,
    *,
    hidden_sizes: Sequence[int] | None = None,
    **options: Any,
) -> tuple[nn.Module, tuple[int, ...]]:
    """Chooses an encoder, and leaves the last of its dense layers to a head.

    The head gets the last hidden layer; where there is an image, all dense layers
    after the convolutions. So the noisy layers of Rainbow are all those after the
    convolutions (Hessel et al., 2018), and dueling streams have one hidden layer each
    (Wang et al., 2016, section 4.2).

    Args:
        observation_space: As for `encoder_factory`.
        hidden_sizes: Units of each dense layer before the last one, in all.
        **options: The other arguments of `encoder_factory`.

    Returns:
        The encoder, and the hidden sizes of the head: `()` where `hidden_sizes` is.

    Raises:
        TypeError: As `encoder_factory`.
        ValueError: As `encoder_factory`.

    Examples:
        >>> from gymnasium import spaces
        >>> space = spaces.Box(-1.0, 1.0, (4,))
        >>> encoder, head_sizes = split_encoder(space, hidden_sizes=(120, 84))
        >>> encoder.hidden_sizes, head_sizes
        ((120,), (84,))
    """
    whole = encoder_factory(observation_space, hidden_sizes=hidden_sizes, **options)
    dense = dense_sizes(whole)
    n_kept = 0 if has_image(whole) else max(len(dense) - 1, 0)
    encoder = encoder_factory(observation_space, hidden_sizes=dense[:n_kept], **options)
    return encoder, dense[n_kept:]


def dense_sizes(encoder: nn.Module) -> tuple[int, ...]:
    """Returns the units of each dense layer of an encoder of `encoder_factory`."""
    encoder = innermost(encoder)
    return tuple(encoder.hidden_sizes)  # pyright: ignore[reportAttributeAccessIssue]


class _Options(NamedTuple):
    channel_first: bool | None
    layer_norm: bool
    image_encoder: Callable[..., ImageEncoder]


_ONE_ARRAY = spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary


def _check_space(space: Any, name: str = "observation_space") -> None:
    if isinstance(space, spaces.Dict):
        for part, part_space in space.spaces.items():
            _check_space(part_space, f"{name}[{part!r}]")
    elif isinstance(space, spaces.Tuple):
        for i, part_space in enumerate(space.spaces):
            _check_space(part_space, f"{name}[{i}]")
    elif not isinstance(space, _ONE_ARRAY):
        raise TypeError(
            f"{name} must be a Box, a Discrete, a MultiDiscrete, a MultiBinary, a Dict "
            f"or a Tuple, got {space!r}"
        )


def _space_encoder(
    space: spaces.Space, hidden_sizes: tuple[int, ...] | None, options: _Options
) -> nn.Module:
    if isinstance(space, spaces.Dict | spaces.Tuple):
        return _joint_encoder(space, hidden_sizes, options)
    shape = tuple(space.shape or ())
    if isinstance(space, spaces.Box):
        dtype = jax.dtypes.canonicalize_dtype(space.dtype)
        return _array_encoder(shape, dtype, hidden_sizes, options)
    dense = VECTOR_HIDDEN_SIZES if hidden_sizes is None else hidden_sizes
    norm = options.layer_norm
    if isinstance(space, spaces.Discrete):
        n, start = int(space.n), int(space.start)
        return DiscreteEncoder(n, start, dense, layer_norm=norm)
    if 0 in shape:
        raise ValueError(f"Observations of shape {shape} are empty")
    if isinstance(space, spaces.MultiDiscrete):
        nvec, start = space.nvec.ravel().tolist(), space.start.ravel().tolist()
        return MultiDiscreteEncoder(nvec, start, shape, dense, norm)
    return VectorEncoder(shape, dense, layer_norm=norm)


def _joint_encoder(
    space: spaces.Dict | spaces.Tuple,
    hidden_sizes: tuple[int, ...] | None,
    options: _Options,
) -> nn.Module:
    is_dict = isinstance(space, spaces.Dict)
    parts: dict[Any, nn.Module] = {
        name: _space_encoder(part, (), options)
        for name, part in (space.items() if is_dict else enumerate(space))
        if name != ACTION_MASK
    }
    if not parts:
        raise ValueError(f"Observations have no part to encode: {space!r}")
    dense = hidden_sizes
    if dense is None and any(map(has_image, parts.values())):
        dense = options.image_encoder().hidden_sizes
    elif dense is None:
        dense = VECTOR_HIDDEN_SIZES
    if is_dict:
        return DictEncoder(parts, dense, options.layer_norm)
    return TupleEncoder(tuple(parts.values()), dense, options.layer_norm)


def _array_encoder(
    shape: tuple[int, ...],
    dtype: Any,
    hidden_sizes: tuple[int, ...] | None,
    options: _Options,
) -> nn.Module:
    if 0 in shape:
        raise ValueError(f"Observations of shape {shape} are empty")
    if len(shape) == 3:
        return _image_encoder(shape, hidden_sizes, options)
    pixels = len(shape) == 2 and dtype == jnp.uint8 and min(shape) >= MIN_IMAGE_SIDE
    if pixels or len(shape) > 3:
        raise ValueError(
            f"Observations of shape {shape} and dtype {dtype} are neither vectors nor "
            "images with three axes: reshape them in preprocess_fn, to [batch, "
            "features] or to [batch, height, width, channels]"
        )
    dense = VECTOR_HIDDEN_SIZES if hidden_sizes is None else hidden_sizes
    return VectorEncoder(shape, dense, layer_norm=options.layer_norm)


def _image_encoder(
    shape: tuple[int, ...], hidden_sizes: tuple[int, ...] | None, options: _Options
) -> nn.Module:
    dense = {} if hidden_sizes is None else {"hidden_sizes": hidden_sizes}
    encoder = options.image_encoder(
        channel_first=options.channel_first,
        observation_shape=shape,
        layer_norm=options.layer_norm,
        **dense,
    )
    if not isinstance(encoder, ImageEncoder):
        raise TypeError(f"image_encoder must make an ImageEncoder, got {encoder!r}")
    return encoder


def _preprocessed(
    preprocess_fn: Callable[[Any], jax.Array], spec: Any
) -> jax.ShapeDtypeStruct:
    """Traces `preprocess_fn` and returns the shape and dtype of its output."""
    if not callable(preprocess_fn):
        raise TypeError(f"preprocess_fn must be callable, got {preprocess_fn!r}")
    batch = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((_BATCH, *leaf.shape), leaf.dtype), spec
    )
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
