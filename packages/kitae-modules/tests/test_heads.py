import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kitae.modules.heads import QHead

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
FEATURES = RNG.normal(size=(2, 3, 5)).astype(np.float32)


def layer(params, x):
    return x @ params["kernel"] + params["bias"]


@pytest.mark.parametrize("n_atoms", [None, 7])
@pytest.mark.parametrize("dueling", [False, True])
@pytest.mark.parametrize("noisy", [False, True])
@pytest.mark.parametrize("lead", [(), (4,), (2, 3)])
def test_shapes(n_atoms, dueling, noisy, lead):
    head = QHead(3, n_atoms, (6,), dueling, noisy)
    out, params = jax.eval_shape(head.init_with_output, KEY, jnp.ones((*lead, 5)))
    expected = (*lead, 3) if n_atoms is None else (*lead, 3, n_atoms)
    assert (out.shape, out.dtype) == (expected, jnp.float32)
    assert set(params) == {"params"}
    is_noisy = [
        "sigma" in jax.tree_util.keystr(path)
        for path, _ in jax.tree_util.tree_leaves_with_path(params)
    ]
    assert sum(is_noisy) == (len(is_noisy) // 2 if noisy else 0)


def test_a_plain_head(filled):
    head = QHead(3, hidden_sizes=(6,))
    params = filled(head, FEATURES)
    leaves = params["params"]
    hidden = np.maximum(layer(leaves["MLP_0"]["Dense_0"], FEATURES), 0)
    expected = layer(leaves["Dense_0"], hidden)
    out = head.apply(params, FEATURES)
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("n_atoms", [None, 7])
def test_dueling_subtracts_the_mean_advantage(n_atoms, filled):
    head = QHead(3, n_atoms, (6,), dueling=True)
    params = filled(head, FEATURES)
    leaves = params["params"]

    def stream(name):
        hidden = np.maximum(layer(leaves[f"{name}_hidden"]["Dense_0"], FEATURES), 0)
        return layer(leaves[name], hidden).reshape(2, 3, -1, n_atoms or 1)

    value, advantage = stream("value"), stream("advantage")
    assert (value.shape[2], advantage.shape[2]) == (1, 3)
    expected = value + advantage - advantage.mean(2, keepdims=True)
    out = np.asarray(head.apply(params, FEATURES)).reshape(expected.shape)
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)
    # So the mean over actions, for each atom, is the value.
    np.testing.assert_allclose(out.mean(2, keepdims=True), value, rtol=1e-4, atol=1e-5)


def test_every_layer_of_a_noisy_head_is_noisy():
    head = QHead(2, hidden_sizes=(6,), dueling=True, noisy=True)
    params = head.init(KEY, FEATURES)
    noisy = head.apply(params, FEATURES, rngs={"noise": KEY})
    again = head.apply(params, FEATURES, rngs={"noise": KEY})
    mean = head.apply(params, FEATURES)
    np.testing.assert_array_equal(noisy, again)
    np.testing.assert_array_equal(mean, head.apply(params, FEATURES))
    assert not np.allclose(noisy, mean)

    def loss(params):
        return (head.apply(params, FEATURES, rngs={"noise": KEY}) ** 2).sum()

    for path, grad in jax.tree_util.tree_leaves_with_path(jax.grad(loss)(params)):
        assert np.abs(grad).max() > 0, jax.tree_util.keystr(path)


def test_layer_norm_of_hidden_layers_only():
    head = QHead(2, hidden_sizes=(6, 4), layer_norm=True)
    params = jax.eval_shape(head.init, KEY, FEATURES)["params"]
    norms = ["LayerNorm_0", "LayerNorm_1"]
    assert sorted(params) == ["Dense_0", "MLP_0"]
    assert sorted(params["MLP_0"]) == ["Dense_0", "Dense_1", *norms]
