import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rlax
from hypothesis import given, settings
from hypothesis import strategies as st

from kitae.timesteps import (
    compute_n_step_targets,
    compute_q_lambda_targets,
    compute_q_learning_targets,
    compute_td_targets,
    multistep,
)

SHAPES = [(1,), (7,), (7, 1), (5, 2, 2)]


def f32(*values):
    return jnp.array(values, jnp.float32)


def n_step_twin(rewards, discounts, next_values, n, ends):
    """Walks forward from each step until it has to stop, in float64."""
    out = np.zeros(rewards.shape)
    for index in np.ndindex(rewards.shape):
        discount = 1.0
        for k in range(index[0], len(rewards)):
            i = (k, *index[1:])
            out[index] += discount * rewards[i]
            discount *= discounts[i]
            if ends[i] or k == index[0] + n - 1 or k == len(rewards) - 1:
                out[index] += discount * next_values[i]
                break
    return out


def q_lambda_twin(rewards, discounts, next_q, lambda_, ends, actions=None):
    """Mixes the n-step returns, each summed on its own, in float64."""
    out = np.zeros(rewards.shape)
    for index in np.ndindex(rewards.shape):
        weight, total, discount = 1.0, 0.0, 1.0
        for k in range(index[0], len(rewards)):
            i, after = (k, *index[1:]), (k + 1, *index[1:])
            total += discount * rewards[i]
            discount *= discounts[i]
            n_step = total + discount * max(next_q[i])
            stops = ends[i] or k == len(rewards) - 1
            if not stops and actions is not None:
                stops = next_q[i][actions[after]] < max(next_q[i])
            if stops:
                out[index] += weight * n_step
                break
            out[index] += weight * (1.0 - lambda_) * n_step
            weight *= lambda_
    return out


def draw(seed, shape, n_actions=3):
    rng = np.random.default_rng(seed)
    rewards, values = rng.normal(size=(2, *shape)).astype(np.float32)
    terminated = rng.random(shape) < 0.15
    ends = terminated | (rng.random(shape) < 0.15)
    discounts = (rng.uniform(0.8, 1.0, shape) * ~terminated).astype(np.float32)
    # Whole numbers, so that some actions are equally good.
    q = rng.integers(0, 3, (*shape, n_actions)).astype(np.float32)
    actions = rng.integers(0, n_actions, shape).astype(np.int32)
    return rewards, discounts, values, q, actions, terminated, ends


def test_n_step_targets_by_hand():
    # 1 + .5*2 + .25*6, 2 + .5*3 + .25*8; the last has one step left: 3 + .5*8.
    targets = compute_n_step_targets(
        f32(1.0, 2.0, 3.0), f32(0.5, 0.5, 0.5), f32(4.0, 6.0, 8.0), 2
    )
    np.testing.assert_allclose(targets, [3.5, 5.5, 7.0])
    assert targets.dtype == jnp.float32


def test_n_step_targets_stop_at_an_end_by_hand():
    # The second step was cut by a time limit, the third terminated.
    targets = compute_n_step_targets(
        f32(1.0, 1.0, 1.0, 100.0),
        f32(0.5, 0.5, 0.0, 0.5),
        f32(9.0, 8.0, 9.0, 2.0),
        3,
        ends=jnp.array([False, True, True, False]),
    )
    np.testing.assert_allclose(targets, [3.5, 5.0, 1.0, 101.0])


def test_q_lambda_by_hand():
    # Backwards: 4 + .5*6 = 7; 2 + .5*(.5*5 + .5*7) = 5; 1 + .5*(.5*4 + .5*5) = 3.25.
    rewards, discounts = f32(1.0, 2.0, 4.0), f32(0.5, 0.5, 0.5)
    next_q = jnp.array([[4.0, 1.0], [3.0, 5.0], [6.0, 6.0]])
    np.testing.assert_allclose(
        compute_q_lambda_targets(rewards, discounts, next_q, 0.5), [3.25, 5.0, 7.0]
    )
    # The second action is 0, the best; the third is 0, which was worth 3, not 5: cut
    # there, the second is 2 + .5*5 = 4.5 and the first 1 + .5*(.5*4 + .5*4.5).
    actions = jnp.array([1, 0, 0])
    np.testing.assert_allclose(
        compute_q_lambda_targets(
            rewards, discounts, next_q, 0.5, watkins_actions=actions
        ),
        [3.125, 4.5, 7.0],
    )


def test_watkins_takes_equally_good_actions_as_greedy():
    next_q = jnp.array([[2.0, 2.0], [4.0, 0.0]])
    for action in (0, 1):
        targets = compute_q_lambda_targets(
            f32(0.0, 1.0),
            f32(1.0, 1.0),
            next_q,
            1.0,
            watkins_actions=jnp.array([0, action]),
        )
        np.testing.assert_allclose(targets, [5.0, 5.0])


def test_watkins_looks_at_no_action_of_the_next_episode():
    # The row after the end begins with an action that was bad in the state before.
    arguments = f32(1.0, 1.0), f32(0.5, 0.5), jnp.array([[4.0, 0.0], [2.0, 0.0]])
    ends, actions = jnp.array([True, False]), jnp.array([0, 1])
    np.testing.assert_allclose(
        compute_q_lambda_targets(*arguments, 1.0, ends=ends, watkins_actions=actions),
        [3.0, 2.0],
    )


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.sampled_from(SHAPES),
    n=st.sampled_from([1, 2, 3, 20]),
    give_ends=st.booleans(),
)
def test_n_step_targets_equal_their_twin(seed, shape, n, give_ends):
    rewards, discounts, values, *_, terminated, ends = draw(seed, shape)
    np.testing.assert_allclose(
        compute_n_step_targets(
            rewards, discounts, values, n, ends=ends if give_ends else None
        ),
        n_step_twin(rewards, discounts, values, n, ends if give_ends else terminated),
        rtol=1e-5,
        atol=1e-5,
    )


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.sampled_from(SHAPES),
    lambda_=st.sampled_from([0.0, 0.6, 1.0]),
    give_ends=st.booleans(),
    watkins=st.booleans(),
)
def test_q_lambda_equals_its_twin(seed, shape, lambda_, give_ends, watkins):
    rewards, discounts, _, q, actions, terminated, ends = draw(seed, shape)
    actions = actions if watkins else None
    np.testing.assert_allclose(
        compute_q_lambda_targets(
            rewards,
            discounts,
            q,
            lambda_,
            ends=ends if give_ends else None,
            watkins_actions=actions,
        ),
        q_lambda_twin(
            rewards, discounts, q, lambda_, ends if give_ends else terminated, actions
        ),
        rtol=1e-5,
        atol=1e-5,
    )


@pytest.mark.parametrize("n", [1, 3, 9])
def test_n_step_targets_equal_rlax(n, peer):
    rewards, discounts, values, *_ = draw(0, (9,))
    np.testing.assert_allclose(
        compute_n_step_targets(rewards, discounts, values, n),
        peer(rlax.n_step_bootstrapped_returns, rewards, discounts, values, n),
        rtol=1e-5,
        atol=1e-6,
    )


def test_q_lambda_equals_rlax(peer):
    rewards, discounts, _, q, actions, *_ = draw(1, (12,))
    zeros = np.zeros_like(q)  # of which rlax subtracts the action's from the target
    np.testing.assert_allclose(
        compute_q_lambda_targets(rewards, discounts, q, 0.7),
        peer(rlax.q_lambda, zeros, actions, rewards, discounts, q, jnp.float32(0.7)),
        rtol=1e-5,
    )
    # rlax leaves it to the caller to make Watkins's lambdas.
    greedy = [q[t][actions[t + 1]] == q[t].max() for t in range(11)]
    lambdas = np.array([0.7 * cut for cut in [*greedy, 1]], np.float32)
    np.testing.assert_allclose(
        compute_q_lambda_targets(rewards, discounts, q, 0.7, watkins_actions=actions),
        peer(rlax.q_lambda, zeros, actions, rewards, discounts, q, lambdas),
        rtol=1e-5,
    )


def test_one_step_is_td_and_q_learning():
    rewards, discounts, values, q, *_ = draw(2, (6, 2))
    np.testing.assert_allclose(
        compute_n_step_targets(rewards, discounts, values, 1),
        compute_td_targets(rewards, discounts, values),
    )
    np.testing.assert_allclose(
        compute_q_lambda_targets(rewards, discounts, q, 0.0),
        compute_q_learning_targets(rewards, discounts, q),
        rtol=1e-6,
    )


@pytest.mark.parametrize("n", [1, 4, 10, 50])
def test_truncation_every_ten_steps_is_worth_the_endless_sum(n):
    gamma, n_steps = 0.9, 35
    worth = np.full(n_steps, 1 / (1 - gamma), np.float32)
    ends = jnp.arange(n_steps) % 10 == 9
    rewards, discounts = jnp.ones(n_steps), jnp.full(n_steps, gamma)
    np.testing.assert_allclose(
        compute_n_step_targets(rewards, discounts, worth, n, ends=ends),
        worth,
        rtol=1e-5,
    )
    np.testing.assert_allclose(
        compute_q_lambda_targets(
            rewards, discounts, worth[:, None], 1 - 1 / n, ends=ends
        ),
        worth,
        rtol=1e-5,
    )


def test_an_end_shields_from_the_next_episode():
    rewards, ones, ends = f32(1.0, float("nan")), jnp.ones(2), jnp.array([True, True])
    assert compute_n_step_targets(rewards, ones, ones, 2, ends=ends)[0] == 2.0
    q = jnp.ones((2, 1))
    assert compute_q_lambda_targets(rewards, ones, q, 0.5, ends=ends)[0] == 2.0


@pytest.mark.parametrize("n", [0, -1])
def test_n_is_at_least_one(n):
    x = jnp.ones(3)
    with pytest.raises(ValueError, match=f"n must be at least 1, got {n}"):
        compute_n_step_targets(x, x, x, n)


@pytest.mark.parametrize("n", [2.0, "2", None, jnp.array(2)])
def test_n_is_an_integer(n):
    x = jnp.ones(3)
    with pytest.raises(TypeError, match="n must be an integer"):
        compute_n_step_targets(x, x, x, n)


def test_shapes_are_never_broadcast():
    b, b1, q = jnp.ones(4), jnp.ones((4, 1)), jnp.ones((4, 2))
    for bad in [(b1, b, b), (b, b1, b), (b, b, b1)]:
        with pytest.raises(ValueError, match="Shapes must be equal"):
            compute_n_step_targets(*bad, 2)
    with pytest.raises(ValueError, match=r"ends: \(4, 1\)"):
        compute_n_step_targets(b, b, b, 2, ends=jnp.zeros((4, 1), bool))
    with pytest.raises(ValueError, match=r"discounts: \(4, 1\)"):
        compute_q_lambda_targets(b, b1, q, 0.5)
    with pytest.raises(ValueError, match=r"rewards: \(4,\), next_q_values: \(4,\)"):
        compute_q_lambda_targets(b, b, b, 0.5)
    with pytest.raises(ValueError, match=r"watkins_actions: \(4, 1\)"):
        compute_q_lambda_targets(
            b, b, q, 0.5, watkins_actions=jnp.zeros((4, 1), jnp.int32)
        )
    with pytest.raises(ValueError, match=r"lambda_: \(2,\)"):
        compute_q_lambda_targets(b, b, q, jnp.ones(2))
    for shape in [(), (0,)]:
        x = jnp.ones(shape)
        with pytest.raises(ValueError, match="T >= 1"):
            compute_n_step_targets(x, x, x, 2)
        with pytest.raises(ValueError, match="T >= 1"):
            compute_q_lambda_targets(x, x, jnp.ones((*shape, 2)), 0.5)


@pytest.mark.parametrize("bad", [[1.0, 1.0], None, jnp.ones(2, jnp.int32)])
def test_what_is_no_floating_array_is_refused_by_name(bad):
    for position, name in enumerate(["rewards", "discounts", "next_values"]):
        arguments = [jnp.ones(2)] * 3
        arguments[position] = bad
        with pytest.raises(TypeError, match=name):
            compute_n_step_targets(*arguments, 2)
    with pytest.raises(TypeError, match="next_q_values"):
        compute_q_lambda_targets(jnp.ones(2), jnp.ones(2), bad, 0.5)


def test_actions_ends_and_lambda_have_their_dtypes():
    b, q = jnp.ones(2), jnp.ones((2, 2))
    with pytest.raises(TypeError, match="watkins_actions must be integers"):
        compute_q_lambda_targets(b, b, q, 0.5, watkins_actions=b)
    with pytest.raises(TypeError, match="ends must be bool"):
        compute_n_step_targets(b, b, b, 2, ends=b)
    with pytest.raises(ValueError, match=r"lambda_ must be in \[0, 1\], got 1.5"):
        compute_q_lambda_targets(b, b, q, 1.5)
    with pytest.raises(TypeError, match=r"rewards: float32, .* bfloat16"):
        compute_n_step_targets(b, b, b.astype(jnp.bfloat16), 2)


def test_half_precision_is_rounded_once():
    # The sum of 1000 rewards of .99 ** k; in bfloat16 itself it would stop short.
    rewards = jnp.ones(1000, jnp.bfloat16)
    discounts, zeros = jnp.full_like(rewards, 0.99), jnp.zeros_like(rewards)
    gamma = float(discounts[0])
    for targets in (
        compute_n_step_targets(rewards, discounts, zeros, 1000),
        compute_q_lambda_targets(rewards, discounts, zeros[:, None], 1.0),
    ):
        assert targets.dtype == jnp.bfloat16
        np.testing.assert_allclose(
            float(targets[0]), (1 - gamma**1000) / (1 - gamma), rtol=2**-8
        )


def test_gradients_flow_through_time():
    def first(r, v):
        return compute_n_step_targets(r, f32(0.5, 0.25, 0.5), v, 2)[0]

    # G0 = r0 + .5 * (r1 + .25 * v1)
    gradients = jax.grad(first, (0, 1))(f32(1.0, 2.0, 3.0), f32(4.0, 6.0, 8.0))
    np.testing.assert_allclose(gradients, [[1.0, 0.5, 0.0], [0.0, 0.125, 0.0]])

    def first_q(q):
        return compute_q_lambda_targets(f32(1.0, 1.0), f32(0.5, 0.5), q, 0.5)[0]

    # G0 = r0 + .5 * (.5 * max q0 + .5 * (r1 + .5 * max q1))
    to_q = jax.grad(first_q)(jnp.array([[1.0, 2.0], [4.0, 3.0]]))
    np.testing.assert_allclose(to_q, [[0.0, 0.25], [0.125, 0.0]])


def test_targets_under_jit_and_vmap():
    rewards, discounts, values, q, actions, _, ends = draw(3, (6, 3))

    def n_step(r, d, v, e):
        return compute_n_step_targets(r, d, v, 3, ends=e)

    def q_lambda(r, d, q, e, a):
        return compute_q_lambda_targets(r, d, q, 0.5, ends=e, watkins_actions=a)

    for function, arguments in [
        (n_step, (rewards, discounts, values, ends)),
        (q_lambda, (rewards, discounts, q, ends, actions)),
    ]:
        expected = function(*arguments)
        np.testing.assert_allclose(jax.jit(function)(*arguments), expected, rtol=1e-6)
        batched = jax.vmap(function, in_axes=1, out_axes=1)(*arguments)
        np.testing.assert_allclose(batched, expected, rtol=1e-6)


def test_another_lambda_is_not_traced_again(monkeypatch):
    traces = []
    check = multistep.check_action_axis
    monkeypatch.setattr(
        multistep,
        "check_action_axis",
        lambda **named: (traces.append(1), check(**named)),
    )
    x, q = jnp.ones((4, 9)), jnp.ones((4, 9, 2))
    for lambda_ in (0, 0.3, 1, np.float32(0.5)):
        compute_q_lambda_targets(x, x, q, lambda_)
    assert len(traces) == 1
