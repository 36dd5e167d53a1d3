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
