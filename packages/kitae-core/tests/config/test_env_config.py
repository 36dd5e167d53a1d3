"""What an `EnvConfig` reads of environments."""

import gymnasium as gym
import pytest
from gymnasium.envs.phys2d.cartpole import CartPoleFunctional
from gymnasium.spaces import Discrete

from kitae.config import EnvConfig
from kitae.envs.functional import JaxVectorEnv


def test_a_vector_of_environments():
    env = gym.make_vec("CartPole-v1", 4)
    assert EnvConfig.from_env(env) == EnvConfig(
        "CartPole-v1", env.single_observation_space, Discrete(2), 4
    )
    assert EnvConfig.from_env(env, "Mine").task_name == "Mine"


def test_one_environment():
    env = gym.make("CartPole-v1")
    assert EnvConfig.from_env(env) == EnvConfig(
        "CartPole-v1", env.observation_space, Discrete(2), 1
    )


def test_functions_of_jax():
    func_env = CartPoleFunctional()
    many = EnvConfig.from_env(JaxVectorEnv(func_env, 3))
    assert (many.task_name, many.n_envs) == ("JaxVectorEnv", 3)
    one = EnvConfig.from_env(func_env, n_envs=5)
    assert (one.task_name, one.n_envs) == ("CartPoleFunctional", 5)
    with pytest.raises(ValueError, match="n_envs must say how many there will be of"):
        EnvConfig.from_env(func_env)


def test_several_agents(helpers):
    env = helpers.count_agents(n_envs=2)
    found = EnvConfig.from_env(env, "Count")
    assert (found.n_envs, found.n_agents) == (2, 3)
    assert found.observation_space == env.single_observation_space


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="n_envs must be 4, as env has, got 5"):
        EnvConfig.from_env(gym.make_vec("CartPole-v1", 4), n_envs=5)
    with pytest.raises(TypeError, match="env must be an environment, got 'CartPole"):
        EnvConfig.from_env("CartPole-v1")
