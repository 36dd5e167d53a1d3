"""Agents that share what they learn, on a small environment of PettingZoo's kind."""

import numpy as np
import pytest
from family import AGENTS, make_agent

import kitae.config as cfg
from kitae.algos import DQN, DQNParams
from kitae.envs.pettingzoo import make_pettingzoo

simple_spread = pytest.importorskip("mpe2.simple_spread_v3", reason="no MPE2 installed")


def spread(n_envs=8):
    """Two agents cover two landmarks, for 25 steps, without running into each other."""
    return make_pettingzoo(simple_spread.parallel_env, n_envs, N=2)


def random_returns(env, n_episodes):
    """The mean return of both agents, who act at random, of whole episodes."""
    rng, returns = np.random.default_rng(0), []
    env.reset(np.random.SeedSequence(0))
    for _ in range(n_episodes // env.n_envs):
        actions = rng.integers(0, 5, (25, 2 * env.n_envs))
        steps = [env.step(chosen).of_envs(2) for chosen in actions]
        assert steps[-1].truncated.all()
        returns += sum(step.reward for step in steps).tolist()
    return np.array(returns)


@pytest.mark.parametrize("name", AGENTS)
def test_every_agent_trains_several(name):
    env = spread()
    agent = make_agent(name, env, 400)
    history = agent.train(env, 400)
    assert history.env_steps == 400
    assert history.updates > 0
    assert history.episode_length.tolist() == [25] * 16
    assert np.isfinite(agent.evaluate(env, 2)).all()


def test_learns_above_random():
    env, n_env_steps = spread(), 40_000
    config = cfg.AlgoConfig(
        seed=0,
        algo_params=DQNParams(
            gamma=0.9,
            exploration_steps=20_000,
            target_update_period=100,
            hidden_sizes=(64, 64),
            double_q=True,
        ),
        update_cfg=cfg.UpdateConfig(
            learning_rate=1e-3,
            learning_rate_annealing=True,
            max_buffer_size=5_000,
            batch_size=64,
        ),
        train_cfg=cfg.TrainConfig(n_env_steps),
        env_cfg=cfg.EnvConfig(
            "simple_spread_v3",
            env.single_observation_space,
            env.single_action_space,
            env.n_envs,
            env.n_agents,
        ),
    )
    agent = DQN("spread", config)
    agent.train(env, n_env_steps)
    learned, chance = agent.evaluate(env, 100), random_returns(env, 200)
    # About -20 and -12: three seeds gave -12.0 to -12.3, and half as long a training
    # -13.8. The difference of both means has a standard error of 0.7.
    assert learned.mean() > chance.mean() + 5
    assert -22 < chance.mean() < -18
