import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rlax
from hypothesis import given, settings
from hypothesis import strategies as st

from kitae.timesteps import (
    VTrace,
    compute_lambda_returns,
    compute_retrace_targets,
    compute_vtrace,
    off_policy,
)

SHAPES = [(1,), (7,), (7, 1), (5, 2, 2)]


def f32(*values):
    return jnp.array(values, jnp.float32)


def retrace_twin(rewards, discounts, q, next_q, probs, log_ratios, lambda_, ends):
    """Sums the terms of eq. 3 forwards in time, in float64."""
    out = np.zeros(rewards.shape)
    for index in np.ndindex(rewards.shape):
        out[index], weight = q[index], 1.0
        for k in range(index[0], len(rewards)):
            i = (k, *index[1:])
            if k > index[0]:
                weight *= lambda_ * min(1.0, np.exp(np.float64(log_ratios[i])))
            expected = np.dot(probs[i].astype(np.float64), next_q[i])
            out[index] += weight * (rewards[i] + discounts[i] * expected - q[i])
            weight *= discounts[i]
            if ends[i]:
                break
    return out


def vtrace_twin(
    rewards, discounts, values, next_values, log_ratios, lambda_, ends, clips
):
    """Sums the terms of eq. 1 forwards in time, in float64."""
    rho_clip, c_clip, pg_clip = clips
    ratios = np.exp(log_ratios.astype(np.float64))
    targets, advantages = np.zeros(rewards.shape), np.zeros(rewards.shape)
    for index in np.ndindex(rewards.shape):
        targets[index], weight = values[index], 1.0
        for k in range(index[0], len(rewards)):
            i = (k, *index[1:])
            delta = rewards[i] + discounts[i] * next_values[i] - values[i]
            targets[index] += weight * min(rho_clip, ratios[i]) * delta
            weight *= discounts[i] * lambda_ * min(c_clip, ratios[i])
            if ends[i]:
                break
    for index in np.ndindex(rewards.shape):
        after = (index[0] + 1, *index[1:])
        follows = next_values[index]
        if not ends[index] and index[0] + 1 < len(rewards):
            follows = (1 - lambda_) * follows + lambda_ * targets[after]
        q = rewards[index] + discounts[index] * follows
        advantages[index] = min(pg_clip, ratios[index]) * (q - values[index])
    return targets, advantages


def draw(seed, shape, n_actions=3):
    rng = np.random.default_rng(seed)
    rewards, values, next_values, log_ratios = rng.normal(size=(4, *shape)).astype(
        np.float32
    )
    terminated = rng.random(shape) < 0.15
    ends = terminated | (rng.random(shape) < 0.15)
    discounts = (rng.uniform(0.8, 1.0, shape) * ~terminated).astype(np.float32)
    next_q = rng.normal(size=(*shape, n_actions)).astype(np.float32)
    probs = rng.dirichlet(np.ones(n_actions), shape).astype(np.float32)
    steps = rewards, discounts, values, next_values, log_ratios
    return steps, next_q, probs, terminated, ends


def retrace_arguments(seed, shape):
    (rewards, discounts, values, _, log_ratios), next_q, probs, *cuts = draw(
        seed, shape
    )
    return (rewards, discounts, values, next_q, probs, log_ratios), *cuts


def test_retrace_by_hand():
    # E = [.5*4 + .5*8, 6] = [6, 6]. The last: 3 + .5*6 = 6. The ratio of the second
    # action is 1/2: 1 + .5*(6 + .5*.5*(6 - 2)) = 4.5.
    targets = compute_retrace_targets(
        f32(1.0, 3.0),
        f32(0.5, 0.5),
        f32(9.0, 2.0),
        jnp.array([[4.0, 8.0], [6.0, 0.0]]),
        jnp.array([[0.5, 0.5], [1.0, 0.0]]),
        jnp.log(f32(7.0, 0.5)),
        0.5,
    )
    np.testing.assert_allclose(targets, [4.5, 6.0], rtol=1e-6)
    assert targets.dtype == jnp.float32


def test_vtrace_by_hand():
    # delta = [1 + .5*4 - 2, 3 + .5*6 - 4] = [1, 2]; ratios 2 and 1/2. The errors,
    # backwards: .5*2 = 1; 1*1 + .5*1*1 = 1.5. Advantages, clipped at 1.5: 1.5*(1 +
    # .5*5 - 2) and .5*2.
    targets, advantages = compute_vtrace(
        f32(1.0, 3.0),
        f32(0.5, 0.5),
        f32(2.0, 4.0),
        f32(4.0, 6.0),
        jnp.log(f32(2.0, 0.5)),
        advantage_rho_clip=1.5,
    )
    np.testing.assert_allclose(targets, [3.5, 5.0], rtol=1e-6)
    np.testing.assert_allclose(advantages, [2.25, 1.0], rtol=1e-6)
    assert targets.dtype == advantages.dtype == jnp.float32


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.sampled_from(SHAPES),
    lambda_=st.sampled_from([0.0, 0.6, 1.0]),
    give_ends=st.booleans(),
)
def test_retrace_equals_its_twin(seed, shape, lambda_, give_ends):
    arguments, terminated, ends = retrace_arguments(seed, shape)
    np.testing.assert_allclose(
        compute_retrace_targets(*arguments, lambda_, ends=ends if give_ends else None),
        retrace_twin(*arguments, lambda_, ends if give_ends else terminated),
        rtol=1e-4,
        atol=1e-5,
    )


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.sampled_from(SHAPES),
    lambda_=st.sampled_from([0.0, 0.6, 1.0]),
    clips=st.sampled_from([(1.0, 1.0, 1.0), (2.0, 1.5, 0.5), (math.inf,) * 3]),
    give_ends=st.booleans(),
)
def test_vtrace_equals_its_twin(seed, shape, lambda_, clips, give_ends):
    steps, _, _, terminated, ends = draw(seed, shape)
    got = compute_vtrace(
        *steps,
        lambda_,
        ends=ends if give_ends else None,
        rho_clip=clips[0],
        c_clip=clips[1],
        advantage_rho_clip=clips[2],
    )
    # The products of unclipped ratios reach some hundreds.
    expected = vtrace_twin(*steps, lambda_, ends if give_ends else terminated, clips)
    np.testing.assert_allclose(got.targets, expected[0], rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(got.advantages, expected[1], rtol=1e-4, atol=1e-3)


def continuing(seed, n_steps, n_actions=4):
    """A trajectory of one episode, as rows 0 to n_steps of what was seen there."""
    rng = np.random.default_rng(seed)
    q = rng.normal(size=(n_steps + 1, n_actions)).astype(np.float32)
    pi, mu = rng.dirichlet(np.ones(n_actions), (2, n_steps + 1)).astype(np.float32)
    actions = rng.integers(0, n_actions, n_steps + 1).astype(np.int32)
    rewards = rng.normal(size=n_steps).astype(np.float32)
    discounts = rng.uniform(0.8, 1.0, n_steps).astype(np.float32)
    rows = np.arange(n_steps + 1)
    return q, pi, actions, rewards, discounts, pi[rows, actions], mu[rows, actions]


@pytest.mark.parametrize("lambda_", [0.0, 0.8, 1.0])
def test_retrace_equals_rlax(lambda_, peer):
    q, pi, actions, rewards, discounts, pi_a, mu_a = continuing(0, 10)
    zeros = np.zeros_like(q[:-1])  # of which rlax subtracts the action's
    expected = peer(
        rlax.retrace,
        zeros,
        q[1:],
        actions[:-1],
        actions[1:],
        rewards,
        discounts,
        pi[1:],
        mu_a[1:],
        lambda_,
        eps=0.0,
    )
    taken = q[np.arange(11), actions][:-1]
    log_ratios = np.log(pi_a / mu_a)[:-1]
    got = compute_retrace_targets(
        rewards, discounts, taken, q[1:], pi[1:], log_ratios, lambda_
    )
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("lambda_", [0.0, 0.8, 1.0])
@pytest.mark.parametrize("rho_clip, pg_clip", [(1.0, 1.0), (3.0, 0.7)])
def test_vtrace_equals_rlax(lambda_, rho_clip, pg_clip, peer):
    q, _, _, rewards, discounts, pi_a, mu_a = continuing(1, 10)
    values, ratios = q[:, 0], (pi_a / mu_a)[:-1]
    expected = peer(
        rlax.vtrace_td_error_and_advantage,
        values[:-1],
        values[1:],
        rewards,
        discounts,
        ratios,
        np.float32(lambda_),
        rho_clip,
        pg_clip,
    )
    got = compute_vtrace(
        rewards,
        discounts,
        values[:-1],
        values[1:],
        np.log(ratios),
        lambda_,
        rho_clip=rho_clip,
        advantage_rho_clip=pg_clip,
    )
    np.testing.assert_allclose(
        got.targets, expected.errors + values[:-1], rtol=1e-5, atol=1e-5
    )
    np.testing.assert_allclose(
        got.advantages, expected.pg_advantage, rtol=1e-4, atol=1e-5
    )


def test_on_policy_both_are_lambda_returns():
    (rewards, discounts, values, _, _), _, _, _, ends = draw(2, (9, 2))
    following = np.concatenate([values[1:], values[:1]])
    zeros = np.zeros_like(rewards)
    expected = compute_lambda_returns(rewards, discounts, following, 0.7, ends=ends)
    vtrace = compute_vtrace(
        rewards, discounts, values, following, zeros, 0.7, ends=ends
    )
    np.testing.assert_allclose(vtrace.targets, expected, rtol=1e-4, atol=1e-5)
    # One action, always taken.
    retrace = compute_retrace_targets(
        rewards,
        discounts,
        values,
        following[..., None],
        np.ones_like(following)[..., None],
        zeros,
        0.7,
        ends=ends,
    )
    np.testing.assert_allclose(retrace, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("lambda_", [0.0, 0.95, 1.0])
def test_truncation_every_ten_steps_is_worth_the_endless_sum(lambda_):
    gamma, n_steps = 0.9, 35
    worth = np.full(n_steps, 1 / (1 - gamma), np.float32)
    ends = jnp.arange(n_steps) % 10 == 9
    rewards, discounts = jnp.ones(n_steps), jnp.full(n_steps, gamma)
    log_ratios = jnp.linspace(-1.0, 1.0, n_steps)
    column = worth[:, None]
    targets = compute_retrace_targets(
        rewards,
        discounts,
        worth,
        column,
        jnp.ones_like(column),
        log_ratios,
        lambda_,
        ends=ends,
    )
    np.testing.assert_allclose(targets, worth, rtol=1e-5)
    vtrace = compute_vtrace(
        rewards, discounts, worth, worth, log_ratios, lambda_, ends=ends
    )
    np.testing.assert_allclose(vtrace.targets, worth, rtol=1e-5)
    np.testing.assert_allclose(vtrace.advantages, np.zeros(n_steps), atol=1e-4)


def test_an_end_shields_from_the_next_episode():
    nan = float("nan")
    rewards, ones, poison = f32(1.0, nan), jnp.ones(2), f32(1.0, nan)
    ends, column = jnp.array([True, True]), jnp.ones((2, 1))
    targets = compute_retrace_targets(
        rewards, ones, poison, column, column, poison, 1.0, ends=ends
    )
    assert targets[0] == 2.0
    vtrace = compute_vtrace(rewards, ones, poison, ones, jnp.zeros(2), ends=ends)
    assert vtrace.targets[0] == 2.0
    assert vtrace.advantages[0] == 1.0


def test_the_first_ratio_counts_for_nothing_in_retrace():
    arguments, *_ = retrace_arguments(3, (6,))
    *others, log_ratios = arguments
    changed = np.array([50.0, *log_ratios[1:]], np.float32)
    np.testing.assert_array_equal(
        compute_retrace_targets(*others, changed, 0.9),
        compute_retrace_targets(*others, log_ratios, 0.9),
    )


def test_enormous_ratios_are_clipped_with_finite_gradients():
    x, column = jnp.ones(3), jnp.ones((3, 1))
    log_ratios = f32(1e4, 1e4, -1e4)

    def total(log_ratios):
        targets, advantages = compute_vtrace(x, x, x, x, log_ratios)
        retrace = compute_retrace_targets(x, x, x, column, column, log_ratios, 1.0)
        return jnp.sum(targets) + jnp.sum(advantages) + jnp.sum(retrace)

    value, gradients = jax.value_and_grad(total)(log_ratios)
    assert jnp.isfinite(value)
    np.testing.assert_array_equal(gradients, [0.0, 0.0, 0.0])


def test_a_vtrace_is_a_pair():
    x = jnp.ones(2)
    vtrace = compute_vtrace(x, x, x, x, x)
    assert isinstance(vtrace, VTrace)
    assert VTrace._fields == ("targets", "advantages")


CALLS = {
    compute_retrace_targets: (
        "rewards",
        "discounts",
        "q_values",
        "next_q_values",
        "next_probs",
        "log_ratios",
    ),
    compute_vtrace: ("rewards", "discounts", "values", "next_values", "log_ratios"),
}


def arguments_of(function, shape):
    return [
        jnp.ones((*shape, 2) if name in ("next_q_values", "next_probs") else shape)
        for name in CALLS[function]
    ]


@pytest.mark.parametrize("function", CALLS)
def test_shapes_are_never_broadcast(function):
    for position, name in enumerate(CALLS[function]):
        arguments = arguments_of(function, (4,))
        arguments[position] = jnp.ones((4, 1))
        with pytest.raises(ValueError, match=rf"{name}: \(4, 1\)"):
            function(*arguments, 0.9)
    arguments = arguments_of(function, (4, 2))
    with pytest.raises(ValueError, match=r"ends: \(4, 1\)"):
        function(*arguments, 0.9, ends=jnp.zeros((4, 1), bool))
    with pytest.raises(ValueError, match=r"lambda_: \(2,\)"):
        function(*arguments, jnp.ones(2))
    for shape in [(), (0,)]:
        with pytest.raises(ValueError, match="T >= 1"):
            function(*arguments_of(function, shape), 0.9)


def test_probabilities_go_with_the_action_values():
    b, q = jnp.ones(4), jnp.ones((4, 2))
    with pytest.raises(ValueError, match=r"next_probs: \(4, 3\)"):
        compute_retrace_targets(b, b, b, q, jnp.ones((4, 3)), b, 0.9)
    with pytest.raises(ValueError, match="next_q_values must have the shape of"):
        compute_retrace_targets(b, b, b, b, b, b, 0.9)


@pytest.mark.parametrize("function", CALLS)
@pytest.mark.parametrize("bad", [[1.0, 1.0], None, jnp.ones(2, jnp.int32)])
def test_what_is_no_floating_array_is_refused_by_name(function, bad):
    for position, name in enumerate(CALLS[function]):
        arguments = arguments_of(function, (2,))
        arguments[position] = bad
        with pytest.raises(TypeError, match=name):
            function(*arguments, 0.9)
    arguments = arguments_of(function, (2,))
    arguments[-1] = jnp.ones(2, jnp.bfloat16)
    with pytest.raises(TypeError, match=r"rewards: float32, .* log_ratios: bfloat16"):
        function(*arguments, 0.9)
    with pytest.raises(TypeError, match="ends must be bool"):
        function(*arguments_of(function, (2,)), 0.9, ends=jnp.zeros(2))


@pytest.mark.parametrize("function", CALLS)
@pytest.mark.parametrize("bad", [-0.1, 1.01, float("nan")])
def test_lambda_is_between_zero_and_one(function, bad):
    with pytest.raises(ValueError, match=r"lambda_ must be in \[0, 1\], got"):
        function(*arguments_of(function, (2,)), bad)


@pytest.mark.parametrize("name", ["rho_clip", "c_clip", "advantage_rho_clip"])
def test_clips_are_above_zero(name):
    x = [jnp.ones(2)] * 5
    for bad in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match=rf"{name} must be in \(0, "):
            compute_vtrace(*x, **{name: bad})
    with pytest.raises(ValueError, match=rf"{name} must be a number or of shape \(\)"):
        compute_vtrace(*x, **{name: jnp.ones(2)})
    with pytest.raises(TypeError, match=name):
        compute_vtrace(*x, **{name: None})


def test_c_clip_is_at_most_rho_clip():
    with pytest.raises(ValueError, match=r"c_clip must be in \(0, 1\], got 2.0"):
        compute_vtrace(*[jnp.ones(2)] * 5, c_clip=2.0)


@pytest.mark.parametrize("function", CALLS)
def test_half_precision_is_rounded_once(function):
    arguments, *_ = retrace_arguments(4, (300,))
    if function is compute_vtrace:
        arguments = draw(4, (300,))[0]
    half = [jnp.asarray(x, jnp.bfloat16) for x in arguments]
    wide = [x.astype(jnp.float32) for x in half]
    for got, expected in zip(
        jax.tree.leaves(function(*half, 0.9)),
        jax.tree.leaves(function(*wide, 0.9)),
        strict=True,
    ):
        assert got.dtype == jnp.bfloat16
        np.testing.assert_array_equal(got, expected.astype(jnp.bfloat16))


def test_gradients_flow_through_time():
    # G0 = r0 + .5*(E0 + .5*(r1 + .5*E1 - q1)), the second ratio being 1/2.
    ones, log_ratios = jnp.ones((2, 1)), jnp.log(f32(1.0, 0.5))

    def first(r, q, next_q):
        return compute_retrace_targets(
            r, f32(0.5, 0.5), q, next_q, ones, log_ratios, 1.0
        )[0]

    to_r, to_q, to_next = jax.grad(first, (0, 1, 2))(
        f32(1.0, 2.0), f32(3.0, 4.0), jnp.array([[5.0], [6.0]])
    )
    np.testing.assert_allclose(to_r, [1.0, 0.25])
    np.testing.assert_allclose(to_q, [0.0, -0.25])
    np.testing.assert_allclose(to_next, [[0.5], [0.125]])


@pytest.mark.parametrize("function", CALLS)
def test_under_jit_and_vmap(function):
    arguments, _, ends = retrace_arguments(5, (6, 3))
    if function is compute_vtrace:
        arguments = draw(5, (6, 3))[0]

    def call(ends, *arguments):
        return function(*arguments, 0.9, ends=ends)

    expected = call(ends, *arguments)
    for got in (
        jax.jit(call)(ends, *arguments),
        jax.vmap(call, in_axes=1, out_axes=1)(ends, *arguments),
    ):
        for one, other in zip(
            jax.tree.leaves(got), jax.tree.leaves(expected), strict=True
        ):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_other_numbers_are_not_traced_again(monkeypatch):
    traces = []
    scan = off_policy.scan_back
    monkeypatch.setattr(
        off_policy, "scan_back", lambda *xs: (traces.append(1), scan(*xs))[1]
    )
    x = [jnp.ones((5, 7))] * 5
    for number in (1, 0.5, np.float32(0.25)):
        compute_vtrace(*x, number, c_clip=number, advantage_rho_clip=number)
    assert len(traces) == 1
