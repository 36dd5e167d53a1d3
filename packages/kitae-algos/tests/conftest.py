from dataclasses import replace

import pytest

import kitae.config as cfg
from kitae.algos import DQNParams


@pytest.fixture(autouse=True)
def _inside_tmp_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def make_config(env, seed=0, n_env_steps=2000, params=None, **changes):
    """A config for `env`; further arguments go to the part that has the field."""
    update = cfg.UpdateConfig(learning_rate=1e-3, max_buffer_size=500, batch_size=32)
    params = params or DQNParams(hidden_sizes=(32,))
    for name, value in changes.items():
        if hasattr(update, name):
            update = replace(update, **{name: value})
        else:
            params = replace(params, **{name: value})
    return cfg.AlgoConfig(
        seed=seed,
        algo_params=params,
        update_cfg=update,
        train_cfg=cfg.TrainConfig(n_env_steps=n_env_steps),
        env_cfg=cfg.EnvConfig(
            task_name="test",
            observation_space=env.single_observation_space,
            action_space=env.single_action_space,
            n_envs=env.num_envs,
        ),
    )


@pytest.fixture(name="make_config")
def _make_config():
    return make_config
