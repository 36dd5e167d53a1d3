"""Q-value networks for discrete and for continuous actions."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from gymnasium import spaces

from kitae.modules._checks import boolean, leading_axes, positive_int
from kitae.modules.actions import discrete_actions
from kitae.modules.dense import MLP
from kitae.modules.encoders import dense_sizes, encoder_factory, split_encoder
from kitae.modules.heads import QHead
from kitae.modules.images import ImageEncoder, NatureCNN


class DiscreteQValue(nn.Module):
    """Q-values of all actions at once (Mnih et al., 2015).

    Attributes:
        encoder: Maps observations to features.
        n_actions: Number of actions.
        n_atoms: Outputs for each action, see `QHead`. None: one value.
        hidden_sizes: Units of the head's hidden layers; with `dueling`, of each stream.
        dueling: Whether the head has a stream for the value and one for advantages.
        noisy: Whether the head's layers are noisy; see `NoisyDense` for the rngs.
        layer_norm: Whether the head's hidden layers are normalised.
    """

    encoder: nn.Module
    n_actions: int
    n_atoms: int | None = None
    hidden_sizes: Sequence[int] = ()
    dueling: bool = False
    noisy: bool = False
    layer_norm: bool = False

    @nn.compact
    def __call__(self, observations: Any) -> jax.Array:
        """Maps observations `[..., *shape]` to Q-values, float32 `[..., n_actions]`.

        With `n_atoms`, to `[..., n_actions, n_atoms]`.
        """
        features = self.encoder(observations)
        head = QHead(
            self.n_actions,
            self.n_atoms,
            self.hidden_sizes,
            self.dueling,
            self.noisy,
            self.layer_norm,
        )
        # The head's parameters lie beside the encoder, not one level below.
        nn.share_scope(self, head)
        return head(features)


class ContinuousQValue(nn.Module):
    """Q-value of one observation and one action (Lillicrap et al., 2016).

    Attributes:
        encoder: Maps observations to features, which the action joins.
        action_shape: Shape of one action.
        hidden_sizes: Units of each dense layer after that.
        layer_norm: Normalise each of these layers before its activation.
    """

    encoder: nn.Module
    action_shape: Sequence[int]
    hidden_sizes: Sequence[int]
    layer_norm: bool = False

    @nn.compact
    def __call__(self, observations: jax.Array, actions: jax.Array) -> jax.Array:
        """Maps observations `[..., *shape]` and actions to float32 `[..., 1]`.

        Raises:
            ValueError: If the last axes of `actions` are not `action_shape`, or if its
                leading axes are not those of `observations`.
        """
        observations, actions = jnp.asarray(observations), jnp.asarray(actions)
        features = self.encoder(observations)
        shape = tuple(self.action_shape)
        lead = leading_axes("actions", actions.shape, shape)
        if lead != features.shape[:-1]:
            raise ValueError(
                f"actions of shape {actions.shape} and observations of shape "
                f"{observations.shape} must have the same leading axes"
            )
        flat = actions.reshape(*lead, math.prod(shape)).astype(jnp.float32)
        x = jnp.concatenate([features, flat], axis=-1)
        x = MLP(self.hidden_sizes, layer_norm=self.layer_norm)(x)
        return nn.Dense(1)(x)


def qvalue_factory(
    observation_space: spaces.Space,
    action_space: spaces.Space,
    *,
    hidden_sizes: Sequence[int] | None = None,
    n_atoms: int | None = None,
    dueling: bool = False,
    noisy: bool = False,
    layer_norm: bool = False,
    preprocess_fn: Callable[[Any], jax.Array] | None = None,
    channel_first: bool | None = None,
    image_encoder: Callable[..., ImageEncoder] = NatureCNN,
) -> nn.Module:
    """Builds the Q-value network of an observation space and an action space.

    Observations of any dtype are cast to float32 in the network, and uint8 images
    divided by 255. Observations may have any number of leading axes, none included.

    With `dueling` or `noisy`, the last hidden layer is the head's: noisy, and in each
    of the two streams. Where there is an image, all dense layers after the
    convolutions are (see `split_encoder`).

    Args:
        observation_space: Gymnasium space of one observation, see `encoder_factory`.
        action_space: Gymnasium space of one action: a Discrete, a MultiDiscrete (as
            joint actions, see `discrete_actions`) or a Box.
        hidden_sizes: Units of each dense layer before the last one, those after the
            convolutions for an image; `()` for none. None: (64, 64), and what
            `image_encoder` has for an image, (512,) for `NatureCNN`.
        n_atoms: Outputs for each action, at least 1: the logits of C51 (Bellemare et
            al., 2017), the quantiles of QR-DQN (Dabney et al., 2018). None: one value.
        dueling: Streams for the value and for advantages (Wang et al., 2016, eq. 9).
        noisy: Noisy layers (Fortunato et al., 2018), whose noise is the rng collection
            "noise": `apply(params, observations, rngs={"noise": key})`.
        layer_norm: Normalise each layer before its activation, as PQN does (Gallici et
            al., 2024).
        preprocess_fn: Function applied first, inside the network, to observations
            `[batch, *shape]`; it returns one array `[batch, ...]`.
        channel_first: Layout of an image: True for `[channels, height, width]`, False
            for `[height, width, channels]`, None to find it from the shape.
        image_encoder: Makes the encoder of images, see `encoder_factory`.

    Returns:
        For Discrete actions, a module that maps observations `[..., *shape]` to
        float32 `[..., n]`, where column `i` is the action `start + i`; with atoms, to
        `[..., n, n_atoms]`. For MultiDiscrete ones the same, where column `i` is
        `discrete_actions(action_space).from_index(i)`. For Box actions, one that maps
        observations and actions to float32 `[..., 1]`.

    Raises:
        TypeError: If a space is of another kind, or an argument of another type.
        ValueError: As `encoder_factory`; if the action space is empty, or has too many
            joint actions; or if `n_atoms`, `dueling` or `noisy` are asked for with
            Box actions.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from gymnasium import spaces
        >>> from kitae.modules import init_params
        >>> qvalue = qvalue_factory(spaces.Box(-1.0, 1.0, (4,)), spaces.Discrete(2))
        >>> params = init_params(jax.random.key(0), qvalue, [(4,)])
        >>> qvalue.apply(params, jnp.zeros((32, 4))).shape
        (32, 2)
    """
    if not isinstance(
        action_space, spaces.Box | spaces.Discrete | spaces.MultiDiscrete
    ):
        raise TypeError(
            "action_space must be a Discrete, a MultiDiscrete or a Box, got "
            f"{action_space!r}"
        )
    if n_atoms is not None:
        n_atoms = positive_int("n_atoms", n_atoms)
    dueling, noisy = boolean("dueling", dueling), boolean("noisy", noisy)
    options: dict[str, Any] = {
        "preprocess_fn": preprocess_fn,
        "channel_first": channel_first,
        "layer_norm": layer_norm,
        "image_encoder": image_encoder,
    }
    if isinstance(action_space, spaces.Box):
        if dueling or noisy or n_atoms is not None:
            raise ValueError(
                f"dueling={dueling}, noisy={noisy} and n_atoms={n_atoms} are for "
                f"discrete actions, got action_space = {action_space!r}"
            )
        return _continuous(observation_space, action_space, hidden_sizes, options)
    n_actions = positive_int("action_space.n", discrete_actions(action_space).n)
    if dueling or noisy:
        encoder, head_sizes = split_encoder(
            observation_space, hidden_sizes=hidden_sizes, **options
        )
    else:
        encoder = encoder_factory(
            observation_space, hidden_sizes=hidden_sizes, **options
        )
        head_sizes = ()
    return DiscreteQValue(
        encoder, n_actions, n_atoms, head_sizes, dueling, noisy, layer_norm
    )


def _continuous(
    observation_space: spaces.Space,
    action_space: spaces.Box,
    hidden_sizes: Sequence[int] | None,
    options: dict[str, Any],
) -> nn.Module:
    if 0 in action_space.shape:
        raise ValueError(f"action_space has no action: {action_space!r}")
    # The action joins before the dense layers, so all of them come after the encoder.
    whole = encoder_factory(observation_space, hidden_sizes=hidden_sizes, **options)
    encoder = encoder_factory(observation_space, hidden_sizes=(), **options)
    return ContinuousQValue(
        encoder, action_space.shape, dense_sizes(whole), options["layer_norm"]
    )
