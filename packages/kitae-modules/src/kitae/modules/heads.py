"""The last layers of a Q-network: from features to the values of all actions."""

import math
from collections.abc import Sequence

import flax.linen as nn
import jax

from kitae.modules.dense import MLP, NoisyDense

__all__ = ["NoisyDense", "QHead"]


class QHead(nn.Module):
    """Maps features to the values of all actions, or to atoms of each value.

    With `dueling`, two streams with layers of their own give a value and advantages,
    and `Q = V + A - mean over actions of A` (Wang et al., 2016, eq. 9); with atoms,
    for each atom apart, as in Rainbow (Hessel et al., 2018, before its softmax).

    Attributes:
        n_actions: Number of actions.
        n_atoms: Outputs for each action: logits of a categorical distribution, or
            quantiles. None: one value, without an axis.
        hidden_sizes: Units of each hidden layer; with `dueling`, of each stream.
        dueling: Whether there are two streams.
        noisy: Whether every layer of the head is a `NoisyDense`.
        layer_norm: Whether hidden layers are normalised before their activation.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from kitae.modules import init_params
        >>> head = QHead(n_actions=2, n_atoms=51, hidden_sizes=(16,), dueling=True)
        >>> params = init_params(jax.random.key(0), head, [(8,)])
        >>> sorted(params["params"])
        ['advantage', 'advantage_hidden', 'value', 'value_hidden']
        >>> head.apply(params, jnp.ones((5, 8))).shape
        (5, 2, 51)
    """

    n_actions: int
    n_atoms: int | None = None
    hidden_sizes: Sequence[int] = ()
    dueling: bool = False
    noisy: bool = False
    layer_norm: bool = False

    @nn.compact
    def __call__(self, features: jax.Array) -> jax.Array:
        """Maps `[..., f]` to `[..., n_actions]`, or to `[..., n_actions, n_atoms]`."""
        if not self.dueling:
            return self._stream(features, self.n_actions)
        value = self._stream(features, 1, "value")
        advantage = self._stream(features, self.n_actions, "advantage")
        actions_axis = -1 if self.n_atoms is None else -2
        return value + advantage - advantage.mean(actions_axis, keepdims=True)

    def _stream(
        self, x: jax.Array, n_outputs: int, name: str | None = None
    ) -> jax.Array:
        dense = NoisyDense if self.noisy else nn.Dense
        hidden = MLP(
            self.hidden_sizes,
            layer_norm=self.layer_norm,
            noisy=self.noisy,
            name=None if name is None else f"{name}_hidden",
        )
        outputs = (n_outputs,) if self.n_atoms is None else (n_outputs, self.n_atoms)
        x = dense(math.prod(outputs), name=name)(hidden(x))
        return x.reshape(*x.shape[:-1], *outputs)
