import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kitae.modules import epsilon_greedy, greedy


def test_greedy_takes_the_first_of_equals_and_refuses_what_is_not_finite():
    qvalues = jnp.array([[1.0, 3.0, 3.0], [2.0, 2.0, 2.0], [0.0, jnp.inf, 1.0]])
    assert greedy(qvalues).tolist() == [1, 0, -1]
    assert greedy(qvalues).dtype == jnp.int32


@pytest.mark.parametrize("epsilon, others", [(0.0, 0.0), (0.6, 0.4), (1.0, 2 / 3)])
def test_frequencies_and_log_probs_are_those_of_the_policy(epsilon, others):
    n = 30_000
    qvalues = jnp.tile(jnp.array([0.0, 1.0, -1.0]), (n, 1))
    actions, log_probs = epsilon_greedy(jax.random.key(0), qvalues, epsilon)
    counts = np.bincount(actions, minlength=3) / n
    # Each of the two others with half of `others`; five standard deviations.
    expected = np.array([others / 2, 1 - others, others / 2])
    assert (
        np.abs(counts - expected) <= 5 * np.sqrt(expected * (1 - expected) / n)
    ).all()
    np.testing.assert_allclose(np.exp(log_probs), expected[actions], rtol=1e-5)


def test_each_row_may_have_its_own_epsilon():
    qvalues = jnp.tile(jnp.array([0.0, 1.0]), (2000, 1))
    epsilon = jnp.repeat(jnp.array([0.0, 1.0]), 1000)
    actions, _ = epsilon_greedy(jax.random.key(0), qvalues, epsilon)
    assert (actions[:1000] == 1).all()
    assert 400 < int(actions[1000:].sum()) < 600


def test_what_is_not_finite_stays_refused_at_random():
    qvalues = jnp.full((100, 2), jnp.nan)
    actions, _ = epsilon_greedy(jax.random.key(0), qvalues, 1.0)
    assert (actions == -1).all()


def test_coins_differ_between_rows_and_keys():
    qvalues = jnp.zeros((64, 2))
    first, _ = epsilon_greedy(jax.random.key(0), qvalues, 0.5)
    second, _ = epsilon_greedy(jax.random.key(1), qvalues, 0.5)
    assert 4 < int(first.sum()) < 40
    assert first.tolist() != second.tolist()


def test_refuses_an_epsilon_that_would_broadcast():
    with pytest.raises(ValueError, match=r"epsilon must be .*\[2\].*got \[2, 1\]"):
        epsilon_greedy(jax.random.key(0), jnp.zeros((2, 3)), jnp.zeros((2, 1)))


def test_masked_greedy_is_the_best_of_what_is_allowed():
    qvalues = jnp.array([[1.0, 9.0, 3.0], [-5.0, 9.0, -5.0], [2.0, 1.0, 3.0]])
    mask = jnp.array([[1, 0, 1], [1, 0, 1], [0, 0, 0]], bool)
    assert greedy(qvalues, mask).tolist() == [2, 0, -1]
    assert greedy(qvalues, mask).dtype == jnp.int32
    assert greedy(qvalues, jnp.ones((3, 3), bool)).tolist() == [1, 1, 2]


def test_an_allowed_value_may_be_the_lowest_there_is():
    lowest = jnp.finfo(jnp.float32).min
    assert greedy(jnp.array([0.0, lowest]), jnp.array([False, True])).item() == 1


def test_only_values_of_allowed_actions_must_be_finite():
    qvalues = jnp.array([[jnp.nan, 1.0], [1.0, jnp.nan], [-jnp.inf, 2.0]])
    mask = jnp.array([[False, True], [True, True], [False, True]])
    assert greedy(qvalues, mask).tolist() == [1, -1, 1]


@pytest.mark.parametrize("epsilon, other", [(0.0, 0.0), (0.6, 0.3), (1.0, 0.5)])
def test_random_actions_are_uniform_among_the_allowed(epsilon, other):
    n = 30_000
    qvalues = jnp.tile(jnp.array([9.0, 0.0, 9.0, 1.0]), (n, 1))
    mask = jnp.tile(jnp.array([False, True, False, True]), (n, 1))
    actions, log_probs = epsilon_greedy(jax.random.key(0), qvalues, epsilon, mask)
    counts = np.bincount(actions, minlength=4) / n
    expected = np.array([0.0, other, 0.0, 1 - other])
    assert (
        np.abs(counts - expected) <= 5 * np.sqrt(expected * (1 - expected) / n)
    ).all()
    np.testing.assert_allclose(np.exp(log_probs), expected[actions], rtol=1e-5)


def test_each_row_has_its_own_mask():
    rng = np.random.default_rng(0)
    mask = rng.random((4000, 5)) < 0.5
    actions, log_probs = jax.jit(epsilon_greedy)(
        jax.random.key(0), jnp.zeros((4000, 5)), 1.0, mask
    )
    none = ~mask.any(-1)
    assert none.any()
    np.testing.assert_array_equal(actions == -1, none)
    rows = np.flatnonzero(~none)
    assert mask[rows, actions[rows]].all()
    expected = 1 / mask[rows].sum(-1)
    np.testing.assert_allclose(np.exp(log_probs[rows]), expected, rtol=1e-5)
    # Of rows with a given mask, each allowed action is taken about as often.
    same = (mask == [True, False, True, True, False]).all(-1)
    counts = np.bincount(actions[same], minlength=5)
    assert counts[[0, 2, 3]].min() > same.sum() / 6
    assert counts.sum() == same.sum()


def test_a_mask_of_all_changes_no_action():
    qvalues = jax.random.normal(jax.random.key(1), (200, 6))
    key = jax.random.key(0)
    plain = epsilon_greedy(key, qvalues, 0.5)
    with_mask = epsilon_greedy(key, qvalues, 0.5, jnp.ones((200, 6), bool))
    np.testing.assert_array_equal(plain[0], with_mask[0])
    np.testing.assert_allclose(plain[1], with_mask[1], rtol=1e-6)


def test_any_leading_axes_and_seeds():
    qvalues, mask = jnp.zeros((2, 3, 4)), jnp.ones((2, 3, 4), bool)
    actions, log_probs = epsilon_greedy(jax.random.key(0), qvalues, 0.5, mask)
    assert actions.shape == log_probs.shape == (2, 3)
    one, _ = epsilon_greedy(jax.random.key(0), qvalues[0, 0], 0.5, mask[0, 0])
    assert one.shape == ()
    keys = jax.random.split(jax.random.key(0), 2)
    many, _ = jax.vmap(epsilon_greedy, (0, 0, None, 0))(keys, qvalues, 0.5, mask)
    alone, _ = epsilon_greedy(keys[1], qvalues[1], 0.5, mask[1])
    np.testing.assert_array_equal(many[1], alone)


def test_refuses_a_mask_that_would_broadcast_or_is_not_bool():
    qvalues = jnp.zeros((2, 3))
    with pytest.raises(ValueError, match=r"mask must have the shape.*\[2, 3\]"):
        greedy(qvalues, jnp.ones(3, bool))
    with pytest.raises(TypeError, match=r"mask must be bool.*int8"):
        epsilon_greedy(jax.random.key(0), qvalues, 0.1, jnp.ones((2, 3), jnp.int8))


def test_never_at_random_draws_nothing():
    def program(epsilon):
        qvalues = jnp.array([[0.0, 1.0], [jnp.nan, 0.0]])
        return jax.make_jaxpr(lambda key: epsilon_greedy(key, qvalues, epsilon))

    key = jax.random.key(0)
    assert "random_bits" not in str(program(0.0)(key))
    assert "random_bits" in str(program(0.1)(key))
