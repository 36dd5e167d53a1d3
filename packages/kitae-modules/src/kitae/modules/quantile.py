"""Implicit quantile networks: quantiles of the return, at any fractions."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from gymnasium import spaces

from kitae.modules._checks import boolean, positive_int
from kitae.modules.actions import discrete_actions
from kitae.modules.encoders import split_encoder
from kitae.modules.heads import QHead
from kitae.modules.images import ImageEncoder, NatureCNN


class CosineEmbedding(nn.Module):
    """Embeds fractions by their cosines (Dabney et al., 2018b, eq. 4).

    `phi_j(tau) = relu(sum over i of cos(pi i tau) w_ij + b_j)`, for `i` from 0 to
    `n_cosines - 1`.

    Attributes:
        features: Size of the embedding.
        n_cosines: Number of cosines.
    """

    features: int
    n_cosines: int = 64

    @nn.compact
    def __call__(self, taus: jax.Array) -> jax.Array:
        """Maps fractions in [0, 1], of shape `[...]`, to `[..., features]`."""
        multiples = math.pi * jnp.arange(self.n_cosines, dtype=taus.dtype)
        multiples = multiples.reshape((1,) * taus.ndim + (-1,))
        return nn.relu(nn.Dense(self.features)(jnp.cos(taus[..., None] * multiples)))


class ImplicitQuantileQValue(nn.Module):
    """The quantiles of all actions' returns (Dabney et al., 2018b, section 3.1).

    The features of an observation are multiplied by the embedding of each fraction,
    element by element; a `QHead` gives the quantiles of that. The mean over fractions
    drawn uniformly from [0, 1] estimates the Q-values.

    Attributes:
        encoder: Maps observations to features.
        n_actions: Number of actions.
        n_cosines: Number of cosines that a fraction is embedded by.
        hidden_sizes: Units of the head's hidden layers; with `dueling`, of each stream.
        dueling: Whether the head has a stream for the value and one for advantages.
        noisy: Whether the head's layers are noisy; the embedding never is.
        layer_norm: Whether the head's hidden layers are normalised.
    """

    encoder: nn.Module
    n_actions: int
    n_cosines: int = 64
    hidden_sizes: Sequence[int] = ()
    dueling: bool = False
    noisy: bool = False
    layer_norm: bool = False

    @nn.compact
    def __call__(self, observations: Any, taus: jax.Array) -> jax.Array:
        """Maps observations and fractions to quantiles.

        Args:
            observations: `[..., *shape]`.
            taus: `[..., n_taus]` float32, fractions in [0, 1].

        Returns:
            `[..., n_taus, n_actions]` float32: the quantile of each action's return at
            each fraction.

        Raises:
            ValueError: The leading axes of `taus` are not those of `observations`.
            TypeError: `taus` is not float32.
        """
        taus = jnp.asarray(taus)
        if taus.dtype != jnp.float32:
            raise TypeError(f"taus must be float32, got {taus.dtype}")
        features = self.encoder(observations)
        if taus.shape[:-1] != features.shape[:-1] or taus.ndim == 0:
            raise ValueError(
                f"taus must have the leading axes of the observations, "
                f"{features.shape[:-1]}, then n_taus, got the shape {taus.shape}"
            )
        embedding = CosineEmbedding(features.shape[-1], self.n_cosines)(taus)
        head = QHead(
            self.n_actions,
            hidden_sizes=self.hidden_sizes,
            dueling=self.dueling,
            noisy=self.noisy,
            layer_norm=self.layer_norm,
        )
        return head(features[..., None, :] * embedding)


def iqn_factory(
    observation_space: spaces.Space,
    action_space: spaces.Space,
    *,
    hidden_sizes: Sequence[int] | None = None,
    n_cosines: int = 64,
    dueling: bool = False,
    noisy: bool = False,
    layer_norm: bool = False,
    preprocess_fn: Callable[[Any], jax.Array] | None = None,
    channel_first: bool | None = None,
    image_encoder: Callable[..., ImageEncoder] = NatureCNN,
) -> ImplicitQuantileQValue:
    """Builds the implicit quantile network of an observation and an action space.

    The last hidden layer comes after the product with the embedding, and so do all
    dense layers where there is an image: the paper's network multiplies the features
    of the convolutions (see `split_encoder`). With one hidden layer, or none, a vector
    is itself what the embedding multiplies: two or more are better.

    Args:
        observation_space: Gymnasium space of one observation, see `encoder_factory`.
        action_space: Gymnasium space of one action: a Discrete, or a MultiDiscrete (as
            joint actions, see `discrete_actions`).
        hidden_sizes: Units of each dense layer before the last one, see
            `qvalue_factory`.
        n_cosines: Number of cosines that a fraction is embedded by, at least 1.
        dueling: Streams for the value and for advantages (Wang et al., 2016, eq. 9).
        noisy: Noisy layers in the head, see `qvalue_factory`.
        layer_norm: Normalise each layer but the embedding before its activation.
        preprocess_fn: Function applied first, see `encoder_factory`.
        channel_first: Layout of an image, see `encoder_factory`.
        image_encoder: Makes the encoder of images, see `encoder_factory`.

    Returns:
        A module that maps observations `[..., *shape]` and fractions `[..., n_taus]` to
        quantiles, float32 `[..., n_taus, n_actions]`.

    Raises:
        TypeError: If the observation space is of another kind, or an argument of
            another type.
        ValueError: As `encoder_factory` and `discrete_actions`, or if `n_cosines` is
            below 1.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from gymnasium import spaces
        >>> from kitae.modules import init_params
        >>> iqn = iqn_factory(spaces.Box(-1.0, 1.0, (4,)), spaces.Discrete(2))
        >>> params = init_params(jax.random.key(0), iqn, [(4,), (8,)])
        >>> taus = jax.random.uniform(jax.random.key(1), (32, 8))
        >>> iqn.apply(params, jnp.zeros((32, 4)), taus).shape
        (32, 8, 2)
    """
    n_cosines = positive_int("n_cosines", n_cosines)
    dueling, noisy = boolean("dueling", dueling), boolean("noisy", noisy)
    n_actions = discrete_actions(action_space).n
    encoder, head_sizes = split_encoder(
        observation_space,
        hidden_sizes=hidden_sizes,
        preprocess_fn=preprocess_fn,
        channel_first=channel_first,
        layer_norm=layer_norm,
        image_encoder=image_encoder,
    )
    return ImplicitQuantileQValue(
        encoder, n_actions, n_cosines, head_sizes, dueling, noisy, layer_norm
    )
