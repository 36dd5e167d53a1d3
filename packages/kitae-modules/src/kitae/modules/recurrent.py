"""Q-value networks with a memory, for observations that do not show the state."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from gymnasium import spaces

from kitae.modules._checks import boolean, positive_int, sizes
from kitae.modules.actions import discrete_actions
from kitae.modules.encoders import encoder_factory
from kitae.modules.heads import QHead
from kitae.modules.images import ImageEncoder, NatureCNN

Carry = tuple[jax.Array, jax.Array]


class RecurrentQValue(nn.Module):
    """Q-values after an LSTM, as in R2D2 (Kapturowski et al., 2019, section 2.3).

    A call is one step; `unroll` is many, with the same parameters:
    `apply(params, carry, observations, first, method="unroll")`. The carry is the cell
    and the hidden state, float32 each. The paper's network also takes the previous
    action and reward: put them into the observations where they matter.

    Attributes:
        encoder: Maps observations to features.
        n_actions: Number of actions.
        hidden_size: Units of the LSTM.
        head_sizes: Units of each hidden layer after it; with `dueling`, of each stream.
        dueling: Whether there is a stream for the value and one for advantages.
        noisy: Whether the layers after the LSTM are noisy; see `NoisyDense`. All steps
            of an unroll share one sample of noise.
        layer_norm: Whether hidden layers after the LSTM are normalised.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from kitae.modules import VectorEncoder
        >>> qvalue = RecurrentQValue(VectorEncoder((4,), (16,)), 2, hidden_size=8)
        >>> carry, first = qvalue.initial_carry(5), jnp.ones(5, bool)
        >>> inputs = carry, jnp.zeros((5, 4)), first
        >>> params = qvalue.init(jax.random.key(0), *inputs)
        >>> carry, qvalues = qvalue.apply(params, *inputs)
        >>> carry[1].shape, qvalues.shape
        ((5, 8), (5, 2))
        >>> carries, qvalues = qvalue.apply(
        ...     params, carry, jnp.zeros((5, 3, 4)), jnp.zeros((5, 3), bool),
        ...     method="unroll",
        ... )
        >>> carries[1].shape, qvalues.shape
        ((5, 3, 8), (5, 3, 2))
    """

    encoder: nn.Module
    n_actions: int
    hidden_size: int = 512
    head_sizes: Sequence[int] = ()
    dueling: bool = False
    noisy: bool = False
    layer_norm: bool = False

    def setup(self) -> None:
        """Makes the layers that a step and an unroll share."""
        self.cell = nn.OptimizedLSTMCell(self.hidden_size)
        self.head = QHead(
            self.n_actions,
            hidden_sizes=self.head_sizes,
            dueling=self.dueling,
            noisy=self.noisy,
            layer_norm=self.layer_norm,
        )

    def __call__(
        self, carry: Carry, observations: Any, first: jax.Array
    ) -> tuple[Carry, jax.Array]:
        """Takes one step.

        Args:
            carry: `[n, hidden_size]` twice, from the step before or `initial_carry`.
            observations: `[n, *shape]`.
            first: `[n]` bool: whether the observation is the first of its episode. The
                row's carry is then zeros, whatever is given. In place of `n` there may
                be any axes.

        Returns:
            The carry after the step, and the Q-values, float32 `[n, n_actions]`.

        Raises:
            ValueError: Shapes do not fit together.
            TypeError: `first` is not bool.
        """
        features, first = self._features(observations, first)
        self._check_carry(carry, first.shape)
        carry, (_, hidden) = _step(self.cell, carry, (features, first))
        return carry, self.head(hidden)

    def unroll(
        self, carry: Carry, observations: Any, first: jax.Array
    ) -> tuple[Carry, jax.Array]:
        """Takes one step after the other along an axis of time.

        Args:
            carry: `[batch, hidden_size]` twice, the carry before the first step.
            observations: `[batch, time, *shape]`.
            first: `[batch, time]` bool, as in a step. In place of `batch` there may be
                any axes.

        Returns:
            The carries after each step, `[batch, time, hidden_size]` twice, and the
            Q-values, float32 `[batch, time, n_actions]`.

        Raises:
            ValueError: Shapes do not fit together.
            TypeError: `first` is not bool.
        """
        features, first = self._features(observations, first)
        if first.ndim == 0:
            raise ValueError("first must have an axis of time, got the shape ()")
        self._check_carry(carry, first.shape[:-1])
        # Only the LSTM goes step by step: the layers around it see all of them at once.
        inputs = jnp.moveaxis(features, -2, 0), jnp.moveaxis(first, -1, 0)
        scan = nn.scan(_step, variable_broadcast="params", split_rngs={"params": False})
        _, (carries, hidden) = scan(self.cell, carry, inputs)
        carries = jax.tree.map(lambda x: jnp.moveaxis(x, 0, -2), carries)
        return carries, self.head(jnp.moveaxis(hidden, 0, -2))

    @nn.nowrap
    def initial_carry(self, n: int) -> Carry:
        """Returns the carry of `n` rows before any step: `[n, hidden_size]` zeros.

        It needs no parameters, and is what a row with `first` starts from.

        Raises:
            TypeError: `n` is not an int.
            ValueError: `n` is below 1.
        """
        shape = (positive_int("n", n), self.hidden_size)
        # Two arrays: one that stood for both could not be donated.
        return jnp.zeros(shape, jnp.float32), jnp.zeros(shape, jnp.float32)

    def _features(self, observations: Any, first: jax.Array) -> tuple[Any, jax.Array]:
        first = jnp.asarray(first)
        if first.dtype != jnp.bool_:
            raise TypeError(f"first must be bool, got {first.dtype}")
        features = self.encoder(observations)
        if features.shape[:-1] != first.shape:
            raise ValueError(
                f"first must have the leading axes of the observations, "
                f"{features.shape[:-1]}, got {first.shape}"
            )
        return features, first

    def _check_carry(self, carry: Carry, lead: tuple[int, ...]) -> None:
        expected = (*lead, self.hidden_size)
        shapes = [jnp.shape(state) for state in carry]
        if shapes != [expected, expected]:
            raise ValueError(f"carry must be {expected} twice, got {shapes}")


def _step(
    cell: nn.Module, carry: Carry, inputs: tuple[jax.Array, jax.Array]
) -> tuple[Carry, tuple[Carry, jax.Array]]:
    features, first = inputs
    carry = jax.tree.map(lambda x: jnp.where(first[..., None], 0.0, x), carry)
    carry, hidden = cell(carry, features)
    return carry, (carry, hidden)


def recurrent_qvalue_factory(
    observation_space: spaces.Space,
    action_space: spaces.Space,
    *,
    hidden_sizes: Sequence[int] | None = None,
    hidden_size: int = 512,
    head_sizes: Sequence[int] = (),
    dueling: bool = False,
    noisy: bool = False,
    layer_norm: bool = False,
    preprocess_fn: Callable[[Any], jax.Array] | None = None,
    channel_first: bool | None = None,
    image_encoder: Callable[..., ImageEncoder] = NatureCNN,
) -> RecurrentQValue:
    """Builds the recurrent Q-network of an observation space and an action space.

    R2D2 on Atari is `hidden_size=512, head_sizes=(512,), dueling=True`.

    Args:
        observation_space: Gymnasium space of one observation, see `encoder_factory`.
        action_space: Gymnasium space of one action: a Discrete, or a MultiDiscrete (as
            joint actions, see `discrete_actions`).
        hidden_sizes: Units of each dense layer before the LSTM, see `encoder_factory`.
        hidden_size: Units of the LSTM, at least 1.
        head_sizes: Units of each hidden layer after the LSTM; with `dueling`, of each
            stream.
        dueling: Streams for the value and for advantages (Wang et al., 2016, eq. 9).
        noisy: Noisy layers after the LSTM, see `qvalue_factory`.
        layer_norm: Normalise each dense layer before its activation.
        preprocess_fn: Function applied first, see `encoder_factory`.
        channel_first: Layout of an image, see `encoder_factory`.
        image_encoder: Makes the encoder of images, see `encoder_factory`.

    Returns:
        The module. Its parameters come from `init_params` with the specs of one row:
        of a carry, an observation and `first`, as in the example.

    Raises:
        TypeError: If the observation space is of another kind, or an argument of
            another type.
        ValueError: As `encoder_factory` and `discrete_actions`, or if a size is below
            1.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from gymnasium import spaces
        >>> from kitae.modules import init_params, observation_spec
        >>> space = spaces.Box(-1.0, 1.0, (4,))
        >>> qvalue = recurrent_qvalue_factory(
        ...     space, spaces.Discrete(2), hidden_sizes=(16,), hidden_size=8
        ... )
        >>> state = jax.ShapeDtypeStruct((8,), jnp.float32)
        >>> first = jax.ShapeDtypeStruct((), bool)
        >>> specs = [(state, state), observation_spec(space), first]
        >>> params = init_params(jax.random.key(0), qvalue, specs)
        >>> sorted(params["params"])
        ['cell', 'encoder', 'head']
    """
    hidden_size = positive_int("hidden_size", hidden_size)
    head_sizes = sizes("head_sizes", head_sizes)
    dueling, noisy = boolean("dueling", dueling), boolean("noisy", noisy)
    n_actions = discrete_actions(action_space).n
    encoder = encoder_factory(
        observation_space,
        hidden_sizes=hidden_sizes,
        preprocess_fn=preprocess_fn,
        channel_first=channel_first,
        layer_norm=layer_norm,
        image_encoder=image_encoder,
    )
    return RecurrentQValue(
        encoder, n_actions, hidden_size, head_sizes, dueling, noisy, layer_norm
    )
