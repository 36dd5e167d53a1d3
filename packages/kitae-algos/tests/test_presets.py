from dataclasses import replace

import gymnasium as gym
import pytest
from gymnasium.vector import VectorEnv

import kitae.config as cfg
from kitae.algos import DQN, PQN, presets
from kitae.envs.make import make_vec_env


@pytest.mark.parametrize("name", presets.AGENTS)
@pytest.mark.parametrize("task", [*presets.TASKS, "phys2d/CartPole-v1"])
def test_every_agent_has_settings_for_every_task(name, task):
    if task.startswith("LunarLander"):
        pytest.importorskip("Box2D", reason="Box2D is not installed")
    agent = presets.AGENTS[name].from_preset(task, seed=5)
    preset = presets.preset(name, task)
    env = make_vec_env(task, preset.n_envs)
    assert isinstance(env, VectorEnv)
    assert agent.config == cfg.AlgoConfig(
        seed=5,
        algo_params=preset.algo_params,
        update_cfg=preset.update_cfg,
        train_cfg=preset.train_cfg,
        env_cfg=cfg.EnvConfig(
            task,
            env.single_observation_space,
            env.single_action_space,
            preset.n_envs,
        ),
    )
    assert agent.run_name == f"{name}-{task.rpartition('/')[2]}-5"
    env.close()


def test_what_is_given_takes_the_place_of_the_preset():
    env = make_vec_env("CartPole-v1", 3)
    agent = DQN.from_preset("CartPole-v1", env=env, n_env_steps=3_000, run_name="mine")
    usual = DQN.from_preset("CartPole-v1").config
    assert agent.config == replace(
        usual,
        train_cfg=replace(usual.train_cfg, n_env_steps=3_000),
        env_cfg=replace(usual.env_cfg, n_envs=3),
    )
    assert agent.run_name == "mine"
    agent.train(env, 1_200)
    assert agent.updates > 0


def test_a_subclass_has_the_settings_of_its_base():
    class Mine(PQN):
        pass

    agent = Mine.from_preset("CartPole-v1")
    assert isinstance(agent, Mine)
    assert agent.config == PQN.from_preset("CartPole-v1").config


def test_an_unknown_task_is_refused():
    with pytest.raises(gym.error.NameNotFound, match="CartPoule"):
        DQN.from_preset("CartPoule-v1")
