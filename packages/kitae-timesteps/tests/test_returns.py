import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kitae.timesteps import compute_gae, compute_lambda_returns, returns

# What marks a function in a compiled program that is one kernel.
ONE_KERNEL = "xla_cpu_small_call"


def f32(*values):
    return jnp.array(values, jnp.float32)


def gae_twin(rewards, discounts, values, next_values, lambdas, ends):
    """Sums the terms of eq. 16 one by one, in float64."""
    out = np.zeros(rewards.shape)
    for index in np.ndindex(rewards.shape):
        t, batch = index[0], index[1:]
        weight = 1.0
        for k in range(t, rewards.shape[0]):
            i = (k, *batch)
            delta = rewards[i] + discounts[i] * next_values[i] - values[i]
            out[index] += weight * delta
            weight *= discounts[i] * lambdas[i]
            if ends[i]:
                break
    return out


def lambda_return_twin(rewards, discounts, next_values, lambdas, ends):
    """Mixes the n-step returns, each summed on its own, in float64."""
    n_steps = rewards.shape[0]
    out = np.zeros(rewards.shape)
    for index in np.ndindex(rewards.shape):
        t, batch = index[0], index[1:]
        weight, total, discount = 1.0, 0.0, 1.0
        for k in range(t, n_steps):
            i = (k, *batch)
            total += discount * rewards[i]
            discount *= discounts[i]
            n_step = total + discount * next_values[i]
            if ends[i] or k == n_steps - 1:
                out[index] += weight * n_step
                break
            out[index] += weight * (1.0 - lambdas[i]) * n_step
            weight *= lambdas[i]
    return out


def draw(seed, shape):
    rng = np.random.default_rng(seed)
    rewards, values, next_values = rng.normal(size=(3, *shape)).astype(np.float32)
    terminated = rng.random(shape) < 0.15
    ends = terminated | (rng.random(shape) < 0.15)
    discounts = (rng.uniform(0.8, 1.0, shape) * ~terminated).astype(np.float32)
    lambdas = rng.random(shape).astype(np.float32)
    return rewards, discounts, values, next_values, lambdas, terminated, ends


def test_gae_by_hand():
    # delta = [1 + .5*4 - 2, 2 + .5*6 - 4, 3 + .5*8 - 6] = [1, 1, 1]; each carries
    # half of half of the one after it.
    advantages = compute_gae(
        f32(1.0, 2.0, 3.0),
        f32(0.5, 0.5, 0.5),
        f32(2.0, 4.0, 6.0),
        f32(4.0, 6.0, 8.0),
        0.5,
    )
    np.testing.assert_allclose(advantages, [1.3125, 1.25, 1.0])
    assert advantages.dtype == jnp.float32


def test_lambda_returns_by_hand():
    # Backwards: 3 + .5*8 = 7; 2 + .5*(.5*6 + .5*7) = 5.25; 1 + .5*(.5*4 + .5*5.25).
    targets = compute_lambda_returns(
        f32(1.0, 2.0, 3.0), f32(0.5, 0.5, 0.5), f32(4.0, 6.0, 8.0), 0.5
    )
    np.testing.assert_allclose(targets, [3.3125, 5.25, 7.0])
    assert targets.dtype == jnp.float32


def test_an_end_cuts_and_bootstraps_by_hand():
    # The second step ends its episode, without terminating it: 1 + .5*8 = 5 there,
    # and 1 + .5*5 = 3.5 before it. The hundred that follows is of another episode.
    rewards, discounts = f32(1.0, 1.0, 100.0), f32(0.5, 0.5, 0.5)
    next_values, ends = f32(2.0, 8.0, 2.0), jnp.array([False, True, False])
    np.testing.assert_allclose(
        compute_lambda_returns(rewards, discounts, next_values, 1.0, ends=ends),
        [3.5, 5.0, 101.0],
    )
    np.testing.assert_allclose(
        compute_gae(rewards, discounts, jnp.ones(3), next_values, 1.0, ends=ends),
        # delta = [1 + 1 - 1, 1 + 4 - 1, 100 + 1 - 1]
        [3.0, 4.0, 100.0],
    )


def test_an_end_shields_from_the_next_episode():
    nan = float("nan")
    rewards, ones = f32(1.0, nan), jnp.ones(2)
    ends = jnp.array([True, True])
    assert compute_gae(rewards, ones, ones, ones, 0.5, ends=ends)[0] == 1.0
    assert compute_lambda_returns(rewards, ones, ones, 0.5, ends=ends)[0] == 2.0


def test_without_ends_only_termination_cuts():
    rewards, zeros = f32(1.0, 1.0, 1.0, 1.0), jnp.zeros(4)
    discounts = f32(0.5, 0.0, 0.5, 0.5)
    np.testing.assert_allclose(
        compute_lambda_returns(rewards, discounts, zeros, 1.0), [1.5, 1.0, 1.5, 1.0]
    )
    np.testing.assert_allclose(
        compute_gae(rewards, discounts, zeros, zeros, 1.0), [1.5, 1.0, 1.5, 1.0]
    )


def test_termination_cuts_even_where_ends_does_not_say_so():
    rewards, zeros = f32(1.0, 5.0), jnp.zeros(2)
    discounts, ends = f32(0.0, 0.5), jnp.array([False, False])
    for targets in (
        compute_lambda_returns(rewards, discounts, zeros, 1.0, ends=ends),
        compute_gae(rewards, discounts, zeros, zeros, 1.0, ends=ends),
    ):
        np.testing.assert_allclose(targets, [1.0, 5.0])


@pytest.mark.parametrize("lambda_", [0.0, 0.3, 0.95, 1.0])
def test_truncation_every_ten_steps_is_worth_the_endless_sum(lambda_):
    gamma, n_steps = 0.9, 35
    worth = 1 / (1 - gamma)
    ends = jnp.arange(n_steps) % 10 == 9
    rewards, discounts = jnp.ones(n_steps), jnp.full(n_steps, gamma)
    values = jnp.full(n_steps, worth)
    np.testing.assert_allclose(
        compute_lambda_returns(rewards, discounts, values, lambda_, ends=ends),
        np.full(n_steps, worth),
        rtol=1e-5,
    )
    np.testing.assert_allclose(
        compute_gae(rewards, discounts, values, values, lambda_, ends=ends),
        np.zeros(n_steps),
        atol=1e-4,
    )


def test_termination_every_ten_steps_is_worth_the_finite_sum():
    gamma, n_steps = 0.9, 30
    ends = jnp.arange(n_steps) % 10 == 9
    rewards, discounts = jnp.ones(n_steps), jnp.where(ends, 0.0, gamma)
    # Values that are wrong, which at lambda 1 count only where one bootstraps.
    values = jnp.full(n_steps, 77.0)
    finite = [sum(gamma**k for k in range(10 - t % 10)) for t in range(n_steps)]
    for given_ends in (ends, None):
        np.testing.assert_allclose(
            compute_lambda_returns(rewards, discounts, values, 1.0, ends=given_ends),
            finite,
            rtol=1e-5,
        )
        np.testing.assert_allclose(
            compute_gae(rewards, discounts, values, values, 1.0, ends=given_ends),
            np.array(finite) - 77.0,
            rtol=1e-5,
        )


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.sampled_from([(1,), (9,), (9, 1), (6, 2, 2)]),
    per_step=st.booleans(),
    give_ends=st.booleans(),
)
def test_targets_equal_their_twins(seed, shape, per_step, give_ends):
    rewards, discounts, values, next_values, lambdas, terminated, ends = draw(
        seed, shape
    )
    lambda_ = lambdas if per_step else float(lambdas.flat[0])
    if not per_step:
        lambdas = np.full(shape, lambda_)
    cuts = ends if give_ends else terminated
    ends = ends if give_ends else None
    np.testing.assert_allclose(
        compute_gae(rewards, discounts, values, next_values, lambda_, ends=ends),
        gae_twin(rewards, discounts, values, next_values, lambdas, cuts),
        rtol=1e-5,
        atol=1e-5,
    )
    np.testing.assert_allclose(
        compute_lambda_returns(rewards, discounts, next_values, lambda_, ends=ends),
        lambda_return_twin(rewards, discounts, next_values, lambdas, cuts),
        rtol=1e-5,
        atol=1e-5,
    )


def test_a_thousand_steps_stay_accurate():
    rewards, discounts, values, next_values, _, _, ends = draw(3, (1000,))
    lambdas = np.full(rewards.shape, 1.0)
    never = np.zeros_like(ends)
    discounts[:] = 0.999
    np.testing.assert_allclose(
        compute_gae(rewards, discounts, values, next_values, 1.0),
        gae_twin(rewards, discounts, values, next_values, lambdas, never),
        atol=2e-4,
    )
    np.testing.assert_allclose(
        compute_lambda_returns(rewards, discounts, next_values, 1.0),
        lambda_return_twin(rewards, discounts, next_values, lambdas, never),
        atol=2e-4,
    )


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_is_rounded_once(dtype):
    rewards = jnp.ones(1000, dtype)
    discounts, zeros = jnp.full(1000, 0.99, dtype), jnp.zeros(1000, dtype)
    gamma = float(discounts[0])
    expected = (1 - gamma ** np.arange(1000, 0, -1)) / (1 - gamma)
    for targets in (
        compute_lambda_returns(rewards, discounts, zeros, 1.0),
        compute_gae(rewards, discounts, zeros, zeros, 1.0),
    ):
        assert targets.dtype == dtype
        np.testing.assert_allclose(
            targets.astype(jnp.float32), expected, rtol=float(jnp.finfo(dtype).eps)
        )


def test_lambda_zero_looks_one_step_ahead():
    rewards, discounts, values, next_values, *_ = draw(5, (7, 2))
    np.testing.assert_allclose(
        compute_lambda_returns(rewards, discounts, next_values, 0),
        rewards + discounts * next_values,
        rtol=1e-5,
        atol=1e-6,
    )
    np.testing.assert_allclose(
        compute_gae(rewards, discounts, values, next_values, 0),
        rewards + discounts * next_values - values,
        rtol=1e-5,
        atol=1e-6,
    )


CALLS = {
    compute_gae: ("rewards", "discounts", "values", "next_values"),
    compute_lambda_returns: ("rewards", "discounts", "next_values"),
}


@pytest.mark.parametrize("function", CALLS)
def test_shapes_are_never_broadcast(function):
    for position, name in enumerate(CALLS[function]):
        arguments = [jnp.ones(4)] * len(CALLS[function])
        arguments[position] = jnp.ones((4, 1))
        with pytest.raises(ValueError, match=rf"{name}: \(4, 1\)"):
            function(*arguments, 0.9)
    arguments = [jnp.ones((4, 2))] * len(CALLS[function])
    with pytest.raises(ValueError, match=r"rewards: \(4, 2\), ends: \(4, 1\)"):
        function(*arguments, 0.9, ends=jnp.zeros((4, 1), bool))
    with pytest.raises(ValueError, match=r"rewards: \(4, 2\), lambda_: \(2,\)"):
        function(*arguments, jnp.ones(2))


@pytest.mark.parametrize("function", CALLS)
@pytest.mark.parametrize("shape", [(), (0,), (0, 3)])
def test_at_least_one_step_is_needed(function, shape):
    with pytest.raises(ValueError, match="T >= 1"):
        function(*[jnp.ones(shape)] * len(CALLS[function]), 0.9)


@pytest.mark.parametrize("function", CALLS)
@pytest.mark.parametrize("bad", [[1.0, 1.0], None, jnp.ones(2, jnp.int32)])
def test_what_is_no_floating_array_is_refused_by_name(function, bad):
    for position, name in enumerate(CALLS[function]):
        arguments = [jnp.ones(2)] * len(CALLS[function])
        arguments[position] = bad
        with pytest.raises(TypeError, match=name):
            function(*arguments, 0.9)


@pytest.mark.parametrize("function", CALLS)
@pytest.mark.parametrize("bad", [[False, True], jnp.zeros(2), np.zeros(2, int)])
def test_ends_must_be_bool(function, bad):
    with pytest.raises(TypeError, match="ends"):
        function(*[jnp.ones(2)] * len(CALLS[function]), 0.9, ends=bad)


@pytest.mark.parametrize("function", CALLS)
@pytest.mark.parametrize("bad", [-0.1, 1.01, float("nan"), np.float32(2.0), 2])
def test_lambda_is_between_zero_and_one(function, bad):
    with pytest.raises(ValueError, match=r"lambda_ must be in \[0, 1\], got"):
        function(*[jnp.ones(2)] * len(CALLS[function]), bad)


@pytest.mark.parametrize("function", CALLS)
@pytest.mark.parametrize("bad", [[0.5, 0.5], None, "0.5", jnp.ones(2, jnp.int32)])
def test_lambda_is_a_number_or_an_array(function, bad):
    with pytest.raises(TypeError, match="lambda_"):
        function(*[jnp.ones(2)] * len(CALLS[function]), bad)


@pytest.mark.parametrize("function", CALLS)
def test_dtypes_are_not_mixed(function):
    arguments = [jnp.ones(2)] * len(CALLS[function])
    arguments[-1] = jnp.ones(2, jnp.bfloat16)
    with pytest.raises(TypeError, match=r"rewards: float32, .* next_values: bfloat16"):
        function(*arguments, 0.9)


def test_gradients_flow_through_time():
    rewards, discounts = f32(1.0, 2.0, 3.0), f32(0.5, 0.25, 0.5)
    values, next_values = f32(1.0, 1.0, 1.0), f32(4.0, 6.0, 8.0)

    def first_return(r, v):
        return compute_lambda_returns(r, discounts, v, 0.5)[0]

    to_rewards, to_next = jax.grad(first_return, (0, 1))(rewards, next_values)
    # G0 = r0 + .5*(.5*v0 + .5*(r1 + .25*(.5*v1 + .5*(r2 + .5*v2))))
    np.testing.assert_allclose(to_rewards, [1.0, 0.25, 0.03125])
    np.testing.assert_allclose(to_next, [0.25, 0.03125, 0.015625])

    def first_advantage(r, v, n):
        return compute_gae(r, discounts, v, n, 0.5)[0]

    gradients = jax.grad(first_advantage, (0, 1, 2))(rewards, values, next_values)
    # A0 = delta0 + .25 * (delta1 + .125 * delta2)
    np.testing.assert_allclose(gradients[0], [1.0, 0.25, 0.03125])
    np.testing.assert_allclose(gradients[1], [-1.0, -0.25, -0.03125])
    np.testing.assert_allclose(gradients[2], [0.5, 0.0625, 0.015625])


def test_no_gradient_crosses_an_end():
    x, ends = jnp.ones(3), jnp.array([False, True, False])
    for function in (
        lambda r: compute_gae(r, 0.5 * x, x, x, 1.0, ends=ends)[0],
        lambda r: compute_lambda_returns(r, 0.5 * x, x, 1.0, ends=ends)[0],
    ):
        np.testing.assert_allclose(jax.grad(function)(x), [1.0, 0.5, 0.0])


def test_targets_under_jit_and_vmap():
    rewards, discounts, values, next_values, lambdas, _, ends = draw(7, (8, 3))
    arguments = rewards, discounts, values, next_values, lambdas
    expected = compute_gae(*arguments, ends=ends)

    def gae(*xs):
        return compute_gae(*xs[:5], ends=xs[5])

    np.testing.assert_allclose(jax.jit(gae)(*arguments, ends), expected, rtol=1e-6)
    batched = jax.vmap(gae, in_axes=1, out_axes=1)(*arguments, ends)
    np.testing.assert_allclose(batched, expected, rtol=1e-6)


def test_lambda_may_be_traced():
    rewards, discounts, _, next_values, *_ = draw(8, (5, 2))

    def targets(lambda_):
        return compute_lambda_returns(rewards, discounts, next_values, lambda_)

    several = jax.vmap(targets)(f32(0.0, 0.5, 1.0))
    for got, lambda_ in zip(several, [0.0, 0.5, 1.0], strict=True):
        np.testing.assert_allclose(got, targets(lambda_), rtol=1e-5, atol=1e-6)


def test_targets_without_compilation():
    x = np.ones(2)
    with jax.disable_jit():
        assert compute_gae(x, x, x, x, 0.5).tolist() == [1.5, 1.0]
        assert compute_lambda_returns(x, x, x, 0.5).tolist() == [2.5, 2.0]


def test_another_lambda_is_not_traced_again(monkeypatch):
    traces = []
    scan = returns.scan_back
    monkeypatch.setattr(
        returns, "scan_back", lambda *xs: (traces.append(1), scan(*xs))[1]
    )
    x = jnp.ones((5, 7))
    for lambda_ in (0, 0.3, 0.95, 1, np.float32(0.5), np.float64(0.7)):
        compute_gae(x, x, x, x, lambda_)
    assert len(traces) == 1
    for lambda_ in (0, 0.3, 0.95):
        compute_lambda_returns(x, x, x, lambda_)
    assert len(traces) == 2


@pytest.mark.usefixtures("tricks_on")
@pytest.mark.skipif(jax.default_backend() != "cpu", reason="a request to XLA's CPU")
@pytest.mark.parametrize("width, together", [(64, True), (5_000, False)])
def test_time_is_walked_in_one_kernel_where_rows_are_small(width, together):
    steps = jnp.ones((10, width))
    lowered = jax.jit(lambda x: compute_lambda_returns(x, x, x, 0.9)).lower(steps)
    assert (ONE_KERNEL in lowered.as_text()) == together
    # From 0.12 on, XLA also chooses one kernel where nobody asks for it.
    assert not together or ONE_KERNEL in lowered.compile().as_text()


@pytest.mark.parametrize("shape", [(1,), (1_000, 64), (3, 4_096), (20_000, 512)])
def test_kernels_of_any_size_compile(shape):
    steps = jnp.ones(shape)

    def total(steps):
        return jnp.sum(compute_lambda_returns(steps, 0.5 * steps, steps, 0.9))

    slope = jax.jit(jax.grad(total))(steps)
    assert slope.shape == shape
    assert np.all(slope >= 1.0)  # each reward counts once at least
