import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces

from kitae.modules.modules import init_params
from kitae.modules.quantile import (
    CosineEmbedding,
    ImplicitQuantileQValue,
    iqn_factory,
)
from kitae.modules.vectors import VectorEncoder

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
CARTPOLE = spaces.Box(-10.0, 10.0, (4,))


def floats(*shape):
    return RNG.random(shape).astype(np.float32)


def test_the_embedding_by_hand():
    embedding = CosineEmbedding(2, n_cosines=3)
    params = {
        "Dense_0": {
            "kernel": jnp.array([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]]),
            "bias": jnp.array([0.5, -0.5]),
        }
    }
    # The cosines of 0, pi tau and 2 pi tau: at 0, 1/3 and 1.
    out = embedding.apply({"params": params}, jnp.float32([0.0, 1 / 3, 1.0]))
    expected = [[1 + 2 + 0.5, 1 - 0.5], [1 + 1 + 0.5, 0.0], [0.0, 1 - 0.5]]
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-6)


def twin(params, observations, taus):
    """One observation, one fraction and one action after the other."""
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params["params"])

    def layer(leaves, x):
        return x @ leaves["kernel"] + leaves["bias"]

    def relu(x):
        return np.maximum(x, 0)

    out = np.zeros((*taus.shape, p["QHead_0"]["Dense_0"]["bias"].size))
    for i, k in np.ndindex(taus.shape):
        features = relu(layer(p["encoder"]["MLP_0"]["Dense_0"], observations[i]))
        cosines = np.cos(np.pi * np.arange(5) * taus[i, k])
        embedded = relu(layer(p["CosineEmbedding_0"]["Dense_0"], cosines))
        hidden = relu(layer(p["QHead_0"]["MLP_0"]["Dense_0"], features * embedded))
        out[i, k] = layer(p["QHead_0"]["Dense_0"], hidden)
    return out


def test_against_a_twin(filled):
    module = ImplicitQuantileQValue(VectorEncoder((4,), (6,)), 3, 5, (7,))
    observations, taus = floats(2, 4), floats(2, 8)
    params = filled(module, observations, taus)
    out = jax.jit(module.apply)(params, observations, taus)
    assert (out.shape, out.dtype) == ((2, 8, 3), jnp.float32)
    np.testing.assert_allclose(
        out, twin(params, observations, taus), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("lead", [(), (5,), (2, 3)])
@pytest.mark.parametrize("dueling", [False, True])
@pytest.mark.parametrize("noisy", [False, True])
def test_shapes(lead, dueling, noisy):
    iqn = iqn_factory(CARTPOLE, spaces.Discrete(3), dueling=dueling, noisy=noisy)
    inputs = jnp.ones((*lead, 4)), jnp.ones((*lead, 8))
    out, params = jax.eval_shape(iqn.init_with_output, KEY, *inputs)
    assert out.shape == (*lead, 8, 3)
    params = params["params"]
    assert params["CosineEmbedding_0"]["Dense_0"]["kernel"].shape == (64, 64)
    # The first hidden layer is the encoder's, the second the head's.
    assert list(params["encoder"]["MLP_0"]) == ["Dense_0"]
    hidden = params["QHead_0"]["value_hidden" if dueling else "MLP_0"]
    assert list(hidden) == ["NoisyDense_0" if noisy else "Dense_0"]


def test_images_are_embedded_after_the_convolutions():
    frames = spaces.Box(0, 255, (4, 84, 84), np.uint8)
    iqn = iqn_factory(frames, spaces.MultiDiscrete([2, 3]), n_cosines=32)
    inputs = jnp.zeros((2, 4, 84, 84), jnp.uint8), jnp.ones((2, 8))
    out, params = jax.eval_shape(iqn.init_with_output, KEY, *inputs)
    assert out.shape == (2, 8, 6)
    params = params["params"]
    assert params["CosineEmbedding_0"]["Dense_0"]["kernel"].shape == (32, 3136)
    assert params["QHead_0"]["MLP_0"]["Dense_0"]["kernel"].shape == (3136, 512)


def test_noise_is_shared_over_batch_and_fractions():
    iqn = iqn_factory(CARTPOLE, spaces.Discrete(2), hidden_sizes=(4, 4), noisy=True)
    params = init_params(KEY, iqn, [(4,), (8,)])
    inputs = jnp.ones((3, 4)), jnp.full((3, 8), 0.3)
    out = iqn.apply(params, *inputs, rngs={"noise": KEY})
    np.testing.assert_allclose(out, jnp.broadcast_to(out[0, 0], (3, 8, 2)), rtol=1e-5)
    assert not np.allclose(out, iqn.apply(params, *inputs))


def test_gradients_reach_every_parameter(filled):
    iqn = iqn_factory(CARTPOLE, spaces.Discrete(2), hidden_sizes=(8, 8), dueling=True)
    inputs = floats(16, 4), floats(16, 8)
    params = filled(iqn, *inputs)
    grads = jax.grad(lambda p: (iqn.apply(p, *inputs) ** 2).sum())(params)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(grads))


@pytest.mark.parametrize(
    "observations, taus", [((3, 4), (8,)), ((3, 4), (1, 8)), ((4,), ()), ((4,), (3, 8))]
)
def test_fractions_are_not_broadcast(observations, taus):
    iqn = iqn_factory(CARTPOLE, spaces.Discrete(2))
    with pytest.raises(ValueError, match="taus must have the leading axes"):
        iqn.init(KEY, jnp.ones(observations), jnp.ones(taus))


def test_arguments_that_are_refused():
    actions = spaces.Discrete(2)
    with pytest.raises(TypeError, match="taus must be float32, got int32"):
        iqn_factory(CARTPOLE, actions).init(KEY, jnp.ones(4), jnp.ones(8, int))
    with pytest.raises(ValueError, match="n_cosines must be at least 1"):
        iqn_factory(CARTPOLE, actions, n_cosines=0)
    for name in ("dueling", "noisy", "layer_norm"):
        with pytest.raises(TypeError, match=f"{name} must be a bool"):
            iqn_factory(CARTPOLE, actions, **{name: 1})
    with pytest.raises(ValueError, match="Discrete or a MultiDiscrete"):
        iqn_factory(CARTPOLE, CARTPOLE)
