import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces

from kitae.modules.modules import init_params
from kitae.modules.observations import observation_spec
from kitae.modules.recurrent import RecurrentQValue, recurrent_qvalue_factory
from kitae.modules.vectors import VectorEncoder

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
QVALUE = RecurrentQValue(VectorEncoder((4,), (6,)), 3, hidden_size=5)
FIRST = np.array([[True, False, False, True, False], [False, False, True, True, False]])


def floats(*shape):
    return RNG.normal(size=shape).astype(np.float32)


OBSERVATIONS = floats(2, 5, 4)
CARRY = floats(2, 5), floats(2, 5)


@pytest.fixture
def params(filled):
    return filled(QVALUE, CARRY, OBSERVATIONS[:, 0], FIRST[:, 0])


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def twin_step(params, carry, observation, first):
    """One row, gate after gate: Hochreiter and Schmidhuber's cell with forgetting."""
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params["params"])
    dense = p["encoder"]["MLP_0"]["Dense_0"]
    x = np.maximum(observation @ dense["kernel"] + dense["bias"], 0)
    c, h = (0 * state if first else state for state in carry)

    def gate(name):
        recurrent = p["cell"][f"h{name}"]
        inputs = x @ p["cell"][f"i{name}"]["kernel"]
        return inputs + h @ recurrent["kernel"] + recurrent["bias"]

    c = sigmoid(gate("f")) * c + sigmoid(gate("i")) * np.tanh(gate("g"))
    h = sigmoid(gate("o")) * np.tanh(c)
    head = p["head"]["Dense_0"]
    return (c, h), h @ head["kernel"] + head["bias"]


def test_a_step_and_an_unroll_against_a_twin(params):
    carries, qvalues = jax.jit(QVALUE.apply, static_argnames="method")(
        params, CARRY, OBSERVATIONS, FIRST, method="unroll"
    )
    assert (qvalues.shape, qvalues.dtype) == ((2, 5, 3), jnp.float32)
    assert [state.shape for state in carries] == [(2, 5, 5)] * 2
    step = jax.jit(QVALUE.apply)
    stepped = CARRY
    rows = [(CARRY[0][i], CARRY[1][i]) for i in range(2)]
    for t in range(5):
        stepped, q = step(params, stepped, OBSERVATIONS[:, t], FIRST[:, t])
        np.testing.assert_allclose(q, qvalues[:, t], rtol=1e-4, atol=1e-5)
        for state, unrolled in zip(stepped, carries, strict=True):
            np.testing.assert_allclose(state, unrolled[:, t], rtol=1e-4, atol=1e-5)
        for i in range(2):
            rows[i], expected = twin_step(
                params, rows[i], OBSERVATIONS[i, t], FIRST[i, t]
            )
            np.testing.assert_allclose(q[i], expected, rtol=1e-4, atol=1e-5)


def test_a_first_observation_forgets_what_was_before(params):
    observations, zeros = OBSERVATIONS[:, 0], QVALUE.initial_carry(2)
    fresh = QVALUE.apply(params, zeros, observations, np.zeros(2, bool))
    carry, qvalues = QVALUE.apply(params, CARRY, observations, np.array([True, False]))
    np.testing.assert_array_equal(qvalues[0], fresh[1][0])
    np.testing.assert_array_equal(carry[0][0], fresh[0][0][0])
    assert not np.allclose(qvalues[1], fresh[1][1])


def test_the_initial_carry_needs_no_parameters():
    cell, hidden = QVALUE.initial_carry(3)
    for state in (cell, hidden):
        np.testing.assert_array_equal(state, np.zeros((3, 5), np.float32))
        assert state.dtype == jnp.float32
    # Each could be donated.
    assert cell.unsafe_buffer_pointer() != hidden.unsafe_buffer_pointer()
    with pytest.raises(ValueError, match="n must be at least 1"):
        QVALUE.initial_carry(0)


def test_gradients_flow_through_time_up_to_a_first_observation(params):
    def last(observations):
        _, qvalues = QVALUE.apply(params, CARRY, observations, FIRST, method="unroll")
        return qvalues[:, -1].sum()

    norms = np.abs(jax.grad(last)(OBSERVATIONS)).sum(-1) > 0
    # Both rows start anew at step 3.
    np.testing.assert_array_equal(norms, [[False, False, False, True, True]] * 2)

    def of_carry(carry, first):
        _, qvalues = QVALUE.apply(params, carry, OBSERVATIONS, first, method="unroll")
        return qvalues[:, -1].sum()

    none = np.zeros((2, 5), bool)
    assert all((np.abs(g) > 0).all() for g in jax.grad(of_carry)(CARRY, none))
    assert all((g == 0).all() for g in jax.grad(of_carry)(CARRY, FIRST))


def test_leading_axes_and_seeds(params):
    def unroll(params, carry, observations, first):
        return QVALUE.apply(params, carry, observations, first, method="unroll")

    expected_carries, expected = unroll(params, CARRY, OBSERVATIONS, FIRST)
    carries, alone = unroll(
        params, (CARRY[0][1], CARRY[1][1]), OBSERVATIONS[1], FIRST[1]
    )
    np.testing.assert_allclose(alone, expected[1], rtol=1e-4, atol=1e-5)
    assert carries[0].shape == (5, 5)
    wide = jax.tree.map(lambda x: x[None], (CARRY, OBSERVATIONS, FIRST))
    _, out = unroll(params, *wide)
    np.testing.assert_allclose(out[0], expected, rtol=1e-4, atol=1e-5)
    seeds = jax.tree.map(lambda x: jnp.stack([x, 0 * x]), params)
    (cells, _), _ = jax.vmap(unroll, (0, None, None, None))(
        seeds, CARRY, OBSERVATIONS, FIRST
    )
    np.testing.assert_allclose(cells[0], expected_carries[0], rtol=1e-4, atol=1e-5)


def test_the_parameters_of_an_unroll_are_those_of_a_step(params):
    shapes = jax.eval_shape(
        lambda key: QVALUE.init(key, CARRY, OBSERVATIONS, FIRST, method="unroll"), KEY
    )
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, shapes)


def test_the_factory():
    space = spaces.Dict(x=spaces.Box(-1.0, 1.0, (4,)), n=spaces.Discrete(3))
    qvalue = recurrent_qvalue_factory(
        space,
        spaces.MultiDiscrete([2, 3]),
        hidden_sizes=(7,),
        hidden_size=5,
        head_sizes=(4,),
        dueling=True,
        noisy=True,
        layer_norm=True,
    )
    state = jax.ShapeDtypeStruct((5,), jnp.float32)
    first = jax.ShapeDtypeStruct((), bool)
    params = init_params(KEY, qvalue, [(state, state), observation_spec(space), first])
    leaves = params["params"]
    assert leaves["encoder"]["MLP_0"]["Dense_0"]["kernel"].shape == (7, 7)
    assert sorted(leaves["head"]["value_hidden"]) == ["LayerNorm_0", "NoisyDense_0"]
    observations = {"x": jnp.ones((2, 6, 4)), "n": jnp.ones((2, 6), jnp.int32)}
    inputs = qvalue.initial_carry(2), observations, jnp.ones((2, 6), bool)
    unroll = jax.jit(functools.partial(qvalue.apply, method="unroll"))
    _, mean = unroll(params, *inputs)
    _, noisy = unroll(params, *inputs, rngs={"noise": KEY})
    assert noisy.shape == (2, 6, 6)
    # Each step is a first one, and all share one sample of noise.
    np.testing.assert_allclose(np.std(noisy, (0, 1)), np.zeros(6), atol=1e-5)
    assert not np.allclose(noisy, mean)


def test_shapes_and_dtypes_that_are_refused(params):
    observations, first = OBSERVATIONS[:, 0], FIRST[:, 0]

    def step(carry, observations, first):
        QVALUE.apply(params, carry, observations, first)

    with pytest.raises(TypeError, match="first must be bool, got float32"):
        step(CARRY, observations, first.astype(np.float32))
    for bad in (first[:1], first[:, None]):
        with pytest.raises(ValueError, match="first must have the leading axes"):
            step(CARRY, observations, bad)
    with pytest.raises(ValueError, match=r"carry must be \(2, 5\) twice"):
        step((CARRY[0], CARRY[1][:1]), observations, first)
    with pytest.raises(ValueError, match=r"carry must be \(2, 5\) twice"):
        QVALUE.apply(
            params, (CARRY[0][0], CARRY[1][0]), OBSERVATIONS, FIRST, method="unroll"
        )
    with pytest.raises(ValueError, match="axis of time"):
        QVALUE.apply(params, CARRY, OBSERVATIONS[0, 0], np.array(True), method="unroll")


@pytest.mark.parametrize(
    "option, error",
    [
        ({"hidden_size": 0}, ValueError),
        ({"hidden_size": 2.5}, TypeError),
        ({"head_sizes": (0,)}, ValueError),
        ({"dueling": 1}, TypeError),
        ({"noisy": 1}, TypeError),
    ],
)
def test_arguments_that_are_refused(option, error):
    space = spaces.Box(-1.0, 1.0, (4,))
    with pytest.raises(error, match=next(iter(option))):
        recurrent_qvalue_factory(space, spaces.Discrete(2), **option)
