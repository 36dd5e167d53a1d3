import jax
import jax.numpy as jnp
import numpy as np

from kitae.modules.dense import MLP, NoisyDense

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)


def dense(*layers):
    return {
        f"Dense_{i}": {"kernel": jnp.float32(kernel), "bias": jnp.float32(bias)}
        for i, (kernel, bias) in enumerate(layers)
    }


def test_mlp_activates_every_layer():
    layers = dense(([[1.0, -1.0]], [0.0, 1.0]), ([[2.0], [1.0]], [-1.0]))
    mlp = MLP((2, 1))
    # 3 -> relu(3, -2) -> 2 * 3 - 1; 0 -> relu(0, 1) -> 1 - 1; -1 -> relu(-1, 2) -> 1
    out = mlp.apply({"params": layers}, jnp.array([[3.0], [0.0], [-1.0]]))
    np.testing.assert_array_equal(out, [[5.0], [0.0], [1.0]])
    negative = MLP((1,), jnp.negative)
    out = negative.apply({"params": dense(([[1.0]], [0.0]))}, jnp.array([3.0]))
    np.testing.assert_array_equal(out, [-3.0])


def test_layer_norm_comes_before_the_activation():
    mlp = MLP((4,), layer_norm=True)
    params = {
        "Dense_0": {"kernel": jnp.eye(4), "bias": jnp.zeros(4)},
        "LayerNorm_0": {"scale": jnp.full(4, 2.0), "bias": jnp.full(4, 0.5)},
    }
    # Mean 2, variance 5: (x - 2) / sqrt(5) is -3, -1, 1 and 3 over sqrt(5).
    out = mlp.apply({"params": params}, jnp.array([[-1.0, 1.0, 3.0, 5.0]]))
    normal = np.array([-3.0, -1.0, 1.0, 3.0]) / np.sqrt(5)
    np.testing.assert_allclose(out[0], np.maximum(2 * normal + 0.5, 0), rtol=1e-5)
    assert out[0, 0] == 0.0


def test_a_plain_mlp_has_no_other_parameters():
    shapes = jax.eval_shape(MLP((3, 2)).init, KEY, jnp.zeros((1, 4)))
    assert jax.tree.map(lambda leaf: leaf.shape, shapes["params"]) == {
        "Dense_0": {"kernel": (4, 3), "bias": (3,)},
        "Dense_1": {"kernel": (3, 2), "bias": (2,)},
    }


def test_noisy_parameters_start_as_in_the_paper():
    params = NoisyDense(200).init(KEY, jnp.zeros((1, 16)))["params"]
    assert {name: leaf.shape for name, leaf in params.items()} == {
        "kernel": (16, 200),
        "bias": (200,),
        "kernel_sigma": (16, 200),
        "bias_sigma": (200,),
    }
    # p = 16: mu in [-1/4, 1/4], sigma 0.5 / 4
    for name in ("kernel", "bias"):
        assert -0.25 <= params[name].min() < -0.2
        assert 0.2 < params[name].max() <= 0.25
        assert (params[f"{name}_sigma"] == 0.125).all()
    other = NoisyDense(3, sigma0=1.0).init(KEY, jnp.zeros((1, 16)))["params"]
    assert (other["kernel_sigma"] == 0.25).all()


def noisy_params(mean, sigma):
    return {
        "params": {
            "kernel": jnp.full((4, 3), mean),
            "bias": jnp.full(3, mean),
            "kernel_sigma": jnp.full((4, 3), sigma),
            "bias_sigma": jnp.full(3, sigma),
        }
    }


def test_without_the_rng_the_mean_weights_are_used(filled):
    layer = NoisyDense(3)
    x = RNG.normal(size=(2, 5, 4)).astype(np.float32)
    params = filled(layer, x)
    leaves = params["params"]
    expected = x @ leaves["kernel"] + leaves["bias"]
    np.testing.assert_allclose(layer.apply(params, x), expected, rtol=1e-5, atol=1e-6)
    quiet = layer.apply(noisy_params(2.0, 0.0), x, rngs={"noise": KEY})
    plain = layer.apply(noisy_params(2.0, 9.0), x)
    np.testing.assert_array_equal(quiet, plain)


def noise_of(key):
    """The noise that a layer adds: that of the bias, and that of each weight."""
    inputs = jnp.concatenate([jnp.zeros((1, 4)), jnp.eye(4)])
    out = NoisyDense(3).apply(noisy_params(0.0, 1.0), inputs, rngs={"noise": key})
    out = np.asarray(out)
    return out[0], out[1:] - out[0]


def test_noise_is_factorised():
    bias, weights = noise_of(KEY)
    assert (bias != 0).all()
    # f(eps_i) f(eps_j): rank one, and each row is a multiple of the bias's noise.
    assert np.linalg.matrix_rank(weights, tol=1e-5) == 1
    ratios = weights / bias
    np.testing.assert_allclose(ratios, ratios[:, :1].repeat(3, 1), rtol=1e-3)


def test_the_noise_has_the_moments_of_the_paper():
    keys = jax.random.split(KEY, 4000)
    inputs = jnp.concatenate([jnp.zeros((1, 4)), jnp.eye(4)])
    apply = jax.vmap(
        lambda key: NoisyDense(3).apply(
            noisy_params(0.0, 1.0), inputs, rngs={"noise": key}
        )
    )
    out = np.asarray(jax.jit(apply)(keys))
    bias, weights = out[:, 0], out[:, 1:] - out[:, :1]
    for noise in (bias, weights):
        # f(eps)^2 = |eps|: the variance is sqrt(2/pi), and of a product its square.
        expected = np.sqrt(2 / np.pi) ** (noise.ndim - 1)
        assert abs(noise.mean()) < 0.03
        np.testing.assert_allclose(noise.var(), expected, rtol=0.05)
    # f(eps)^4 = eps^2, whose mean is 1.
    np.testing.assert_allclose((bias**4).mean(), 1.0, rtol=0.1)


def test_one_sample_of_noise_for_a_batch_and_another_for_another_key():
    layer, x = NoisyDense(3), jnp.ones((6, 4))
    params = noisy_params(0.0, 1.0)
    first = layer.apply(params, x, rngs={"noise": KEY})
    np.testing.assert_array_equal(first, first[:1].repeat(6, 0))
    assert not np.allclose(
        first, layer.apply(params, x, rngs={"noise": jax.random.key(1)})
    )


def test_layers_of_a_stack_have_noise_of_their_own():
    mlp = MLP((4, 4), activation=lambda x: x, noisy=True)
    layer = {
        "kernel": jnp.eye(4),
        "bias": jnp.zeros(4),
        "kernel_sigma": jnp.zeros((4, 4)),
        "bias_sigma": jnp.ones(4),
    }
    quiet = {**layer, "bias_sigma": jnp.zeros(4)}

    def noise(first, second):
        params = {"params": {"NoisyDense_0": first, "NoisyDense_1": second}}
        return mlp.apply(params, jnp.zeros((1, 4)), rngs={"noise": KEY})

    assert not np.allclose(noise(layer, quiet), noise(quiet, layer))


def test_gradients_reach_sigma_where_there_is_noise():
    def loss(params, rngs):
        return NoisyDense(3).apply(params, jnp.ones((2, 4)), rngs=rngs).sum()

    params = noisy_params(1.0, 1.0)
    grads = jax.grad(loss)(params, {"noise": KEY})["params"]
    bias, weights = noise_of(KEY)
    # Two rows of ones: each weight's gradient is twice its noise.
    np.testing.assert_allclose(grads["kernel_sigma"], 2 * weights, rtol=1e-4)
    np.testing.assert_allclose(grads["bias_sigma"], 2 * bias, rtol=1e-4)
    np.testing.assert_array_equal(grads["kernel"], np.full((4, 3), 2.0))
    silent = jax.grad(loss)(params, {})["params"]
    np.testing.assert_array_equal(silent["kernel_sigma"], np.zeros((4, 3)))


def test_noise_under_jit_and_over_seeds():
    layer = NoisyDense(3)

    @jax.jit
    @jax.vmap
    def run(key):
        params = layer.init(key, jnp.zeros((1, 4)))
        return layer.apply(params, jnp.ones((2, 4)), rngs={"noise": key})

    keys = jax.random.split(KEY, 3)
    out = run(keys)
    assert out.shape == (3, 2, 3)
    assert len(np.unique(np.asarray(out))) == 9
    np.testing.assert_allclose(out[1], run(keys[1:2])[0], rtol=1e-6)
