"""Encoders made of others: behind a function, and of the parts of a dict or tuple."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from kitae.modules._checks import leading_axes
from kitae.modules.dense import MLP, VECTOR_HIDDEN_SIZES
from kitae.modules.images import ImageEncoder
from kitae.modules.masks import ACTION_MASK


class PreprocessedEncoder(nn.Module):
    """An encoder behind a function of the observations.

    Attributes:
        encoder: The encoder of what `preprocess_fn` returns.
        preprocess_fn: Maps `[batch, *observation_shape]` to `[batch, ...]`.
        observation_shape: Shape of one observation before `preprocess_fn`; a dict or a
            tuple of shapes where observations are one.
    """

    encoder: nn.Module
    preprocess_fn: Callable[[Any], jax.Array]
    observation_shape: Any

    @nn.compact
    def __call__(self, observations: Any) -> jax.Array:
        """Maps `[..., *observation_shape]` to float32 `[..., features]`.

        Raises:
            ValueError: If the last axes are not `observation_shape`.
        """
        batch, lead = _one_batch("observations", observations, self.observation_shape)
        features = self.encoder(self.preprocess_fn(batch))
        return features.reshape(*lead, features.shape[-1])


class DictEncoder(nn.Module):
    """Encodes the parts of dict observations, joins them and applies an MLP.

    Attributes:
        parts: The encoder of each part. Its features are joined in the order of the
            names.
        hidden_sizes: Units of each dense layer on the joint features.
        layer_norm: Normalise each of these layers before its activation.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from kitae.modules import DiscreteEncoder, VectorEncoder
        >>> room, place = DiscreteEncoder(3, hidden_sizes=()), VectorEncoder((2,), ())
        >>> encoder = DictEncoder({"room": room, "place": place}, hidden_sizes=())
        >>> observation = {"room": jnp.int32(1), "place": jnp.array([0.5, 0.25])}
        >>> encoder.apply({}, observation).tolist()
        [0.5, 0.25, 0.0, 1.0, 0.0]
    """

    parts: Mapping[str, nn.Module]
    hidden_sizes: Sequence[int] = VECTOR_HIDDEN_SIZES
    layer_norm: bool = False

    @nn.compact
    def __call__(self, observations: Mapping[str, Any]) -> jax.Array:
        """Maps a dict of `[..., *shape of the part]` to float32 `[..., features]`.

        A part "action_mask" that has no encoder is left out.

        Raises:
            ValueError: If parts are missing or unknown, or if their leading axes
                differ.
        """
        _check_names("observations", observations, self.parts)
        features = {
            name: self.parts[name](observations[name]) for name in sorted(self.parts)
        }
        _same_lead("observations", {n: f.shape[:-1] for n, f in features.items()})
        joint = jnp.concatenate(list(features.values()), axis=-1)
        return MLP(self.hidden_sizes, layer_norm=self.layer_norm)(joint)


class TupleEncoder(nn.Module):
    """Encodes the parts of tuple observations, joins them and applies an MLP.

    Attributes:
        parts: The encoder of each part. Its features are joined in this order.
        hidden_sizes: Units of each dense layer on the joint features.
        layer_norm: Normalise each of these layers before its activation.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from kitae.modules import DiscreteEncoder, VectorEncoder
        >>> room, place = DiscreteEncoder(3, hidden_sizes=()), VectorEncoder((2,), ())
        >>> encoder = TupleEncoder((room, place), hidden_sizes=())
        >>> encoder.apply({}, (jnp.int32(1), jnp.array([0.5, 0.25]))).tolist()
        [0.0, 1.0, 0.0, 0.5, 0.25]
    """

    parts: Sequence[nn.Module]
    hidden_sizes: Sequence[int] = VECTOR_HIDDEN_SIZES
    layer_norm: bool = False

    @nn.compact
    def __call__(self, observations: tuple[Any, ...]) -> jax.Array:
        """Maps a tuple of `[..., *shape of the part]` to float32 `[..., features]`.

        Raises:
            TypeError: If observations are not a tuple.
            ValueError: If there are more or fewer parts than encoders, or if their
                leading axes differ.
        """
        _check_length("observations", observations, len(self.parts))
        features = [
            part(observation)
            for part, observation in zip(self.parts, observations, strict=True)
        ]
        _same_lead("observations", {i: f.shape[:-1] for i, f in enumerate(features)})
        joint = jnp.concatenate(features, axis=-1)
        return MLP(self.hidden_sizes, layer_norm=self.layer_norm)(joint)


def innermost(encoder: nn.Module) -> nn.Module:
    """Returns the encoder itself, or the one behind its `preprocess_fn`."""
    return encoder.encoder if isinstance(encoder, PreprocessedEncoder) else encoder


def has_image(encoder: nn.Module) -> bool:
    """Returns whether an encoder, or a part of it, is one of images."""
    encoder = innermost(encoder)
    if isinstance(encoder, DictEncoder):
        return any(map(has_image, encoder.parts.values()))
    if isinstance(encoder, TupleEncoder):
        return any(map(has_image, encoder.parts))
    return isinstance(encoder, ImageEncoder)


def _one_batch(name: str, observations: Any, shape: Any) -> tuple[Any, tuple[int, ...]]:
    """Makes one batch axis of the leading axes, in each part; returns these too."""
    if isinstance(shape, Mapping):
        _check_names(name, observations, shape)
        shapes = dict(shape)
    elif any(not isinstance(size, int) for size in shape):
        _check_length(name, observations, len(shape))
        shapes = dict(enumerate(shape))
    else:
        observations = jnp.asarray(observations)
        lead = leading_axes(name, observations.shape, tuple(shape))
        return observations.reshape(math.prod(lead), *shape), lead
    batches, leads = {}, {}
    for part, part_shape in shapes.items():
        batches[part], leads[part] = _one_batch(
            f"{name}[{part!r}]", observations[part], part_shape
        )
    lead = _same_lead(name, leads)
    return batches if isinstance(shape, Mapping) else tuple(batches.values()), lead


def _check_names(name: str, observations: Any, expected: Mapping[str, Any]) -> None:
    if not isinstance(observations, Mapping):
        raise TypeError(
            f"{name} must be a dict with the parts {sorted(expected)}, got a "
            f"{type(observations).__qualname__}"
        )
    missing = expected.keys() - observations.keys()
    unknown = observations.keys() - expected.keys() - {ACTION_MASK}
    if missing or unknown:
        raise ValueError(
            f"{name} must have the parts {sorted(expected)}, got {sorted(observations)}"
        )


def _check_length(name: str, observations: Any, n_parts: int) -> None:
    if not isinstance(observations, tuple):
        raise TypeError(
            f"{name} must be a tuple of {n_parts} parts, got a "
            f"{type(observations).__qualname__}"
        )
    if len(observations) != n_parts:
        raise ValueError(f"{name} must have {n_parts} parts, got {len(observations)}")


def _same_lead(name: str, leads: Mapping[Any, tuple[int, ...]]) -> tuple[int, ...]:
    lead, *others = leads.values()
    if any(other != lead for other in others):
        raise ValueError(
            f"The parts of {name} must have the same leading axes, got {dict(leads)}"
        )
    return lead
