"""Every agent's config is read back from what a run directory holds."""

import json
from dataclasses import fields, replace

import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

import kitae.config as cfg
from kitae import algos
from kitae.config.serial import config_changes, config_from_json, config_to_json

PARAMS = [
    algos.DQNParams(double_q=True, dueling=True, loss="huber"),
    algos.C51Params(v_min=0, v_max=200.0),
    algos.QRDQNParams(n_quantiles=32, frame_stack=4),
    algos.IQNParams(n_taus=8, hidden_sizes=()),
    algos.MunchausenParams(clip=-2.0),
    algos.RainbowParams(n_steps=5, start_step=1000),
    algos.BTRParams(width=1),
    algos.PQNParams(lambda_=1),
    algos.R2D2Params(head_sizes=(64, 32), rescale=False),
]


def make_config(params):
    return cfg.AlgoConfig(
        seed=1,
        algo_params=params,
        update_cfg=cfg.UpdateConfig(max_grad_norm=10.0),
        train_cfg=cfg.TrainConfig(n_env_steps=1000),
        env_cfg=cfg.EnvConfig(
            "Images", Box(0, 255, (4, 84, 84), np.uint8), Discrete(6), n_envs=8
        ),
    )


def test_no_agent_is_left_out():
    names = {name for name in algos.__all__ if name.endswith("Params")}
    assert {type(params).__name__ for params in PARAMS} == names


@pytest.mark.parametrize("params", PARAMS, ids=lambda p: type(p).__name__)
def test_every_agents_config_is_read_back(params):
    for given in (params, type(params)()):
        config = make_config(given)
        assert config_from_json(config_to_json(config), type(given)) == config


@pytest.mark.parametrize("params", PARAMS, ids=lambda p: type(p).__name__)
def test_every_field_is_read_by_its_annotation(params):
    for field in fields(params):
        written = json.loads(config_to_json(make_config(params)))
        written["algo_params"][field.name] = {}
        with pytest.raises(ValueError, match=rf"^algo_params\.{field.name} must be "):
            config_from_json(json.dumps(written), type(params))


def test_changes_are_told_by_name():
    old = make_config(algos.DQNParams())
    new = replace(old, algo_params=algos.DQNParams(gamma=0.9, hidden_sizes=(64,)))
    assert config_changes(old, new) == [
        "algo_params.gamma: 0.99 -> 0.9",
        "algo_params.hidden_sizes: [120, 84] -> [64]",
    ]
