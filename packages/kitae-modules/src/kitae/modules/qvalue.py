"""Q-value networks for discrete and for continuous actions."""

import math
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from gymnasium import spaces

from kitae.modules._checks import leading_axes, positive_int, sizes
from kitae.modules.encoders import MLP, PreprocessedEncoder, encoder_factory


class DiscreteQValue(nn.Module):
    """Q-values of all actions at once (Mnih et al., 2015).

    Attributes:
        encoder: Maps observations to features.
        n_actions: Number of actions.
    """

    encoder: nn.Module
    n_actions: int

    @nn.compact
    def __call__(self, observations: jax.Array) -> jax.Array:
        """Maps observations [..., *shape] to Q-values, float32 [..., n_actions]."""
        return nn.Dense(self.n_actions)(self.encoder(observations))


class ContinuousQValue(nn.Module):
    """Q-value of one observation and one action (Lillicrap et al., 2016).

    Attributes:
        encoder: Maps observations to features, which the action joins.
        action_shape: Shape of one action.
        hidden_sizes: Units of each dense layer after that.
    """

    encoder: nn.Module
    action_shape: Sequence[int]
    hidden_sizes: Sequence[int]

    @nn.compact
    def __call__(self, observations: jax.Array, actions: jax.Array) -> jax.Array:
        """Maps observations [..., *shape] and actions to float32 [..., 1].

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
        x = MLP(self.hidden_sizes)(jnp.concatenate([features, flat], axis=-1))
        return nn.Dense(1)(x)


def qvalue_factory(
    observation_space: spaces.Space,
    action_space: spaces.Space,
    *,
    hidden_sizes: Sequence[int] | None = None,
    preprocess_fn: Callable[[jax.Array], jax.Array] | None = None,
    channel_first: bool | None = None,
) -> nn.Module:
    """Builds the Q-value network of an observation space and an action space.

    Observations of any dtype are cast to float32 in the network, and uint8 images
    divided by 255. Observations may have any number of leading axes, none included.

    Args:
        observation_space: Gymnasium space of one observation: a Box or a Discrete.
        action_space: Gymnasium space of one action: a Discrete or a Box.
        hidden_sizes: Units of each dense layer before the last one, those after the
            convolutions for an image; `()` for none. None: (64, 64), and (512,) for
            an image.
        preprocess_fn: Function applied first, inside the network, to observations
            [batch, *shape]; it returns one array [batch, ...].
        channel_first: Layout of an image: True for [channels, height, width], False
            for [height, width, channels], None to find it from the shape.

    Returns:
        For Discrete actions, a module that maps observations [..., *shape] to
        float32 [..., n], where column `i` is the action `start + i`. For Box actions,
        one that maps observations and actions to float32 [..., 1].

    Raises:
        TypeError: If a space is of another kind, or an argument of another type.
        ValueError: As `encoder_factory`, or if the action space is empty.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from gymnasium import spaces
        >>> from kitae.modules import init_params
        >>> qvalue = qvalue_factory(spaces.Box(-1.0, 1.0, (4,)), spaces.Discrete(2))
        >>> params = init_params(jax.random.key(0), qvalue, [(4,)])
        >>> qvalue.apply(params, jnp.zeros((32, 4))).shape
        (32, 2)
    """
    if not isinstance(action_space, (spaces.Box, spaces.Discrete)):
        raise TypeError(
            f"action_space must be a Discrete or a Box, got {action_space!r}"
        )
    if hidden_sizes is not None:
        hidden_sizes = sizes("hidden_sizes", hidden_sizes)

    def encoder(dense: Sequence[int] | None) -> nn.Module:
        return encoder_factory(
            observation_space,
            hidden_sizes=dense,
            preprocess_fn=preprocess_fn,
            channel_first=channel_first,
        )

    if isinstance(action_space, spaces.Discrete):
        n_actions = positive_int("action_space.n", action_space.n)
        return DiscreteQValue(encoder(hidden_sizes), n_actions)
    if 0 in action_space.shape:
        raise ValueError(f"action_space has no action: {action_space!r}")
    if hidden_sizes is None:
        hidden_sizes = _default_hidden_sizes(encoder(None))
    return ContinuousQValue(encoder(()), action_space.shape, hidden_sizes)


def _default_hidden_sizes(encoder: nn.Module) -> tuple[int, ...]:
    if isinstance(encoder, PreprocessedEncoder):
        encoder = encoder.encoder
    return tuple(encoder.hidden_sizes)  # pyright: ignore[reportAttributeAccessIssue]
