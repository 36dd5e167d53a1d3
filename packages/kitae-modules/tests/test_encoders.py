import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces

from kitae.modules.encoders import (
    DictEncoder,
    DiscreteEncoder,
    ImpalaCNN,
    MultiDiscreteEncoder,
    NatureCNN,
    VectorEncoder,
    encoder_factory,
    split_encoder,
)

KEY = jax.random.key(0)


def box(*shape, dtype=np.float32):
    return spaces.Box(0, 255 if dtype == np.uint8 else 1, shape, dtype)


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
        ((84, 84, 84), None, "ambiguous: .*or make the network with channel_first"),
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
        (spaces.MultiBinary((2, 3)), VectorEncoder, (64, 64)),
        (spaces.MultiDiscrete([2, 3], start=[1, 0]), MultiDiscreteEncoder, (64, 64)),
        (box(4, 84, 84, dtype=np.uint8), NatureCNN, (512,)),
        (box(84, 84, 3), NatureCNN, (512,)),
    ],
)
def test_the_encoder_of_a_space(space, kind, sizes, filled):
    assert type(encoder_factory(space)) is kind
    assert encoder_factory(space).hidden_sizes == sizes
    encoder = encoder_factory(space, hidden_sizes=[7, 3])
    space.seed(0)
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
        (spaces.Text(3), TypeError, "observation_space must be.*Text"),
        (spaces.Tuple([spaces.Text(3)]), TypeError, r"observation_space\[0\] must"),
        (spaces.Tuple([]), ValueError, "no part"),
        (spaces.Dict(x=spaces.Text(3)), TypeError, r"observation_space\['x'\] must"),
        ((4,), TypeError, r"a Box, a Discrete.*got \(4,\)"),
        (spaces.Dict(action_mask=spaces.MultiBinary(2)), ValueError, "no part"),
        (spaces.Dict({}), ValueError, "no part"),
        (spaces.MultiDiscrete([]), ValueError, "empty"),
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
        ({"layer_norm": 1}, TypeError, "layer_norm must be a bool"),
        ({"image_encoder": "impala"}, TypeError, "image_encoder must be callable"),
    ],
)
def test_arguments_that_are_refused(kwargs, error, match):
    for space in (box(4), spaces.Discrete(4)):
        with pytest.raises(error, match=match):
            encoder_factory(space, **kwargs)


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


def test_the_encoder_of_images_is_ones_choice():
    impala = functools.partial(ImpalaCNN, width=2, pool_size=6)
    encoder = encoder_factory(box(4, 84, 84), image_encoder=impala, layer_norm=True)
    assert encoder == ImpalaCNN((256,), True, (4, 84, 84), True, width=2, pool_size=6)
    encoder = encoder_factory(
        box(10, 10, 4), hidden_sizes=(9,), channel_first=False, image_encoder=impala
    )
    assert (encoder.hidden_sizes, encoder.channel_first) == ((9,), False)
    with pytest.raises(TypeError, match="image_encoder must make an ImageEncoder"):
        encoder_factory(box(4, 84, 84), image_encoder=lambda **_: nn.Dense(3))


def test_layouts_of_the_images_in_a_dict():
    space = spaces.Dict(a=box(40, 40, 40), b=box(3))
    with pytest.raises(ValueError, match="ambiguous"):
        encoder_factory(space)
    encoder = encoder_factory(space, channel_first=True)
    assert isinstance(encoder, DictEncoder)
    assert encoder.parts["a"].channel_first is True
    with pytest.raises(ValueError, match="for images with three axes"):
        encoder_factory(spaces.Dict(b=box(3)), channel_first=True)


@pytest.mark.parametrize(
    "space, hidden_sizes, encoder_sizes, head_sizes",
    [
        (box(4), None, (64,), (64,)),
        (box(4), (8,), (), (8,)),
        (box(4), (), (), ()),
        (spaces.Discrete(4), (3, 2, 1), (3, 2), (1,)),
        (box(4, 84, 84), None, (), (512,)),
        (box(4, 84, 84), (8, 4), (), (8, 4)),
        (spaces.Dict(a=box(2), b=spaces.Discrete(2)), (8, 4), (8,), (4,)),
        (spaces.Dict(a=box(2), b=box(4, 84, 84)), (8, 4), (), (8, 4)),
    ],
)
def test_the_last_layers_are_left_to_the_head(
    space, hidden_sizes, encoder_sizes, head_sizes
):
    encoder, found = split_encoder(space, hidden_sizes=hidden_sizes)
    assert (tuple(encoder.hidden_sizes), found) == (encoder_sizes, head_sizes)


def test_what_preprocess_fn_returns_splits_the_layers():
    encoder, head_sizes = split_encoder(
        box(84, 84), hidden_sizes=(8, 4), preprocess_fn=lambda x: x[..., None]
    )
    assert (encoder.encoder.hidden_sizes, head_sizes) == ((), (8, 4))
