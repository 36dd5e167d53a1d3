import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kitae.timesteps import (
    compute_double_q_targets,
    compute_q_learning_targets,
    compute_td_targets,
    td,
)

SHAPES = [(), (4,), (4, 1), (3, 2)]


def f32(*values):
    return jnp.array(values, jnp.float32)


def draw(seed, shape, n_actions=3):
    rng = np.random.default_rng(seed)
    rewards, values = rng.normal(size=(2, *shape)).astype(np.float32)
    discounts = (0.9 * rng.integers(0, 2, shape)).astype(np.float32)
    # Whole numbers, so that some actions are equally good.
    q, selector = rng.integers(-2, 3, (2, *shape, n_actions)).astype(np.float32)
    return rewards, discounts, values, q, selector


def double_q_twin(rewards, discounts, q, selector):
    targets = np.zeros(rewards.shape)
    for index in np.ndindex(rewards.shape):
        best = 0
        for action in range(1, q.shape[-1]):
            if selector[index][action] > selector[index][best]:
                best = action
        targets[index] = rewards[index] + discounts[index] * q[index][best]
    return targets


def test_td_targets_by_hand():
    # 1 + 0.9 * 10, and -2 alone where the step terminated.
    targets = compute_td_targets(f32(1.0, -2.0), f32(0.9, 0.0), f32(10.0, 5.0))
    np.testing.assert_allclose(targets, [10.0, -2.0])
    assert targets.dtype == jnp.float32


def test_td_targets_takes_a_column_of_each():
    # As an agent with one column per action batch calls it, by position.
    rewards, discounts, values, _, _ = draw(0, (4, 1))
    targets = compute_td_targets(rewards, discounts, values)
    assert targets.shape == (4, 1)
    np.testing.assert_allclose(targets, rewards + discounts * values, rtol=1e-6)


def test_td_targets_takes_numbers():
    assert float(compute_td_targets(1.0, 0.5, 4.0)) == 3.0


def test_q_learning_targets_by_hand():
    targets = compute_q_learning_targets(
        f32(1.0, 1.0), f32(0.5, 0.0), jnp.array([[1.0, 4.0, 2.0], [9.0, 9.0, 9.0]])
    )
    np.testing.assert_allclose(targets, [3.0, 1.0])


def test_double_q_targets_by_hand():
    # The online network likes action 1, which the target network values at 4; the
    # greatest value of the target network, 10, and of the online one, 3, do not count.
    targets = compute_double_q_targets(
        f32(1.0), f32(0.5), jnp.array([[10.0, 4.0, 2.0]]), jnp.array([[1.0, 3.0, 2.0]])
    )
    np.testing.assert_allclose(targets, [3.0])


def test_double_q_takes_the_first_of_equal_actions():
    targets = compute_double_q_targets(
        f32(0.0), f32(1.0), jnp.array([[5.0, 6.0, 7.0]]), jnp.array([[1.0, 3.0, 3.0]])
    )
    np.testing.assert_allclose(targets, [6.0])


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), shape=st.sampled_from(SHAPES))
def test_targets_equal_their_twins(seed, shape):
    rewards, discounts, values, q, selector = draw(seed, shape)
    np.testing.assert_allclose(
        compute_td_targets(rewards, discounts, values),
        rewards.astype(np.float64) + discounts.astype(np.float64) * values,
        rtol=1e-5,
        atol=1e-6,
    )
    np.testing.assert_allclose(
        compute_q_learning_targets(rewards, discounts, q),
        double_q_twin(rewards, discounts, q, q),
        rtol=1e-5,
        atol=1e-6,
    )
    np.testing.assert_allclose(
        compute_double_q_targets(rewards, discounts, q, selector),
        double_q_twin(rewards, discounts, q, selector),
        rtol=1e-5,
        atol=1e-6,
    )


@pytest.mark.parametrize("period", [10, 3])
def test_truncation_bootstraps_and_termination_does_not(period):
    # Reward 1 at each step of a chain, which a time limit or a terminal state ends.
    # The state after the end goes on like the first one.
    gamma = 0.9
    rewards = jnp.ones(period)
    last = jnp.arange(period) == period - 1

    def learn(discounts):
        values = jnp.zeros(period)
        for _ in range(300):
            values = compute_td_targets(rewards, discounts, jnp.roll(values, -1))
        return values

    truncated = learn(jnp.full(period, gamma))
    np.testing.assert_allclose(truncated, 1 / (1 - gamma), rtol=1e-5)
    terminated = learn(jnp.where(last, 0.0, gamma))
    finite = [sum(gamma**k for k in range(period - t)) for t in range(period)]
    np.testing.assert_allclose(terminated, finite, rtol=1e-5)


def test_shapes_are_never_broadcast():
    b, b1 = jnp.ones(4), jnp.ones((4, 1))
    with pytest.raises(
        ValueError, match=r"rewards: \(4,\), discounts: \(4,\), next_values: \(4, 1\)"
    ):
        compute_td_targets(b, b, b1)
    for bad in [(b1, b, b), (b, b1, b), (b, jnp.ones(1), b), (b, jnp.float32(1), b)]:
        with pytest.raises(ValueError, match="Shapes must be equal"):
            compute_td_targets(*bad)
    with pytest.raises(ValueError, match="discounts"):
        compute_td_targets(b, 0.99, b)


@pytest.mark.parametrize("shape", [(4,), (3, 2), (4, 1, 2), (1, 2), (4, 0), ()])
def test_action_values_have_one_more_axis(shape):
    b, q = jnp.ones(4), jnp.ones(shape)
    with pytest.raises(ValueError, match="next_q_values"):
        compute_q_learning_targets(b, b, q)
    with pytest.raises(ValueError, match="next_q_values"):
        compute_double_q_targets(b, b, q, q)


def test_action_values_are_not_a_column():
    # Rewards kept as a column against values of a batch: [4, 1] is not [4].
    with pytest.raises(ValueError, match=r"rewards: \(4, 1\), next_q_values: \(4, 2\)"):
        compute_q_learning_targets(jnp.ones((4, 1)), jnp.ones((4, 1)), jnp.ones((4, 2)))
    assert compute_q_learning_targets(
        jnp.ones((2, 1)), jnp.ones((2, 1)), jnp.ones((2, 1, 3))
    ).shape == (2, 1)


def test_double_q_refuses_networks_of_different_shapes():
    b = jnp.ones(4)
    with pytest.raises(ValueError, match=r"next_q_values_selector: \(4, 3\)"):
        compute_double_q_targets(b, b, jnp.ones((4, 2)), jnp.ones((4, 3)))
    with pytest.raises(ValueError, match=r"rewards: \(4,\), discounts: \(4, 1\)"):
        compute_double_q_targets(
            b, jnp.ones((4, 1)), jnp.ones((4, 2)), jnp.ones((4, 2))
        )


@pytest.mark.parametrize(
    "bad", [[1.0, 1.0], (1.0, 1.0), None, jnp.ones(2, jnp.int32), np.ones(2, bool)]
)
@pytest.mark.parametrize("position", [0, 1, 2])
def test_what_is_no_floating_array_is_refused_by_name(bad, position):
    arguments = [jnp.ones(2)] * 3
    arguments[position] = bad
    name = ["rewards", "discounts", "next_values"][position]
    with pytest.raises(TypeError, match=name):
        compute_td_targets(*arguments)


def test_integers_are_refused():
    x = jnp.ones(2, jnp.int32)
    with pytest.raises(TypeError, match="rewards must be floating-point, got int32"):
        compute_td_targets(x, x, x)


def test_lists_are_refused_for_action_values():
    b, q = jnp.ones(1), jnp.ones((1, 2))
    with pytest.raises(TypeError, match="next_q_values must be a jax or numpy array"):
        compute_q_learning_targets(b, b, [[1.0, 2.0]])
    with pytest.raises(TypeError, match="next_q_values_selector"):
        compute_double_q_targets(b, b, q, [[1.0, 2.0]])


def test_dtypes_are_not_mixed():
    b = jnp.ones(2)
    with pytest.raises(TypeError, match=r"rewards: float32, .* next_values: bfloat16"):
        compute_td_targets(b, b, b.astype(jnp.bfloat16))


def test_numpy_float64_becomes_float32():
    targets = compute_td_targets(np.ones(2), jnp.ones(2), np.ones(2))
    assert targets.dtype == jnp.float32
    np.testing.assert_allclose(targets, [2.0, 2.0])


def test_half_precision_is_rounded_once():
    # 1 + 129 * 2.015625 = 261.015625, and bfloat16 knows even numbers only up there:
    # 262. With the product rounded first, 1 + 260 = 261 would become 260.
    half = [jnp.array([x], jnp.bfloat16) for x in (1.0, 129.0, 2.015625)]
    targets = compute_td_targets(*half)
    assert targets.dtype == jnp.bfloat16
    assert targets.astype(jnp.float32).tolist() == [262.0]


def test_gradients_flow_to_every_argument():
    gradients = jax.grad(lambda *xs: compute_td_targets(*xs).sum(), (0, 1, 2))(
        f32(1.0, 2.0), f32(0.5, 0.0), f32(4.0, 6.0)
    )
    np.testing.assert_allclose(gradients, [[1.0, 1.0], [4.0, 6.0], [0.5, 0.0]])


def test_gradients_of_double_q_reach_the_chosen_action_alone():
    to_q, to_selector = jax.grad(
        lambda q, s: compute_double_q_targets(f32(1.0), f32(0.5), q, s).sum(), (0, 1)
    )(jnp.array([[10.0, 4.0, 2.0]]), jnp.array([[1.0, 3.0, 2.0]]))
    np.testing.assert_allclose(to_q, [[0.0, 0.5, 0.0]])
    np.testing.assert_allclose(to_selector, [[0.0, 0.0, 0.0]])


@pytest.mark.parametrize("transform", [jax.jit, jax.vmap])
def test_targets_under_transformations(transform):
    rewards, discounts, values, q, selector = draw(1, (3, 2))
    for function, arguments in [
        (compute_td_targets, (rewards, discounts, values)),
        (compute_q_learning_targets, (rewards, discounts, q)),
        (compute_double_q_targets, (rewards, discounts, q, selector)),
    ]:
        np.testing.assert_allclose(
            transform(function)(*arguments), function(*arguments), rtol=1e-6
        )


def test_targets_without_compilation():
    with jax.disable_jit():
        targets = compute_td_targets(np.ones(2), np.ones(2), np.ones(2))
    np.testing.assert_allclose(targets, [2.0, 2.0])


def test_a_shape_is_traced_once(monkeypatch):
    traces = []
    check = td.check_same_shape
    monkeypatch.setattr(
        td, "check_same_shape", lambda **named: (traces.append(1), check(**named))
    )
    for value in range(5):
        x = jnp.full((11, 13), float(value))
        compute_td_targets(x, x, x)
    assert len(traces) == 1
