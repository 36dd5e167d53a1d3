import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kitae.modules.vectors import DiscreteEncoder, MultiDiscreteEncoder, VectorEncoder


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


def test_components_are_one_hot_from_their_start():
    encoder = MultiDiscreteEncoder((2, 3), (0, 5), hidden_sizes=())
    out = encoder.apply({}, np.array([[0, 5], [1, 7]]))
    assert out.dtype == jnp.float32
    np.testing.assert_array_equal(out, [[1, 0, 1, 0, 0], [0, 1, 0, 0, 1]])
    # Out of its range a component is zeros, and never another's column.
    np.testing.assert_array_equal(encoder.apply({}, np.array([2, 4])), np.zeros(5))


def test_components_of_several_axes(filled):
    encoder = MultiDiscreteEncoder((2, 3, 4, 2), (0,) * 4, (2, 2), (6,))
    observations = np.array([[1, 2], [3, 0]])
    params = filled(encoder, observations)
    assert params["params"]["MLP_0"]["Dense_0"]["kernel"].shape == (11, 6)
    alone = encoder.apply(params, observations)
    many = encoder.apply(params, np.tile(observations, (5, 3, 1, 1)))
    assert many.shape == (5, 3, 6)
    np.testing.assert_allclose(many[4, 2], alone, rtol=1e-6)
    with pytest.raises(ValueError, match=r"\[..., 2, 2\]"):
        encoder.apply(params, np.zeros((4,), int))


@pytest.mark.parametrize(
    "encoder, observation",
    [
        (VectorEncoder((3,), (4,), layer_norm=True), jnp.ones(3)),
        (DiscreteEncoder(3, hidden_sizes=(4,), layer_norm=True), jnp.int32(1)),
        (
            MultiDiscreteEncoder((3, 2), (0, 0), None, (4,), True),
            jnp.zeros(2, jnp.int32),
        ),
    ],
)
def test_layer_norm_reaches_the_layers(encoder, observation):
    params = jax.eval_shape(encoder.init, jax.random.key(0), observation)["params"]
    assert sorted(params["MLP_0"]) == ["Dense_0", "LayerNorm_0"]
