"""Every agent learns the exact values of environments that are known by heart."""

import numpy as np
import pytest
from family import AGENTS, GAMMA, MUNCHAUSEN, make_agent, outputs, qvalues

from kitae.envs.probes import make_probe

N_ENV_STEPS = 32_000


def trained(name, probe, **changes):
    env = make_probe(probe, 16)
    agent = make_agent(name, env, N_ENV_STEPS, **changes)
    agent.train(env, N_ENV_STEPS)
    return agent, env


@pytest.mark.parametrize("name", AGENTS)
def test_one_step_of_value(name):
    agent, _ = trained(name, "value")
    np.testing.assert_allclose(qvalues(agent, [[1.0]]), [[1.0, 1.0]], atol=0.05)


@pytest.mark.parametrize("name", AGENTS)
def test_discounting(name):
    agent, _ = trained(name, "discount")
    learned = qvalues(agent, [[-1.0]])
    np.testing.assert_allclose(learned, [[GAMMA, GAMMA]], atol=0.05)
    # A recurrent network sees the second step after the first one only.
    if name != "r2d2":
        np.testing.assert_allclose(qvalues(agent, [[0.0]]), [[1.0, 1.0]], atol=0.05)


@pytest.mark.parametrize("name", AGENTS)
def test_reward_that_depends_on_the_action(name):
    agent, env = trained(name, "policy")
    assert agent.evaluate(env, 100).tolist() == [1.0] * 100
    learned = qvalues(agent, [[-1.0], [1.0]])
    np.testing.assert_allclose([learned[0, 0], learned[1, 1]], [1, 1], atol=0.05)
    # The bonus of Munchausen agents is -1 at the least, of which 0.9 are added.
    wrong = -1.9 if name in MUNCHAUSEN else -1.0
    np.testing.assert_allclose([learned[0, 1], learned[1, 0]], [wrong] * 2, atol=0.1)


@pytest.mark.parametrize("name", ["c51", "rainbow"])
def test_probabilities_of_a_known_distribution(name):
    agent, env = trained(name, "distribution", n_atoms=15)
    probs = outputs(agent, [[1.0]])[0]
    # Atoms from -2 to 12, one apart: 0 to 3 have a quarter each, or 1 has all.
    expected = np.zeros((15, 2))
    expected[2:6, 0], expected[3, 1] = 0.25, 1.0
    np.testing.assert_allclose(probs, expected, atol=0.06)
    assert abs(agent.evaluate(env, 400).mean() - 1.5) < 0.25


@pytest.mark.parametrize("name", ["qrdqn", "iqn", "btr"])
def test_quantiles_of_a_known_distribution(name):
    agent, env = trained(name, "distribution")
    quantiles = outputs(agent, [[1.0]])[0]
    np.testing.assert_allclose(
        quantiles[:, 0], np.repeat([0, 1, 2, 3], 4), atol=0.2, rtol=0
    )
    # The action that is not taken costs a Munchausen agent 0.9.
    other = 0.1 if name == "btr" else 1.0
    np.testing.assert_allclose(quantiles[:, 1], other, atol=0.15)
    assert abs(agent.evaluate(env, 400).mean() - 1.5) < 0.25


@pytest.mark.parametrize("name, expected", [("r2d2", 1.0), ("dqn", 0.0)])
def test_memory(name, expected):
    """What a recurrent agent can know, and no other."""
    agent, env = trained(name, "memory")
    assert abs(agent.evaluate(env, 400).mean() - expected) < 0.2
    if name == "r2d2":
        learned = qvalues(agent, [[-1.0], [1.0]])
        np.testing.assert_allclose(learned, np.full((2, 2), GAMMA), atol=0.05)


@pytest.mark.parametrize("name", ["dqn", "rainbow", "r2d2", "pqn"])
def test_a_time_limit_is_no_end(name):
    agent, _ = trained(name, "time_limit")
    # Ten steps alone would be worth 6.5.
    np.testing.assert_allclose(qvalues(agent, [[1.0]]), [[10.0, 10.0]], atol=0.5)
