import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces

from kitae.modules.modules import init_params
from kitae.modules.observations import observation_spec
from kitae.modules.qvalue import qvalue_factory

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
CARTPOLE = spaces.Box(-10.0, 10.0, (4,))
ACTIONS = spaces.Box(-1.0, 1.0, (2,))
FRAMES = spaces.Box(0, 255, (4, 36, 36), np.uint8)


def layers(params):
    """Kernels and biases from the first layer to the last."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    found = {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}
    kernels = [path for path in found if "kernel" in path]
    hidden = sorted(path for path in kernels if "MLP" in path)
    (head,) = set(kernels) - set(hidden)
    return [
        (found[path], found[path.replace("kernel", "bias")]) for path in [*hidden, head]
    ]


def twin(params, x):
    """Dense layers with ReLU, and a last one without."""
    *hidden, (kernel, bias) = layers(params)
    for k, b in hidden:
        x = np.maximum(x @ k + b, 0)
    return x @ kernel + bias


def test_the_tutorials_network(filled):
    qvalue = qvalue_factory(CARTPOLE, spaces.Discrete(2))
    params = filled(qvalue, jnp.ones(4))
    shapes = [kernel.shape for kernel, _ in layers(params)]
    assert shapes == [(4, 64), (64, 64), (64, 2)]
    observations = RNG.normal(size=(8, 4)).astype(np.float32)
    out = qvalue.apply(params, observations)
    assert (out.shape, out.dtype) == ((8, 2), jnp.float32)
    np.testing.assert_allclose(out, twin(params, observations), rtol=1e-5, atol=1e-6)


def test_a_linear_network_by_hand():
    qvalue = qvalue_factory(
        spaces.Box(0, 255, (2,), np.uint8), spaces.Discrete(3), hidden_sizes=()
    )
    params = {
        "params": {
            "Dense_0": {
                "kernel": jnp.array([[1.0, 0.0, 2.0], [0.0, -1.0, 1.0]]),
                "bias": jnp.array([0.5, 0.0, 0.0]),
            }
        }
    }
    out = qvalue.apply(params, np.array([[200, 3], [0, 255]], np.uint8))
    assert out.dtype == jnp.float32
    np.testing.assert_array_equal(out, [[200.5, -3.0, 403.0], [0.5, -255.0, 255.0]])


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float64, np.bool_])
def test_observations_of_any_dtype(dtype, filled):
    space = spaces.Box(0, 1, (4,), np.uint8)
    qvalue = qvalue_factory(space, spaces.Discrete(2))
    params = filled(qvalue, jnp.ones(4))
    observations = np.array([[0, 1, 1, 0]])
    expected = qvalue.apply(params, observations.astype(np.float32))
    out = qvalue.apply(params, observations.astype(dtype))
    assert out.dtype == jnp.float32
    np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("lead", [(), (1,), (5,), (2, 3), (0,)])
def test_leading_axes(lead, filled):
    qvalue = qvalue_factory(CARTPOLE, spaces.Discrete(3, start=1))
    params = filled(qvalue, jnp.ones(4))
    assert qvalue.apply(params, jnp.ones((*lead, 4))).shape == (*lead, 3)
    critic = qvalue_factory(CARTPOLE, ACTIONS)
    params = filled(critic, jnp.ones(4), jnp.ones(2))
    inputs = jnp.ones((*lead, 4)), jnp.ones((*lead, 2))
    assert critic.apply(params, *inputs).shape == (*lead, 1)


def test_observations_of_another_shape_are_refused(filled):
    qvalue = qvalue_factory(spaces.Box(0.0, 1.0, (2, 3)), spaces.Discrete(2))
    params = filled(qvalue, jnp.ones((2, 3)))
    for shape in ((3,), (8, 3), (8, 6), (2, 3, 1)):
        with pytest.raises(ValueError, match="observations must have the shape"):
            qvalue.apply(params, jnp.ones(shape))


def test_continuous_actions(filled):
    critic = qvalue_factory(CARTPOLE, ACTIONS)
    params = filled(critic, jnp.ones(4), jnp.ones(2))
    shapes = [kernel.shape for kernel, _ in layers(params)]
    assert shapes == [(6, 64), (64, 64), (64, 1)]
    observations = RNG.normal(size=(8, 4)).astype(np.float32)
    actions = RNG.normal(size=(8, 2)).astype(np.float32)
    out = critic.apply(params, observations, actions)
    assert (out.shape, out.dtype) == ((8, 1), jnp.float32)
    expected = twin(params, np.concatenate([observations, actions], -1))
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-6)


def test_actions_of_more_axes_and_integers(filled):
    space = spaces.Box(0, 5, (2, 2), np.int32)
    critic = qvalue_factory(CARTPOLE, space, hidden_sizes=(8,))
    inputs = jnp.ones((3, 4)), jnp.ones((3, 2, 2), int)
    params = filled(critic, *inputs)
    assert critic.apply(params, *inputs).shape == (3, 1)


@pytest.mark.parametrize(
    "observations, actions, match",
    [
        ((8, 4), (8, 3), r"actions must have the shape \[..., 2\]"),
        ((8, 4), (2,), r"\(2,\) and observations of shape \(8, 4\)"),
        ((8, 4), (1, 2), "same leading axes"),
        ((4,), (8, 2), "same leading axes"),
        ((8, 1, 4), (8, 2), "same leading axes"),
    ],
)
def test_actions_are_not_broadcast(observations, actions, match, filled):
    critic = qvalue_factory(CARTPOLE, ACTIONS)
    params = filled(critic, jnp.ones(4), jnp.ones(2))
    with pytest.raises(ValueError, match=match):
        critic.apply(params, jnp.ones(observations), jnp.ones(actions))


def test_images(filled):
    frames = RNG.integers(0, 256, (2, 4, 36, 36), np.uint8)
    qvalue = qvalue_factory(FRAMES, spaces.Discrete(6))
    params = filled(qvalue, frames)
    kernels = [leaf.shape for leaf in jax.tree.leaves(params) if leaf.ndim > 1]
    # 36 -> 8 -> 3 -> 1, then 64 -> 512 -> 6
    expected = [(8, 8, 4, 32), (4, 4, 32, 64), (3, 3, 64, 64), (64, 512), (512, 6)]
    assert sorted(kernels) == sorted(expected)
    first = jax.jit(qvalue.apply)(params, frames)
    assert first.shape == (2, 6)
    assert np.ptp(first) > 0
    last_space = spaces.Box(0, 255, (36, 36, 4), np.uint8)
    last = qvalue_factory(last_space, spaces.Discrete(6))
    out = jax.jit(last.apply)(params, np.moveaxis(frames, 1, -1))
    np.testing.assert_allclose(out, first, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("preprocess_fn", [None, lambda x: x.astype(jnp.float32)])
def test_images_with_continuous_actions(preprocess_fn):
    critic = qvalue_factory(FRAMES, ACTIONS, preprocess_fn=preprocess_fn)
    frames = jnp.zeros((3, 4, 36, 36), jnp.uint8)
    inputs = KEY, frames, jnp.ones((3, 2))
    out, params = jax.eval_shape(critic.init_with_output, *inputs)
    assert out.shape == (3, 1)
    # 64 features of the image and 2 of the action
    assert params["params"]["MLP_0"]["Dense_0"]["kernel"].shape == (66, 512)


def test_discrete_observations():
    space = spaces.Discrete(16)
    qvalue = qvalue_factory(space, spaces.Discrete(4))
    params = init_params(KEY, qvalue, [space.shape])
    assert layers(params)[0][0].shape == (16, 64)
    out = np.asarray(qvalue.apply(params, jnp.arange(16)))
    assert out.shape == (16, 4)
    assert len(np.unique(out, axis=0)) == 16


def test_preprocess_fn_and_layout_reach_the_encoder(filled):
    doubled = qvalue_factory(
        CARTPOLE, spaces.Discrete(2), preprocess_fn=lambda x: 2.0 * x
    )
    params = filled(doubled, jnp.ones((1, 4)))
    inner = {
        "params": {
            **params["params"],
            "encoder": params["params"]["encoder"]["encoder"],
        }
    }
    plain = qvalue_factory(CARTPOLE, spaces.Discrete(2))
    observations = jnp.arange(8.0).reshape(2, 4)
    np.testing.assert_array_equal(
        doubled.apply(params, observations), plain.apply(inner, 2 * observations)
    )
    cube = spaces.Box(0, 255, (40, 40, 40), np.uint8)
    with pytest.raises(ValueError, match="ambiguous"):
        qvalue_factory(cube, spaces.Discrete(2))
    qvalue = qvalue_factory(cube, spaces.Discrete(2), channel_first=True)
    assert qvalue.encoder.channel_first is True


def test_a_tuple_of_actions_is_refused():
    with pytest.raises(TypeError, match=r"action_space must be.*Tuple"):
        qvalue_factory(CARTPOLE, spaces.Tuple([spaces.Discrete(2)]))


@pytest.mark.parametrize("space, name", [(spaces.Text(2), "Text"), (2, "2")])
def test_spaces_that_are_refused(space, name):
    with pytest.raises(TypeError, match=f"action_space must be.*{name}"):
        qvalue_factory(CARTPOLE, space)
    with pytest.raises(TypeError, match=f"observation_space must be.*{name}"):
        qvalue_factory(space, spaces.Discrete(2))


def test_other_arguments_that_are_refused():
    with pytest.raises(ValueError, match="has no action"):
        qvalue_factory(CARTPOLE, spaces.Box(0.0, 1.0, (0,)))
    for actions in (ACTIONS, spaces.Discrete(2)):
        with pytest.raises(ValueError, match=r"hidden_sizes\[0\] must be at least 1"):
            qvalue_factory(CARTPOLE, actions, hidden_sizes=(-1,))


def test_one_trace_for_numpy_and_jax_inputs(filled):
    traces = []
    qvalue = qvalue_factory(CARTPOLE, spaces.Discrete(2))
    params = filled(qvalue, jnp.ones(4))

    @jax.jit
    def apply(params, observations):
        traces.append(None)
        return qvalue.apply(params, observations)

    for observations in (np.ones((3, 4), np.float32), jnp.ones((3, 4))):
        apply(params, observations)
        apply(params, observations + 1)
    assert len(traces) == 1


def names(params):
    leaves = jax.tree_util.tree_leaves_with_path(params["params"])
    return [
        jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves
    ]


def test_the_names_of_the_parameters():
    plain = qvalue_factory(CARTPOLE, spaces.Discrete(2), hidden_sizes=(8, 4))
    params = jax.eval_shape(plain.init, KEY, jnp.ones(4))
    assert names(params) == [
        *("Dense_0/bias", "Dense_0/kernel"),
        *("encoder/MLP_0/Dense_0/bias", "encoder/MLP_0/Dense_0/kernel"),
        *("encoder/MLP_0/Dense_1/bias", "encoder/MLP_0/Dense_1/kernel"),
    ]
    dueling = qvalue_factory(
        CARTPOLE, spaces.Discrete(2), hidden_sizes=(8, 4), dueling=True
    )
    params = jax.eval_shape(dueling.init, KEY, jnp.ones(4))
    kernels = {
        name: leaf.shape
        for name, leaf in zip(names(params), jax.tree.leaves(params), strict=True)
        if "kernel" in name
    }
    assert kernels == {
        "encoder/MLP_0/Dense_0/kernel": (4, 8),
        "value_hidden/Dense_0/kernel": (8, 4),
        "value/kernel": (4, 1),
        "advantage_hidden/Dense_0/kernel": (8, 4),
        "advantage/kernel": (4, 2),
    }


def test_rainbow_is_noisy_after_the_convolutions():
    qvalue = qvalue_factory(
        FRAMES, spaces.Discrete(6), n_atoms=51, dueling=True, noisy=True
    )
    frames = jnp.zeros((2, 4, 36, 36), jnp.uint8)
    out, params = jax.eval_shape(qvalue.init_with_output, KEY, frames)
    assert (out.shape, out.dtype) == ((2, 6, 51), jnp.float32)
    kernels = [name for name in names(params) if name.endswith("kernel")]
    noisy = [name[: -len("_sigma")] for name in names(params) if "l_sigma" in name]
    assert sorted(kernels) == sorted(
        [*(f"encoder/Conv_{i}/kernel" for i in range(3)), *noisy]
    )
    assert params["params"]["value_hidden"]["NoisyDense_0"]["kernel"].shape == (64, 512)


@pytest.mark.parametrize("lead", [(), (5,), (2, 3)])
def test_atoms_and_leading_axes(lead):
    qvalue = qvalue_factory(CARTPOLE, spaces.Discrete(3), n_atoms=7)
    out, _ = jax.eval_shape(qvalue.init_with_output, KEY, jnp.ones((*lead, 4)))
    assert out.shape == (*lead, 3, 7)
    assert qvalue.encoder.hidden_sizes == (64, 64)


def test_layer_norm_in_the_encoder_and_the_head():
    options = {"hidden_sizes": (8, 4), "layer_norm": True}
    plain = qvalue_factory(CARTPOLE, spaces.Discrete(2), **options)
    dueling = qvalue_factory(CARTPOLE, spaces.Discrete(2), dueling=True, **options)
    critic = qvalue_factory(CARTPOLE, ACTIONS, **options)
    for module, inputs, n_norms in (
        (plain, (jnp.ones(4),), 2),
        (dueling, (jnp.ones(4),), 3),
        (critic, (jnp.ones(4), jnp.ones(2)), 2),
    ):
        params = jax.eval_shape(module.init, KEY, *inputs)
        assert sum("LayerNorm" in name for name in names(params)) == 2 * n_norms


def test_multi_discrete_actions_are_joint_actions():
    space = spaces.MultiDiscrete([2, 3, 4])
    qvalue = qvalue_factory(CARTPOLE, space)
    out, _ = jax.eval_shape(qvalue.init_with_output, KEY, jnp.ones((5, 4)))
    assert out.shape == (5, 24)
    with pytest.raises(ValueError, match="joint actions"):
        qvalue_factory(CARTPOLE, spaces.MultiDiscrete([100, 100]))


@pytest.mark.parametrize(
    "space",
    [
        spaces.Discrete(3, start=1),
        spaces.MultiDiscrete([2, 3]),
        spaces.MultiBinary(4),
        spaces.Box(0, 1, (2, 2), np.float64),
        spaces.Dict(a=spaces.Discrete(2), b=spaces.Box(0, 255, (3,), np.uint8)),
    ],
)
def test_parameters_from_the_spec_of_any_space(space):
    qvalue = qvalue_factory(space, spaces.Discrete(2), hidden_sizes=(4,))
    params = init_params(KEY, qvalue, [observation_spec(space)])
    assert qvalue.apply(params, space.sample()).shape == (2,)


@pytest.mark.parametrize("option", [{"dueling": True}, {"noisy": True}, {"n_atoms": 3}])
def test_options_of_discrete_actions_alone(option):
    with pytest.raises(ValueError, match="are for discrete actions"):
        qvalue_factory(CARTPOLE, ACTIONS, **option)


@pytest.mark.parametrize(
    "option, error",
    [
        ({"dueling": 1}, TypeError),
        ({"noisy": None}, TypeError),
        ({"layer_norm": "yes"}, TypeError),
        ({"n_atoms": 0}, ValueError),
        ({"n_atoms": 2.0}, TypeError),
    ],
)
def test_options_that_are_refused(option, error):
    with pytest.raises(error, match=next(iter(option))):
        qvalue_factory(CARTPOLE, spaces.Discrete(2), **option)
