import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces

from kitae.modules.encoders import (
    MLP,
    DiscreteEncoder,
    NatureCNN,
    PreprocessedEncoder,
    VectorEncoder,
    encoder_factory,
)

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)


def box(*shape, dtype=np.float32):
    return spaces.Box(0, 255 if dtype == np.uint8 else 1, shape, dtype)


def images(*shape):
    return RNG.integers(0, 256, shape, np.uint8)


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


def test_vector_encoder_flattens_and_casts():
    encoder = VectorEncoder((2, 3), ())
    observations = np.arange(24, dtype=np.uint8).reshape(4, 2, 3)
    out = encoder.apply({}, observations)
    assert out.dtype == jnp.float32
    np.testing.assert_array_equal(out, np.arange(24.0).reshape(4, 6))
    np.testing.assert_array_equal(
        encoder.apply({}, observations[1]), np.arange(6.0, 12)
    )
    assert encoder.apply({}, observations.reshape(2, 2, 2, 3)).shape == (2, 2, 6)
    assert VectorEncoder((), ()).apply({}, jnp.ones(5)).shape == (5, 1)


@pytest.mark.parametrize("shape", [(3,), (5, 3), (5, 3, 2), (5, 6)])
def test_vector_encoder_refuses_other_shapes(shape):
    with pytest.raises(
        ValueError, match=r"observations must have the shape \[..., 2, 3"
    ):
        VectorEncoder((2, 3), ()).apply({}, jnp.ones(shape))


@pytest.mark.parametrize("dtype", [jnp.int32, jnp.uint8, jnp.float32])
def test_discrete_encoder_is_one_hot_from_start(dtype):
    out = DiscreteEncoder(3, start=2, hidden_sizes=()).apply(
        {}, jnp.array([2, 4, 3], dtype)
    )
    assert out.dtype == jnp.float32
    np.testing.assert_array_equal(out, [[1, 0, 0], [0, 0, 1], [0, 1, 0]])


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


@pytest.mark.parametrize(
    "shape, said, expected",
    [
        ((4, 84, 84), None, True),
        ((84, 84, 4), None, False),
        ((1, 36, 36), None, True),
        ((35, 84, 84), None, True),
        ((210, 160, 3), None, False),
        ((84, 84, 84), True, True),
        ((84, 84, 84), False, False),
    ],
)
def test_layouts(shape, said, expected):
    encoder = encoder_factory(box(*shape), channel_first=said)
    assert isinstance(encoder, NatureCNN)
    assert encoder.channel_first is expected


@pytest.mark.parametrize(
    "shape, said, match",
    [
        ((84, 84, 84), None, "ambiguous: say channel_first"),
        ((40, 84, 84), None, "ambiguous"),
        ((10, 10, 4), None, "below 36 pixels"),
        ((4, 84, 3), None, "below 36 pixels"),
        ((35, 84, 3), None, "below 36 pixels"),
        ((4, 84, 84), False, "below 36 pixels"),
        ((84, 84, 4), True, "below 36 pixels"),
    ],
)
def test_images_that_are_refused(shape, said, match):
    with pytest.raises(ValueError, match=match):
        encoder_factory(box(*shape), channel_first=said)
    with pytest.raises(ValueError, match=match):
        NatureCNN(channel_first=said).init(KEY, jnp.zeros((1, *shape)))


def test_an_image_without_channels_is_refused():
    with pytest.raises(ValueError, match=r"three axes, got the shape \(84, 84\)"):
        NatureCNN().init(KEY, jnp.zeros((84, 84)))
    # Without its channels, a batch of 4 would pass as one image of 4 channels.
    encoder = encoder_factory(box(84, 84, 4))
    with pytest.raises(ValueError, match=r"\[..., 84, 84, 4\]"):
        encoder.init(KEY, jnp.zeros((4, 84, 84)))


@pytest.mark.parametrize(
    "space, kind, sizes",
    [
        (box(4), VectorEncoder, (64, 64)),
        (box(2, 5), VectorEncoder, (64, 64)),
        (box(), VectorEncoder, (64, 64)),
        (box(128, dtype=np.uint8), VectorEncoder, (64, 64)),
        (spaces.Discrete(5, start=3), DiscreteEncoder, (64, 64)),
        (box(4, 84, 84, dtype=np.uint8), NatureCNN, (512,)),
        (box(84, 84, 3), NatureCNN, (512,)),
    ],
)
def test_the_encoder_of_a_space(space, kind, sizes, filled):
    assert type(encoder_factory(space)) is kind
    assert encoder_factory(space).hidden_sizes == sizes
    encoder = encoder_factory(space, hidden_sizes=[7, 3])
    batch = np.stack([space.sample() for _ in range(2)])
    params = filled(encoder, batch)
    for observations, lead in ((batch, (2,)), (batch[0], ()), (batch[:, None], (2, 1))):
        out = jax.eval_shape(encoder.apply, params, observations)
        assert (out.shape, out.dtype) == ((*lead, 3), jnp.float32)


def test_the_start_of_a_discrete_space():
    encoder = encoder_factory(spaces.Discrete(3, start=-1), hidden_sizes=())
    out = encoder.apply({}, np.array([-1, 1]))
    np.testing.assert_array_equal(out, [[1, 0, 0], [0, 0, 1]])


@pytest.mark.parametrize(
    "space, error, match",
    [
        (spaces.MultiDiscrete([2, 3]), TypeError, "MultiDiscrete"),
        (spaces.MultiBinary(3), TypeError, "MultiBinary"),
        (spaces.Dict({"x": box(2)}), TypeError, "Dict"),
        ((4,), TypeError, "Box or a Discrete"),
        (box(4, 84, 84, 3), ValueError, r"\(4, 84, 84, 3\).*preprocess_fn"),
        (box(84, 84, dtype=np.uint8), ValueError, r"\(84, 84\) and dtype uint8"),
        (box(0), ValueError, "empty"),
    ],
)
def test_spaces_that_are_refused(space, error, match):
    with pytest.raises(error, match=match):
        encoder_factory(space)


@pytest.mark.parametrize(
    "kwargs, error, match",
    [
        ({"hidden_sizes": (64, 0)}, ValueError, r"hidden_sizes\[1\]"),
        ({"hidden_sizes": (6.5,)}, TypeError, r"hidden_sizes\[0\]"),
        ({"hidden_sizes": 64}, TypeError, "hidden_sizes must be a sequence"),
        ({"channel_first": True}, ValueError, "for images with three axes"),
        ({"channel_first": "yes"}, TypeError, "channel_first must be a bool"),
        ({"preprocess_fn": 3}, TypeError, "preprocess_fn must be callable"),
    ],
)
def test_arguments_that_are_refused(kwargs, error, match):
    for space in (box(4), spaces.Discrete(4)):
        with pytest.raises(error, match=match):
            encoder_factory(space, **kwargs)


def test_preprocess_fn_comes_first_and_sees_one_batch_axis():
    seen = []

    def halve(observations):
        seen.append((observations.shape, str(observations.dtype)))
        return observations.astype(jnp.float32) / 2

    space = box(3, dtype=np.uint8)
    encoder = encoder_factory(space, hidden_sizes=(), preprocess_fn=halve)
    assert isinstance(encoder, PreprocessedEncoder)
    seen.clear()
    batch = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    out = encoder.apply({}, batch)
    np.testing.assert_array_equal(out, batch / 2)
    np.testing.assert_array_equal(encoder.apply({}, batch[1, 1]), batch[1, 1] / 2)
    assert seen == [((4, 3), "uint8"), ((1, 3), "uint8")]
    with pytest.raises(ValueError, match=r"\[..., 3\]"):
        encoder.apply({}, batch[..., :2])


def test_what_preprocess_fn_returns_chooses_the_encoder():
    def flatten(x):
        return x.reshape(x.shape[0], -1) / 255.0

    encoder = encoder_factory(box(10, 10, 3), preprocess_fn=flatten)
    assert isinstance(encoder.encoder, VectorEncoder)
    assert encoder.encoder.observation_shape == (300,)
    encoder = encoder_factory(box(84, 84), preprocess_fn=lambda x: x[..., None])
    assert isinstance(encoder.encoder, NatureCNN)
    out, _ = jax.eval_shape(encoder.init_with_output, KEY, jnp.ones((2, 84, 84)))
    assert out.shape == (2, 512)
    encoder = encoder_factory(
        spaces.Discrete(5), preprocess_fn=lambda x: nn.one_hot(x // 2, 3)
    )
    assert encoder.encoder.observation_shape == (3,)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x[0],
        lambda x: x.sum(),
        lambda x: x.T,
        lambda x: (x, x),
        lambda x: jnp.concatenate([x, x]),
    ],
)
def test_preprocess_fn_must_keep_the_batch_axis(function):
    with pytest.raises(
        ValueError, match="preprocess_fn must return one array and keep"
    ):
        encoder_factory(box(3), preprocess_fn=function)


def test_a_preprocess_fn_that_jax_cannot_trace():
    with pytest.raises(jax.errors.TracerArrayConversionError) as caught:
        encoder_factory(box(3), preprocess_fn=np.sort)
    assert any("preprocess_fn" in note for note in caught.value.__notes__)
