import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kitae.modules.images import ImageEncoder, ImpalaCNN, NatureCNN
from kitae.modules.spectral import spectral_normalize

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)


def images(*shape):
    return RNG.integers(0, 256, shape, np.uint8)


def twin_cnn(params, image, n_dense):
    """The network in numpy, one output pixel at a time; image [height, width, c]."""
    x = np.asarray(image, np.float64)
    for i, stride in enumerate((4, 2, 1)):
        kernel = np.asarray(params[f"Conv_{i}"]["kernel"], np.float64)
        side = kernel.shape[0]
        n = (x.shape[0] - side) // stride + 1
        m = (x.shape[1] - side) // stride + 1
        out = np.zeros((n, m, kernel.shape[-1]))
        for r, c in itertools.product(range(n), range(m)):
            top, left = r * stride, c * stride
            patch = x[top : top + side, left : left + side]
            out[r, c] = np.tensordot(patch, kernel, 3)
        x = np.maximum(out + np.asarray(params[f"Conv_{i}"]["bias"]), 0)
    x = x.ravel()
    for i in range(n_dense):
        layer = params["MLP_0"][f"Dense_{i}"]
        x = np.maximum(x @ np.asarray(layer["kernel"]) + np.asarray(layer["bias"]), 0)
    return x


def test_nature_cnn_against_a_twin(filled):
    cnn = NatureCNN(hidden_sizes=(5, 3))
    batch = images(2, 40, 44, 2)
    params = filled(cnn, batch)
    expected = [twin_cnn(params["params"], image / 255, 2) for image in batch]
    out = jax.jit(cnn.apply)(params, batch)
    assert out.dtype == jnp.float32
    assert np.ptp(out) > 0
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5)


def test_nature_cnn_has_the_papers_sizes():
    image = jnp.zeros((84, 84, 4))
    params = jax.eval_shape(NatureCNN().init, KEY, image)["params"]
    shapes = {
        name: layer["kernel"].shape for name, layer in params.items() if "Conv" in name
    }
    assert shapes == {
        "Conv_0": (8, 8, 4, 32),
        "Conv_1": (4, 4, 32, 64),
        "Conv_2": (3, 3, 64, 64),
    }
    # 84 -> 20 -> 9 -> 7, and 7 * 7 * 64 = 3136
    assert params["MLP_0"]["Dense_0"]["kernel"].shape == (3136, 512)


def test_both_layouts_give_the_same_features(filled):
    last = images(2, 3, 36, 40, 4)
    first = np.moveaxis(last, -1, -3)
    assert first.shape == (2, 3, 4, 36, 40)
    cnn = NatureCNN((8,))
    params = filled(cnn, last)
    expected = np.asarray(jax.jit(cnn.apply)(params, last))
    assert expected.shape == (2, 3, 8)
    assert np.ptp(expected) > 0
    for layout, batch in ((None, first), (True, first), (False, last)):
        out = jax.jit(NatureCNN((8,), channel_first=layout).apply)(params, batch)
        np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)
    alone = jax.jit(cnn.apply)(params, first[1, 2])
    np.testing.assert_allclose(alone, expected[1, 2], rtol=1e-4, atol=1e-5)


def test_only_uint8_is_scaled(filled):
    cnn = NatureCNN((8,))
    batch = images(2, 36, 36, 1)
    params = filled(cnn, batch)
    # Without biases the network is homogeneous: 255 times the image, 255 times the
    # features.
    params = jax.tree.map(lambda p: p if p.ndim > 1 else 0 * p, params)
    apply = jax.jit(cnn.apply)
    scaled = apply(params, batch)
    assert np.ptp(scaled) > 0
    floats = apply(params, np.float32(batch) / np.float32(255))
    np.testing.assert_allclose(scaled, floats, rtol=1e-4, atol=1e-5)
    for dtype in (np.float32, np.int32):
        raw = apply(params, batch.astype(dtype))
        np.testing.assert_allclose(raw, 255 * scaled, rtol=1e-4, atol=1e-3)


def test_layer_norm_after_each_convolution():
    cnn = NatureCNN((8,), layer_norm=True)
    params = jax.eval_shape(cnn.init, KEY, jnp.zeros((36, 36, 2)))["params"]
    norms = [f"LayerNorm_{i}" for i in range(3)]
    assert sorted(params) == ["Conv_0", "Conv_1", "Conv_2", *norms, "MLP_0"]
    # Over the channels of a position: the parameters know no size of the image.
    assert params["LayerNorm_2"]["scale"].shape == (64,)
    assert sorted(params["MLP_0"]) == ["Dense_0", "LayerNorm_0"]


def test_layer_norm_of_a_convolution_is_over_channels(filled):
    batch = images(2, 36, 36, 1)
    cnn = NatureCNN((), layer_norm=True)
    params = filled(cnn, batch)
    # Without scale the last normalisation leaves its bias alone, activated.
    norm = params["params"]["LayerNorm_2"]
    norm["scale"] = np.zeros(64, np.float32)
    out = jax.jit(cnn.apply)(params, batch)
    np.testing.assert_allclose(out[0], np.maximum(norm["bias"], 0), atol=1e-6)
    # And with one, the channels have mean 0 and variance 1 at the one position.
    norm["scale"], norm["bias"] = np.ones(64, np.float32), np.full(64, 9, np.float32)
    out = jax.jit(cnn.apply)(params, batch)
    np.testing.assert_allclose(out.mean(-1), [9, 9], rtol=1e-4)
    np.testing.assert_allclose(out.std(-1), [1, 1], rtol=1e-3)


def convolve(params, x):
    """A convolution 3x3 with zeros around, one output pixel at a time."""
    kernel, bias = (np.asarray(params[name], np.float64) for name in ("kernel", "bias"))
    padded = np.pad(x, ((1, 1), (1, 1), (0, 0)))
    out = np.zeros((*x.shape[:2], kernel.shape[-1]))
    for r, c in np.ndindex(x.shape[:2]):
        out[r, c] = np.tensordot(padded[r : r + 3, c : c + 3], kernel, 3) + bias
    return out


def pooled(x):
    """The maximum over 3x3 with stride 2; an even side is extended at its end only."""
    height, width = (-(-n // 2) for n in x.shape[:2])
    top, left = (n % 2 for n in x.shape[:2])
    out = np.zeros((height, width, x.shape[2]))
    for r, c in np.ndindex(height, width):
        rows = slice(max(2 * r - top, 0), 2 * r - top + 3)
        columns = slice(max(2 * c - left, 0), 2 * c - left + 3)
        out[r, c] = x[rows, columns].max((0, 1))
    return out


def twin_impala(params, image, spectral_norm, pool_size):
    x = np.asarray(image, np.float64) / 255
    layers = iter(dict(params[f"Conv_{i}"]) for i in range(15))
    for _ in range(3):
        x = pooled(convolve(next(layers), x))
        for _ in range(2):
            inner = x
            for _ in range(2):
                layer = next(layers)
                if spectral_norm:
                    layer["kernel"] = np.asarray(spectral_normalize(layer["kernel"]))
                inner = convolve(layer, np.maximum(inner, 0))
            x = x + inner
    x = np.maximum(x, 0)
    if pool_size is not None:
        n, size = len(x), pool_size
        cells = [slice(i * n // size, -(-(i + 1) * n // size)) for i in range(size)]
        x = np.array([[x[r, c].max((0, 1)) for c in cells] for r in cells])
    dense = params["MLP_0"]["Dense_0"]
    return np.maximum(x.ravel() @ dense["kernel"] + dense["bias"], 0)


@pytest.mark.parametrize("spectral_norm, pool_size", [(False, None), (True, 2)])
def test_impala_against_a_twin(spectral_norm, pool_size, filled):
    cnn = ImpalaCNN(
        (5,), channel_first=False, spectral_norm=spectral_norm, pool_size=pool_size
    )
    batch = images(2, 20, 20, 2)
    params = filled(cnn, batch)
    out = jax.jit(cnn.apply)(params, batch)
    expected = [
        twin_impala(params["params"], image, spectral_norm, pool_size)
        for image in batch
    ]
    assert np.ptp(out) > 0
    np.testing.assert_allclose(out, expected, rtol=1e-3, atol=1e-3)


def test_impala_has_the_papers_sizes():
    cnn = ImpalaCNN(width=2)
    params = jax.eval_shape(cnn.init, KEY, jnp.zeros((84, 84, 4)))["params"]
    kernels = [params[f"Conv_{i}"]["kernel"].shape for i in range(15)]
    sections = [(4, 32), (32, 64), (64, 64)]
    expected = [
        (3, 3, before, after)
        for first, features in sections
        for before, after in [(first, features), *4 * [(features, features)]]
    ]
    assert kernels == expected
    # 84 -> 42 -> 21 -> 11
    assert params["MLP_0"]["Dense_0"]["kernel"].shape == (11 * 11 * 64, 256)
    # Normalised or not, the parameters are the same, and there are no others.
    normalised = ImpalaCNN(width=2, spectral_norm=True)
    other = jax.eval_shape(normalised.init, KEY, jnp.zeros((84, 84, 4)))
    assert other == {"params": params}


@pytest.mark.parametrize("sides", [(84, 84), (64, 96), (10, 10)])
def test_pooling_makes_the_features_of_any_size(sides):
    cnn = ImpalaCNN((7,), channel_first=False, pool_size=6)
    out, params = jax.eval_shape(cnn.init_with_output, KEY, jnp.zeros((2, *sides, 3)))
    assert out.shape == (2, 7)
    assert params["params"]["MLP_0"]["Dense_0"]["kernel"].shape == (6 * 6 * 32, 7)


def test_both_layouts_and_leading_axes_of_impala(filled):
    last = images(2, 3, 36, 40, 4)
    cnn = ImpalaCNN((8,), pool_size=2)
    params = filled(cnn, last)
    expected = np.asarray(jax.jit(cnn.apply)(params, last))
    assert expected.shape == (2, 3, 8)
    first = np.moveaxis(last[0, 1], -1, 0)
    out = jax.jit(cnn.apply)(params, first)
    np.testing.assert_allclose(out, expected[0, 1], rtol=1e-4, atol=1e-4)


def test_small_images_need_their_layout_said():
    small = jnp.zeros((10, 10, 4))
    with pytest.raises(ValueError, match=r"cannot be inferred.*with channel_first"):
        ImpalaCNN().init(KEY, small)
    with pytest.raises(ValueError, match="below 36 pixels"):
        NatureCNN(channel_first=False, observation_shape=(10, 10, 4))
    cnn = ImpalaCNN((3,), channel_first=False, observation_shape=(10, 10, 4))
    out, _ = jax.eval_shape(cnn.init_with_output, KEY, small)
    assert out.shape == (3,)


@pytest.mark.parametrize("name", ["width", "pool_size"])
def test_arguments_of_impala_that_are_refused(name):
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        ImpalaCNN(**{name: 0})
    with pytest.raises(TypeError, match=f"{name} must be an int"):
        ImpalaCNN(**{name: 1.5})


def test_a_convolution_of_ones_own():
    class Tiny(ImageEncoder):
        def convolve(self, x):
            return x.mean((1, 2))

    out = Tiny((), channel_first=True).apply({}, jnp.full((2, 3, 5, 5), 255, jnp.uint8))
    np.testing.assert_array_equal(out, np.ones((2, 3)))
    with pytest.raises(NotImplementedError, match="ImageEncoder must write convolve"):
        ImageEncoder(channel_first=True).init(KEY, jnp.zeros((3, 5, 5)))
