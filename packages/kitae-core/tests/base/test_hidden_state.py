"""What an agent remembers from step to step, and what becomes of it at an end."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import VectorWrapper

from kitae.buffer import Experience, stored_rows
from kitae.envs.functional import JaxVectorEnv
from kitae.envs.probes import Probe


def counting_agent(helpers):
    """An agent that counts its steps in an episode, from 10 on."""

    class Counting(helpers.TableAgent):
        def __init__(self, run_name, config, **kwargs):
            self.selected = []
            super().__init__(run_name, config, experience_type=Experience, **kwargs)

        def initial_hidden_state(self, n_envs):
            return {"count": jnp.full((n_envs, 1), 10, jnp.int32)}

        def explore(self, observation):
            count = self.hidden_state["count"]
            self.hidden_state = {"count": count + 1}
            return super().explore(observation)

        def select_action(self, observation):
            count = self.hidden_state["count"]
            self.hidden_state = {"count": count + 1}
            # So that evaluation tells what it remembered.
            n_envs = observation.shape[0]
            return (count[:, 0] % 2).astype(jnp.int32), jnp.zeros(n_envs)

    return Counting


def assert_counts(agent):
    """Each stored row has the count of its step in its episode."""
    rows = stored_rows(agent.memory)
    counts = np.asarray(rows.hidden_state["count"])[..., 0]
    ended = np.asarray(rows.done | rows.truncated)
    for env, size in enumerate(np.asarray(agent.memory.size)):
        expected = 10
        for time in range(size):
            assert counts[time, env] == expected, (env, time)
            expected = 10 if ended[time, env] else expected + 1
    assert counts.max() > 12


@pytest.mark.parametrize("truncate", [False, True])
def test_starts_anew_with_each_episode_on_the_host(helpers, autoreset_mode, truncate):
    env = helpers.count_envs((3, 5), autoreset_mode, truncate)
    agent = helpers.make_agent(env, agent_type=counting_agent(helpers))
    agent.train(env, 60)
    assert_counts(agent)


class Steps(Probe):
    """Four steps, or cut off after three where the cue says so; shows the time."""

    observation_space = Box(-1.0, 4.0, (1,), np.float32)
    action_space = Discrete(2)
    n_steps = 4

    def seen(self, state):
        return state.time

    def paid(self, state, action, key):
        # Odd actions at odd times, as the selecting agent counts them.
        return action == state.time % 2

    def truncated(self, state, rng, params=None):
        return (state.cue == 1) & (state.time >= 3)


@pytest.mark.slow
def test_starts_anew_with_each_episode_compiled(helpers):
    env = JaxVectorEnv(Steps(), 3)
    compiled = helpers.make_agent(env, agent_type=counting_agent(helpers))
    history = compiled.train(env, 90)
    assert set(history.episode_length) == {3, 4}
    assert_counts(compiled)
    on_host = helpers.make_agent(env, agent_type=counting_agent(helpers))
    on_host.train(VectorWrapper(env), 90)
    rows = [stored_rows(agent.memory) for agent in (compiled, on_host)]
    jax.tree.map(np.testing.assert_allclose, *rows)
    for run in compiled.train_seeds(env, 90, seeds=range(2)):
        assert_counts(run.agent)


def test_starts_anew_in_evaluation(helpers):
    env = JaxVectorEnv(Steps(), 3)
    agent = helpers.make_agent(env, agent_type=counting_agent(helpers))
    # Right at each step of an episode only if the count began with it.
    returns = agent.evaluate(env, 12)
    assert set(returns) <= {3.0, 4.0}


def test_an_agent_without_one_stores_none(helpers):
    env = helpers.count_envs()
    agent = helpers.make_agent(env)
    agent.train(env, 20)
    assert agent.hidden_state is None
    assert stored_rows(agent.memory).hidden_state is None
