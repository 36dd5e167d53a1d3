import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces

from kitae.modules.dense import MLP
from kitae.modules.encoders import encoder_factory
from kitae.modules.images import ImpalaCNN
from kitae.modules.joint import PreprocessedEncoder, TupleEncoder, has_image


def test_preprocess_fn_comes_first_and_sees_one_batch_axis():
    seen = []

    def halve(observations):
        seen.append((observations.shape, str(observations.dtype)))
        return observations.astype(jnp.float32) / 2

    space = spaces.Box(0, 255, (3,), np.uint8)
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


SPACE = spaces.Dict(
    position=spaces.Box(-1.0, 1.0, (2,)),
    room=spaces.Discrete(3, start=1),
    keys=spaces.MultiBinary(2),
    action_mask=spaces.MultiBinary(4),
)


def stacked(space, *lead):
    n = int(np.prod(lead))
    space.seed(n)
    samples = [space.sample() for _ in range(n)]
    return jax.tree.map(
        lambda *x: np.stack(x).reshape(*lead, *np.shape(x[0])), *samples
    )


def test_the_parts_are_joined_in_the_order_of_their_names():
    encoder = encoder_factory(SPACE, hidden_sizes=())
    observation = {
        "position": np.array([0.5, -0.5], np.float32),
        "room": np.int64(3),
        "keys": np.array([1, 0], np.int8),
        "action_mask": np.ones(4, np.int8),
    }
    expected = [1, 0, 0.5, -0.5, 0, 0, 1]
    np.testing.assert_array_equal(encoder.apply({}, observation), expected)
    del observation["action_mask"]
    np.testing.assert_array_equal(encoder.apply({}, observation), expected)


def test_the_dense_layers_are_of_the_joint_features(filled):
    encoder = encoder_factory(SPACE)
    batch = stacked(SPACE, 5)
    params = filled(encoder, batch)
    shapes = jax.tree.map(lambda leaf: leaf.shape, params["params"])
    assert shapes == {
        "MLP_0": {
            "Dense_0": {"kernel": (7, 64), "bias": (64,)},
            "Dense_1": {"kernel": (64, 64), "bias": (64,)},
        }
    }
    joint = encoder_factory(SPACE, hidden_sizes=()).apply({}, batch)
    expected = MLP((64, 64)).apply({"params": params["params"]["MLP_0"]}, joint)
    np.testing.assert_allclose(encoder.apply(params, batch), expected, rtol=1e-5)


@pytest.mark.parametrize("lead", [(1,), (2, 3)])
def test_leading_axes_of_a_dict(lead, filled):
    encoder = encoder_factory(SPACE, hidden_sizes=(4,))
    batch = stacked(SPACE, *lead)
    params = filled(encoder, SPACE.sample())
    out = jax.jit(encoder.apply)(params, batch)
    assert out.shape == (*lead, 4)
    index = (0,) * len(lead)
    alone = encoder.apply(params, jax.tree.map(lambda x: x[index], batch))
    np.testing.assert_allclose(out[index], alone, rtol=1e-5, atol=1e-6)


def test_images_among_the_parts():
    image = spaces.Box(0, 255, (36, 36, 3), np.uint8)
    space = spaces.Dict(camera=image, inner=spaces.Dict(speed=spaces.Box(0, 1, ())))
    encoder = encoder_factory(space, layer_norm=True)
    assert encoder.hidden_sizes == (512,)
    assert has_image(encoder)
    out, params = jax.eval_shape(
        encoder.init_with_output, jax.random.key(0), stacked(space, 2)
    )
    assert out.shape == (2, 512)
    # 36 -> 8 -> 3 -> 1: 64 features of the image, and one speed.
    kernel = params["params"]["MLP_0"]["Dense_0"]["kernel"]
    assert kernel.shape == (65, 512)
    assert "LayerNorm_0" in params["params"]["parts_camera"]
    impala = encoder_factory(space, image_encoder=ImpalaCNN)
    assert impala.hidden_sizes == (256,)


def test_dicts_that_do_not_fit_are_refused():
    encoder = encoder_factory(SPACE, hidden_sizes=())
    good = stacked(SPACE, 3)
    for bad in (good | {"other": 1}, {"room": good["room"]}):
        with pytest.raises(ValueError, match=r"must have the parts \['keys', 'pos"):
            encoder.apply({}, bad)
    with pytest.raises(TypeError, match=r"must be a dict with the parts.*ndarray"):
        encoder.apply({}, good["position"])
    with pytest.raises(ValueError, match="same leading axes"):
        encoder.apply({}, good | {"room": good["room"][:2]})


def test_preprocess_fn_of_a_dict():
    seen = []

    def where(observations):
        seen.append(jax.tree.map(jnp.shape, observations))
        room = observations["room"].astype(jnp.float32)
        return observations["position"] * room[:, None]

    encoder = encoder_factory(SPACE, hidden_sizes=(), preprocess_fn=where)
    seen.clear()
    batch = jax.tree.map(jnp.asarray, stacked(SPACE, 2, 3))
    out = encoder.apply({}, batch)
    expected = np.asarray(batch["position"]) * np.asarray(batch["room"])[..., None]
    np.testing.assert_allclose(out, expected, rtol=1e-6)
    shapes = {"action_mask": (6, 4), "keys": (6, 2), "position": (6, 2), "room": (6,)}
    assert seen == [shapes]
    with pytest.raises(ValueError, match=r"observations\['position'\] must have"):
        encoder.apply({}, batch | {"position": batch["position"][..., :1]})
    with pytest.raises(ValueError, match="same leading axes"):
        encoder.apply({}, batch | {"room": batch["room"][:1]})


TUPLE = spaces.Tuple(
    [
        spaces.Discrete(3, start=1),
        spaces.Dict(at=spaces.Tuple([spaces.Box(-1.0, 1.0, (2,))])),
    ]
)


def test_the_parts_of_a_tuple_are_joined_in_their_order():
    encoder = encoder_factory(TUPLE, hidden_sizes=())
    assert isinstance(encoder, TupleEncoder)
    observation = (np.int64(3), {"at": (np.array([0.5, -0.5], np.float32),)})
    np.testing.assert_array_equal(encoder.apply({}, observation), [0, 0, 1, 0.5, -0.5])


def test_a_tuple_has_dense_layers_and_any_leading_axes(filled):
    encoder = encoder_factory(TUPLE, hidden_sizes=(4,))
    params = filled(encoder, stacked(TUPLE, 1))
    assert params["params"]["MLP_0"]["Dense_0"]["kernel"].shape == (5, 4)
    for lead in ((5,), (2, 3)):
        assert encoder.apply(params, stacked(TUPLE, *lead)).shape == (*lead, 4)


def test_an_image_in_a_tuple_is_an_image():
    pixels = spaces.Box(0, 255, (4, 84, 84), np.uint8)
    encoder = encoder_factory(spaces.Tuple([pixels, spaces.Discrete(2)]))
    assert has_image(encoder)
    assert encoder.hidden_sizes == (512,)


def test_preprocess_fn_is_given_the_tuple():
    def preprocess(observations):
        rooms, rest = observations
        assert (rooms.shape, rest["at"][0].shape) in [((7,), (7, 2)), ((6,), (6, 2))]
        return rest["at"][0] * rooms[:, None].astype(jnp.float32)

    encoder = encoder_factory(TUPLE, hidden_sizes=(), preprocess_fn=preprocess)
    rooms, rest = observations = stacked(TUPLE, 2, 3)
    expected = rest["at"][0] * rooms[..., None]
    np.testing.assert_allclose(encoder.apply({}, observations), expected, rtol=1e-6)


@pytest.mark.parametrize(
    "observations, error, match",
    [
        ([0, 1], TypeError, "observations must be a tuple of 2 parts, got a list"),
        ((0,), ValueError, "observations must have 2 parts, got 1"),
        (
            (np.ones(2, int), {"at": (np.zeros((3, 2), np.float32),)}),
            ValueError,
            "the same leading axes",
        ),
    ],
)
@pytest.mark.parametrize("preprocess_fn", [None, lambda x: x[1]["at"][0]])
def test_tuples_that_do_not_fit_are_refused(observations, error, match, preprocess_fn):
    encoder = encoder_factory(TUPLE, hidden_sizes=(), preprocess_fn=preprocess_fn)
    with pytest.raises(error, match=match):
        encoder.apply({}, observations)
