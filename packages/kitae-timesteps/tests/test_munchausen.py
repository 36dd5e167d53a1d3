import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax, logsumexp

from kitae.timesteps import (
    compute_munchausen_bonus,
    compute_munchausen_targets,
    compute_q_learning_targets,
    compute_soft_policy,
    compute_soft_values,
    munchausen,
)

PAPER = {"temperature": 0.03, "scale": 0.9, "clip": -1.0}
SHAPES = [(), (4,), (4, 1), (3, 2)]


def f32(*values):
    return jnp.array(values, jnp.float32)


def draw(seed, shape, n_actions=3):
    rng = np.random.default_rng(seed)
    rewards = np.asarray(rng.normal(size=shape), np.float32)
    discounts = np.asarray(0.9 * rng.integers(0, 2, shape), np.float32)
    q, next_q = rng.normal(size=(2, *shape, n_actions)).astype(np.float32)
    actions = np.asarray(rng.integers(0, n_actions, shape), np.int32)
    return rewards, discounts, q, actions, next_q


def bonus_twin(q, actions, temperature, scale, clip):
    """The second term of eq. 2, one state after another, in float64."""
    out = np.zeros(actions.shape)
    for index in np.ndindex(actions.shape):
        log_pi = log_softmax(q[index].astype(np.float64) / temperature)
        out[index] = scale * np.clip(temperature * log_pi[actions[index]], clip, 0.0)
    return out


def targets_twin(rewards, discounts, q, actions, next_q, temperature, scale, clip):
    """Eq. 2 as it is printed, in float64."""
    out = np.array(bonus_twin(q, actions, temperature, scale, clip) + rewards)
    for index in np.ndindex(rewards.shape):
        log_pi = log_softmax(next_q[index].astype(np.float64) / temperature)
        soft = np.sum(np.exp(log_pi) * (next_q[index] - temperature * log_pi))
        out[index] += discounts[index] * soft
    return out


def test_two_equal_actions_by_hand():
    # pi = [1/2, 1/2] at any temperature; log 2 = .693147.
    q = f32(3.0, 3.0)
    np.testing.assert_allclose(compute_soft_policy(q, temperature=2.0), [0.5, 0.5])
    value = compute_soft_values(q, temperature=2.0)
    np.testing.assert_allclose(value, 3.0 + 2 * math.log(2), rtol=1e-6)
    bonus = compute_munchausen_bonus(
        q, jnp.array(1), temperature=2.0, scale=0.5, clip=-10.0
    )
    np.testing.assert_allclose(bonus, -math.log(2), rtol=1e-6)
    clipped = compute_munchausen_bonus(
        q, jnp.array(1), temperature=2.0, scale=0.5, clip=-1.0
    )
    np.testing.assert_allclose(clipped, -0.5)


def test_targets_by_hand():
    # pi(a=1) = 1/4 where q differ by log 3 at temperature 1: the bonus is .5 * -log 4
    # and the next soft value log(3 + 1): 1 + .5*(log 4 - log 4) = 1.
    targets = compute_munchausen_targets(
        f32(1.0, 1.0),
        f32(0.5, 0.0),
        jnp.array([[math.log(3.0), 0.0]] * 2),
        jnp.array([1, 0]),
        jnp.array([[0.0, math.log(3.0)]] * 2),
        temperature=1.0,
        scale=0.5,
        clip=-math.inf,
    )
    np.testing.assert_allclose(targets, [1.0, 1.0 + 0.5 * math.log(0.75)], rtol=1e-6)
    assert targets.dtype == jnp.float32


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.sampled_from(SHAPES),
    temperature=st.sampled_from([0.03, 0.5, 10.0]),
    scale=st.sampled_from([0.0, 0.9, 1.0]),
    clip=st.sampled_from([-1.0, -0.1, -math.inf]),
)
def test_all_equal_their_twins(seed, shape, temperature, scale, clip):
    rewards, discounts, q, actions, next_q = draw(seed, shape)
    numbers = {"temperature": temperature, "scale": scale, "clip": clip}
    close = {"rtol": 1e-5, "atol": 1e-5}
    np.testing.assert_allclose(
        compute_munchausen_targets(rewards, discounts, q, actions, next_q, **numbers),
        targets_twin(rewards, discounts, q, actions, next_q, **numbers),
        **close,
    )
    np.testing.assert_allclose(
        compute_munchausen_bonus(q, actions, **numbers),
        bonus_twin(q, actions, **numbers),
        **close,
    )
    wide = q.astype(np.float64) / temperature
    np.testing.assert_allclose(
        compute_soft_values(q, temperature=temperature),
        temperature * logsumexp(wide, axis=-1),
        **close,
    )
    np.testing.assert_allclose(
        compute_soft_policy(q, temperature=temperature),
        np.exp(log_softmax(wide, axis=-1)),
        **close,
    )


def test_the_two_parts_make_the_targets():
    # As a distributional agent uses them, with the mixture's mean and what moves it.
    rewards, discounts, q, actions, next_q = draw(0, (5,))
    probs = compute_soft_policy(next_q, temperature=0.3)
    mean = jnp.sum(probs * next_q, axis=-1)
    move = compute_soft_values(next_q, temperature=0.3) - mean
    bonus = compute_munchausen_bonus(q, actions, temperature=0.3, scale=0.9, clip=-1.0)
    np.testing.assert_allclose(
        rewards + bonus + discounts * (mean + move),
        compute_munchausen_targets(
            rewards, discounts, q, actions, next_q, temperature=0.3, scale=0.9, clip=-1
        ),
        rtol=1e-5,
        atol=1e-6,
    )


def test_a_cold_policy_that_gets_no_bonus_is_dqn():
    rewards, discounts, q, actions, next_q = draw(1, (6,))
    np.testing.assert_allclose(
        compute_munchausen_targets(
            rewards, discounts, q, actions, next_q, temperature=1e-6, scale=0, clip=-1
        ),
        compute_q_learning_targets(rewards, discounts, next_q),
        rtol=1e-5,
        atol=1e-5,
    )


@pytest.mark.parametrize("size", [1e4, 1e30, 3e38])
def test_large_values_overflow_nothing(size):
    q = f32(size, 0.0)
    np.testing.assert_array_equal(compute_soft_policy(q, temperature=0.03), [1.0, 0.0])
    np.testing.assert_array_equal(compute_soft_values(q, temperature=0.03), q[0])
    bonus = compute_munchausen_bonus(q, jnp.array(1), **PAPER)
    np.testing.assert_allclose(bonus, -0.9)
    policy = jax.jacobian(lambda q: compute_soft_policy(q, temperature=0.03))(q)
    np.testing.assert_array_equal(policy, jnp.zeros((2, 2)))


def test_small_differences_of_large_values_count():
    # 1000 and 1000.03125, both exact: the temperature's size apart.
    q = f32(1000.0, 1000.03125)
    expected = -0.9 * 0.03125 * math.log1p(math.exp(1.0))
    bonus = compute_munchausen_bonus(
        q, jnp.array(0), temperature=0.03125, scale=0.9, clip=-1.0
    )
    np.testing.assert_allclose(bonus, expected, rtol=1e-5)


def test_an_action_of_minus_infinity_is_left_out():
    q = f32(1.0, -jnp.inf, 2.0)
    rest = f32(1.0, 2.0)
    np.testing.assert_allclose(
        compute_soft_values(q, temperature=1.0),
        compute_soft_values(rest, temperature=1.0),
    )
    policy = compute_soft_policy(q, temperature=1.0)
    assert policy[1] == 0.0
    np.testing.assert_allclose(compute_munchausen_bonus(q, jnp.array(1), **PAPER), -0.9)


def test_the_gradient_of_the_soft_value_is_the_soft_policy():
    _, _, q, _, _ = draw(2, ())
    np.testing.assert_allclose(
        jax.grad(lambda q: compute_soft_values(q, temperature=0.5))(q),
        compute_soft_policy(q, temperature=0.5),
        rtol=1e-5,
    )


def test_gradients_flow_to_rewards_and_discounts():
    _, _, q, actions, next_q = draw(3, (2,))

    def total(r, d):
        return compute_munchausen_targets(r, d, q, actions, next_q, **PAPER).sum()

    to_r, to_d = jax.grad(total, (0, 1))(f32(1.0, 2.0), f32(0.5, 0.0))
    np.testing.assert_allclose(to_r, [1.0, 1.0])
    np.testing.assert_allclose(to_d, compute_soft_values(next_q, temperature=0.03))


def targets(*arguments, **changes):
    return compute_munchausen_targets(*arguments, **{**PAPER, **changes})


def test_shapes_are_never_broadcast():
    b, q, a = jnp.ones(4), jnp.ones((4, 2)), jnp.zeros(4, jnp.int32)
    for bad, name in [
        ((jnp.ones((4, 1)), b, q, a, q), "rewards"),
        ((b, jnp.ones((4, 1)), q, a, q), "discounts"),
        ((b, b, jnp.ones((4, 3)), a, q), "q_values"),
        ((b, b, q, a[:, None], q), "actions"),
        ((b, b, q, a, jnp.ones((4, 3))), "next_q_values"),
        ((b, b, b, a, b), "q_values must have the shape of rewards"),
    ]:
        with pytest.raises(ValueError, match=name):
            targets(*bad)
    with pytest.raises(ValueError, match="q_values must have the shape of actions"):
        compute_munchausen_bonus(q, a[:2], **PAPER)
    for function in (compute_soft_policy, compute_soft_values):
        for shape in [(), (4, 0)]:
            with pytest.raises(ValueError, match=r"q_values must be \[..., n_actions"):
                function(jnp.ones(shape), temperature=1.0)


@pytest.mark.parametrize("bad", [[1.0], None, jnp.ones(1, jnp.int32)])
def test_what_is_no_floating_array_is_refused_by_name(bad):
    b, q, a = jnp.ones(1), jnp.ones((1, 2)), jnp.zeros(1, jnp.int32)
    for position, name in [(0, "rewards"), (2, "q_values"), (4, "next_q_values")]:
        arguments = [b, b, q, a, q]
        arguments[position] = bad
        with pytest.raises(TypeError, match=name):
            targets(*arguments)
    with pytest.raises(TypeError, match="q_values"):
        compute_soft_policy(bad, temperature=1.0)
    with pytest.raises(TypeError, match="actions must be integers, got float32"):
        targets(b, b, q, b, q)
    with pytest.raises(TypeError, match="Dtypes must be equal"):
        targets(b, b, q, a, q.astype(jnp.bfloat16))


@pytest.mark.parametrize(
    "name, bad, interval",
    [
        ("temperature", 0.0, r"\(0, inf\)"),
        ("temperature", math.inf, r"\(0, inf\)"),
        ("scale", 1.1, r"\[0, 1\]"),
        ("scale", -0.1, r"\[0, 1\]"),
        ("clip", 0.0, r"\[-inf, 0\)"),
        ("clip", 1, r"\[-inf, 0\)"),
        ("clip", math.nan, r"\[-inf, 0\)"),
    ],
)
def test_numbers_have_their_ranges(name, bad, interval):
    b, q, a = jnp.ones(1), jnp.ones((1, 2)), jnp.zeros(1, jnp.int32)
    with pytest.raises(ValueError, match=f"{name} must be in {interval}, got {bad}"):
        targets(b, b, q, a, q, **{name: bad})
    with pytest.raises(ValueError, match=f"{name} must be in {interval}, got {bad}"):
        compute_munchausen_bonus(q, a, **{**PAPER, name: bad})
    with pytest.raises(ValueError, match=rf"{name} must be a number or of shape \(\)"):
        targets(b, b, q, a, q, **{name: jnp.ones(1)})


def test_half_precision_is_rounded_once():
    rewards, discounts, q, actions, next_q = draw(4, (300,))
    half = [jnp.asarray(x, jnp.bfloat16) for x in (rewards, discounts, q, next_q)]
    wide = [x.astype(jnp.float32) for x in half]
    got = targets(half[0], half[1], half[2], actions, half[3])
    assert got.dtype == jnp.bfloat16
    expected = targets(wide[0], wide[1], wide[2], actions, wide[3])
    np.testing.assert_array_equal(got, expected.astype(jnp.bfloat16))
    assert compute_soft_policy(half[2], temperature=1.0).dtype == jnp.bfloat16
    assert compute_munchausen_bonus(half[2], actions, **PAPER).dtype == jnp.bfloat16


@pytest.mark.parametrize("transform", [jax.jit, jax.vmap])
def test_targets_under_transformations(transform):
    arguments = draw(5, (3, 2))
    np.testing.assert_allclose(
        transform(targets)(*arguments), targets(*arguments), rtol=1e-5, atol=1e-6
    )


def test_other_numbers_are_not_traced_again(monkeypatch):
    traces = []
    check = munchausen.check_action_axis
    monkeypatch.setattr(
        munchausen,
        "check_action_axis",
        lambda **named: (traces.append(1), check(**named)),
    )
    q, actions = jnp.ones((11, 3)), jnp.zeros(11, jnp.int32)
    for number in (1, 0.5, np.float32(0.25)):
        compute_munchausen_bonus(
            q, actions, temperature=number, scale=number, clip=-number
        )
    assert len(traces) == 1
