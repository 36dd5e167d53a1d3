"""Dense layers: a stack of them, and one whose weights are noisy."""

import math
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

VECTOR_HIDDEN_SIZES = (64, 64)


class NoisyDense(nn.Module):
    """A dense layer with factorised Gaussian noise (Fortunato et al., 2018).

    The weights are `mu + sigma * eps`, where `eps[i, j] = f(eps_i) f(eps_j)` and
    `f(x) = sgn(x) sqrt(|x|)` (eq. 10), and for the bias `f(eps_j)` alone (eq. 11).
    Each call of `apply` draws one sample, shared by its whole batch, from the rng
    collection "noise": `apply(params, x, rngs={"noise": key})`. Without that
    collection the layer uses `mu`, and is deterministic.

    Parameters start as in the paper's section 3.2 ("Factorised"): with `p` inputs,
    `mu` uniform in `[-1/sqrt(p), 1/sqrt(p)]` and `sigma` constant.

    Attributes:
        features: Number of units.
        sigma0: `sigma` starts at `sigma0 / sqrt(p)`.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from kitae.modules import init_params
        >>> layer = NoisyDense(3)
        >>> params = init_params(jax.random.key(0), layer, [(4,)])
        >>> x = jnp.ones((5, 4))
        >>> mean = layer.apply(params, x)
        >>> noisy = layer.apply(params, x, rngs={"noise": jax.random.key(1)})
        >>> noisy.shape, bool(jnp.allclose(noisy, mean))
        ((5, 3), False)
    """

    features: int
    sigma0: float = 0.5

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps floats of shape `[..., n]` to `[..., features]`."""
        n_inputs = x.shape[-1]
        bound = 1.0 / math.sqrt(n_inputs)

        def uniform(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
            return jax.random.uniform(key, shape, jnp.float32, -bound, bound)

        sigma = nn.initializers.constant(self.sigma0 * bound)
        kernel = self.param("kernel", uniform, (n_inputs, self.features))
        bias = self.param("bias", uniform, (self.features,))
        kernel_sigma = self.param("kernel_sigma", sigma, kernel.shape, jnp.float32)
        bias_sigma = self.param("bias_sigma", sigma, bias.shape, jnp.float32)
        if self.has_rng("noise"):
            noise = jax.random.normal(
                self.make_rng("noise"), (n_inputs + self.features,), jnp.float32
            )
            noise = jnp.sign(noise) * jnp.sqrt(jnp.abs(noise))
            rows, columns = noise[:n_inputs], noise[n_inputs:]
            kernel = kernel + kernel_sigma * jnp.outer(rows, columns)
            bias = bias + bias_sigma * columns
        # Reshaped, since rank promotion may be an error in the caller's program.
        return x @ kernel + bias.reshape((1,) * (x.ndim - 1) + (-1,))


class MLP(nn.Module):
    """Dense layers, each followed by the activation, the last one too.

    Attributes:
        hidden_sizes: Number of units of each layer.
        activation: Function applied after each layer.
        layer_norm: Normalise each layer (Ba et al., 2016) before its activation, as
            PQN does (Gallici et al., 2024).
        noisy: Make each layer a `NoisyDense`.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from kitae.modules import init_params
        >>> mlp = MLP((32, 16))
        >>> params = init_params(jax.random.key(0), mlp, [(4,)])
        >>> mlp.apply(params, jnp.ones((5, 4))).shape
        (5, 16)
    """

    hidden_sizes: Sequence[int] = VECTOR_HIDDEN_SIZES
    activation: Callable[[jax.Array], jax.Array] = nn.relu
    layer_norm: bool = False
    noisy: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps floats of shape `[..., n]` to `[..., hidden_sizes[-1]]`."""
        dense = NoisyDense if self.noisy else nn.Dense
        for size in self.hidden_sizes:
            x = dense(size)(x)
            x = nn.LayerNorm()(x) if self.layer_norm else x
            x = self.activation(x)
        return x
