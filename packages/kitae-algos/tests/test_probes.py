"""Every agent learns the exact values of environments that are known by heart."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from family import AGENTS, GAMMA, MUNCHAUSEN, make_agent, outputs, qvalues
from gymnasium.experimental.functional import FuncEnv
from gymnasium.spaces import Box, Discrete

from kitae.envs.functional import JaxVectorEnv
from kitae.envs.probes import (
    DiscountProbe,
    DistributionProbe,
    PolicyProbe,
    ValueProbe,
    make_probe,
)

pytestmark = pytest.mark.slow

N_ENV_STEPS = 32_000
# For one value, off-policy.
FEWER_STEPS = 16_000


class Probes(FuncEnv):
    """Four probes, one of which an episode is; it is seen before what that shows.

    So one training finds an agent that learns one value for another.
    """

    observation_space = Box(-1.0, 1.0, (5,), np.float32)
    action_space = Discrete(2)
    probes = (ValueProbe(), DiscountProbe(), PolicyProbe(), DistributionProbe())

    def initial(self, rng, params=None):
        which_key, key = jax.random.split(rng)
        which = jax.random.randint(which_key, (), 0, len(self.probes))
        return which, self.probes[0].initial(key)

    def transition(self, state, action, rng, params=None):
        return state[0], self._of_each(state, "transition", state[1], action, rng)

    def observation(self, state, rng, params=None):
        seen = self._of_each(state, "observation", state[1], rng)
        return jnp.concatenate([jax.nn.one_hot(state[0], len(self.probes)), seen])

    def reward(self, state, action, next_state, rng, params=None):
        return self._of_each(state, "reward", state[1], action, next_state[1], rng)

    def terminal(self, state, rng, params=None):
        return self._of_each(state, "terminal", state[1], rng)

    def _of_each(self, state, name, *args):
        results = [getattr(probe, name)(*args) for probe in self.probes]
        return jax.tree.map(lambda *leaves: jnp.stack(leaves)[state[0]], *results)


def seen(*probes_and_numbers):
    """What is seen of probes by their number, while they show a number."""
    one_hot = np.eye(len(Probes.probes))
    return np.array([[*one_hot[probe], x] for probe, x in probes_and_numbers])


def trained(name, env, n_env_steps=N_ENV_STEPS, **changes):
    agent = make_agent(name, env, n_env_steps, **changes)
    agent.train(env, n_env_steps)
    return agent


@pytest.mark.parametrize("name", AGENTS)
def test_values_discounts_rewards_of_actions_and_distributions(name):
    env = JaxVectorEnv(Probes(), 16)
    agent = trained(name, env, FEWER_STEPS if name == "r2d2" else N_ENV_STEPS)
    # One step of value; the first of two steps; the right actions of a cue.
    learned = qvalues(agent, seen((0, 1), (1, -1), (2, -1), (2, 1)))
    np.testing.assert_allclose(learned[:2].max(axis=-1), [1, GAMMA], atol=0.06)
    np.testing.assert_allclose([learned[2, 0], learned[3, 1]], [1, 1], atol=0.06)
    # The bonus of Munchausen agents is -1 at the least, of which 0.9 are added.
    wrong = -1.9 if name in MUNCHAUSEN else -1.0
    np.testing.assert_allclose([learned[2, 1], learned[3, 0]], [wrong] * 2, atol=0.2)
    if name not in MUNCHAUSEN:  # which widen a gap tenfold, of rounding too
        np.testing.assert_allclose(learned[:2].min(axis=-1), [1, GAMMA], atol=0.06)
    # A recurrent network sees the second step after the first one only.
    if name != "r2d2":
        learned = qvalues(agent, seen((1, 0))).max()
        np.testing.assert_allclose(learned, 1, atol=0.06)
    # An action that pays 0, 1, 2 or 3, and one that pays 1: the Munchausen agents
    # add 0.9 of their bonus to what is not taken.
    other = 0.1 if name in MUNCHAUSEN else 1.0
    learned = qvalues(agent, seen((3, 1)))[0]
    np.testing.assert_allclose(learned, [1.5, other], atol=0.2)
    known = outputs(agent, seen((3, 1)))[0]
    if name in ("c51", "rainbow"):
        # Atoms from -2 to 12, one half apart: 0 to 3 have a quarter each, or 1 has all.
        expected = np.zeros((29, 2))
        expected[4:12:2, 0], expected[6, 1] = 0.25, 1.0
        np.testing.assert_allclose(known, expected, atol=0.06)
    if name in ("qrdqn", "iqn", "btr"):
        quantiles = np.repeat([0, 1, 2, 3], 4)
        # A smooth function of fractions cannot jump at 1/4, 1/2 and 3/4.
        at_jumps = np.isin(np.arange(16) % 4, (0, 3)) & (name != "qrdqn")
        atol = np.where(at_jumps, 0.5, 0.2)
        assert (np.abs(known[:, 0] - quantiles) < atol).all(), known[:, 0]
        np.testing.assert_allclose(known[1:-1, 1], other, atol=0.15)
    # Three of four probes pay 1 in all, the other 1.5 in the mean, of deviation 1.1.
    returns = agent.evaluate(env, 1_000)
    assert set(returns.tolist()) == {0.0, 1.0, 2.0, 3.0}
    assert abs(returns.mean() - (3 + 1.5) / 4) < 0.08


@pytest.mark.parametrize("name, expected", [("r2d2", 1.0), ("dqn", 0.0)])
def test_memory(name, expected):
    """What a recurrent agent can know, and no other."""
    env = make_probe("memory", 16)
    # Of two steps, the second would be worth what exploration makes of it.
    one_step = {"n_steps": 1} if name == "r2d2" else {}
    agent = trained(name, env, FEWER_STEPS, **one_step)
    assert abs(agent.evaluate(env, 400).mean() - expected) < 0.2
    if name == "r2d2":
        learned = qvalues(agent, [[-1.0], [1.0]])
        np.testing.assert_allclose(learned, np.full((2, 2), GAMMA), atol=0.05)


@pytest.mark.parametrize("name", ["dqn", "rainbow", "r2d2", "pqn"])
def test_a_time_limit_is_no_end(name):
    n_env_steps = N_ENV_STEPS if name == "pqn" else FEWER_STEPS
    agent = trained(name, make_probe("time_limit", 16), n_env_steps)
    # Ten steps alone would be worth 6.5.
    np.testing.assert_allclose(qvalues(agent, [[1.0]]), [[10.0, 10.0]], atol=1.0)
