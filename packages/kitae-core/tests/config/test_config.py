import json
import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st

import kitae.config as cfg
from kitae.config.schedule import off_policy_due
from kitae.config.serial import config_to_json

ENV = cfg.EnvConfig("Mine", spaces.Box(-1, 1, (4,)), spaces.Discrete(2), n_envs=3)


@dataclass
class Params:
    skip_steps: int = 1
    start_step: int = -1


def config(**changes):
    parts = {
        "seed": 0,
        "algo_params": Params(),
        "update_cfg": cfg.UpdateConfig(),
        "train_cfg": cfg.TrainConfig(n_env_steps=1000),
        "env_cfg": ENV,
    }
    return cfg.AlgoConfig(**parts | changes)


def test_public_names():
    assert sorted(cfg.__all__) == [
        "AlgoConfig",
        "AlgoParams",
        "EnvConfig",
        "TrainConfig",
        "UpdateConfig",
        "check_count",
        "check_flag",
        "check_int",
        "check_n_envs",
        "check_number",
        "off_policy_updates",
        "on_policy_updates",
    ]


@pytest.mark.parametrize(
    "field, allowed, bad",
    [
        (
            "learning_rate",
            r"a finite number in \(0.0, inf\)",
            [0, -1.0, math.nan, math.inf],
        ),
        ("learning_rate", "a finite number", [True, "0.1", None, 10**400]),
        ("learning_rate_annealing", "True or False", [1, None, "yes"]),
        (
            "max_grad_norm",
            r"a finite number in \(0.0, inf\)",
            [0.0, -0.5, math.nan, True],
        ),
        ("max_buffer_size", "an int of at least 1", [0, -1, 1.0, True, None]),
        ("batch_size", "an int of at least 1", [0, 2.5, False]),
        ("n_epochs", "an int of at least 1", [0, "1"]),
        ("shared_encoder", "True or False", [0, None]),
    ],
)
def test_update_config_refuses_bad_values(field, allowed, bad):
    for value in bad:
        with pytest.raises(ValueError, match=f"^{field} must be {allowed}") as error:
            cfg.UpdateConfig(**{field: value})
        assert f"got {value!r}" in str(error.value)


@pytest.mark.parametrize(
    "field, bad",
    [
        ("n_env_steps", [0, -1, 1.5, True]),
        ("save_frequency", [0, -2, True, 1.0]),
        ("log_frequency", [0, -1]),
        ("tensorboard", [1]),
    ],
)
def test_train_config_refuses_bad_values(field, bad):
    for value in bad:
        with pytest.raises(ValueError, match=f"^{field} must be"):
            cfg.TrainConfig(**{"n_env_steps": 10, field: value})


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"task_name": ""}, ValueError, "task_name must be a name"),
        ({"n_envs": 0}, ValueError, "n_envs must be an int of at least 1, got 0"),
        ({"n_agents": 0}, ValueError, "n_agents must be an int of at least 1"),
        *(
            (
                {"worker_timeout": bad},
                ValueError,
                rf"^worker_timeout must be a finite number in \(0.0, inf\), got {bad}",
            )
            for bad in (0, -1.0, math.nan, math.inf, True, None)
        ),
        (
            {"observation_space": (4,)},
            TypeError,
            "observation_space must be a gymnasium",
        ),
        ({"action_space": 2}, TypeError, "action_space must be a gymnasium.Space"),
    ],
)
def test_env_config_refuses_bad_values(change, error, message):
    with pytest.raises(error, match=message):
        replace(ENV, **change)


@pytest.mark.parametrize(
    "name, value, high",
    [
        ("n_envs", 2**63, 2**20),
        ("n_envs", 2**20 + 1, 2**20),
        ("n_agents", 2**63, 2**20),
        ("batch_size", 2**31, 2**31 - 1),
        ("max_buffer_size", 2**63, 2**31 - 1),
        ("n_epochs", 2**63, 2**31 - 1),
        ("n_env_steps", 2**63, 2**63 - 1),
        ("log_frequency", 2**63, 2**63 - 1),
        ("save_frequency", 2**63, 2**63 - 1),
    ],
)
def test_numbers_that_no_array_can_have_are_refused(name, value, high):
    message = rf"^{name} must be an int in \[1, {high}\], got {value}"
    parts = [ENV, cfg.UpdateConfig(), cfg.TrainConfig(n_env_steps=10)]
    (part,) = [part for part in parts if hasattr(part, name)]
    with pytest.raises(ValueError, match=message):
        replace(part, **{name: value})
    assert getattr(replace(part, **{name: high}), name) == high


@pytest.mark.parametrize("name", ["observation_space", "action_space"])
@pytest.mark.parametrize(
    "space, message",
    [
        (spaces.Dict({1: spaces.Discrete(2)}), "has the key 1, which is not a string"),
        (spaces.Tuple([spaces.Text(3)]), "is of a kind of space that cannot be writt"),
        (spaces.Box(0, 1, (1,), np.longdouble), "has a dtype that cannot be written"),
    ],
)
def test_spaces_that_cannot_be_written_are_refused(name, space, message):
    with pytest.raises(TypeError, match=f"^{name} cannot be written: .*{message}"):
        replace(ENV, **{name: space})


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"seed": -1}, ValueError, r"seed must be an int in \[0, 4294967295\], got -1"),
        ({"seed": 2**32}, ValueError, "seed must be an int in"),
        ({"seed": True}, ValueError, "seed must be an int in"),
        ({"algo_params": {"gamma": 1}}, TypeError, "an instance of a dataclass"),
        ({"algo_params": Params}, TypeError, "an instance of a dataclass"),
        (
            {"algo_params": Params(skip_steps=0)},
            ValueError,
            "skip_steps must be an int of",
        ),
        (
            {"algo_params": Params(start_step=-2)},
            ValueError,
            "start_step must be an int of",
        ),
        ({"update_cfg": None}, TypeError, "update_cfg must be a UpdateConfig"),
        ({"env_cfg": Params()}, TypeError, "env_cfg must be a EnvConfig"),
    ],
)
def test_algo_config_refuses_bad_values(change, error, message):
    with pytest.raises(error, match=message):
        config(**change)


def test_numpy_numbers_are_numbers():
    assert cfg.UpdateConfig(learning_rate=np.float32(0.5), batch_size=np.int64(8))


def test_params_need_not_have_what_the_loop_reads():
    @dataclass
    class Bare:
        pass

    assert config(algo_params=Bare()).skip_steps == 1
    assert config(algo_params=Bare()).start_step == -1


@given(
    n_envs=st.integers(1, 7),
    n_env_steps=st.integers(1, 200),
    batch_size=st.integers(1, 40),
    start_step=st.integers(-1, 80),
    skip_steps=st.integers(1, 9),
    n_epochs=st.integers(1, 3),
)
def test_off_policy_updates_are_those_that_fall_due(
    n_envs, n_env_steps, batch_size, start_step, skip_steps, n_epochs
):
    it = config(
        algo_params=Params(skip_steps, start_step),
        update_cfg=cfg.UpdateConfig(batch_size=batch_size, n_epochs=n_epochs),
        train_cfg=cfg.TrainConfig(n_env_steps=n_env_steps),
        env_cfg=replace(ENV, n_envs=n_envs),
    )
    due, steps, iteration = 0, 0, 0
    while steps < n_env_steps:
        due += off_policy_due(it, iteration, steps)
        steps += n_envs
        iteration += 1
    assert cfg.off_policy_updates(it) == due * n_epochs


def test_config_is_written_as_strict_json():
    space = spaces.Dict(
        {
            "image": spaces.Box(0, 255, (3, 4, 4), np.uint8),
            "pose": spaces.Box(np.array([-1, -np.inf], np.float32), np.inf, (2,)),
            "gear": spaces.Discrete(3, start=-1),
            "keys": spaces.Tuple([spaces.MultiBinary(2), spaces.MultiDiscrete([2, 3])]),
        }
    )
    text = config_to_json(config(env_cfg=replace(ENV, observation_space=space)))
    read = json.loads(text, parse_constant=pytest.fail)
    assert read["update_cfg"]["batch_size"] == 256
    assert read["env_cfg"]["worker_timeout"] == 120.0
    parts = read["env_cfg"]["observation_space"]["spaces"]
    assert parts["image"] == {
        "type": "Box",
        "low": 0,
        "high": 255,
        "shape": [3, 4, 4],
        "dtype": "uint8",
    }
    assert parts["pose"]["low"] == [-1.0, "-inf"]
    assert parts["pose"]["high"] == "inf"
    assert parts["gear"] == {
        "type": "Discrete",
        "n": 3,
        "start": -1,
        "dtype": "int64",
    }
    assert parts["keys"]["spaces"][1]["nvec"] == [2, 3]


def test_numbers_that_json_lacks_and_callables_are_written_by_name():
    @dataclass
    class Odd:
        clip: float = math.inf
        sizes: tuple = (np.float32(0.5), math.nan)
        activation: object = abs

    read = json.loads(config_to_json(config(algo_params=Odd())))["algo_params"]
    assert read == {"clip": "inf", "sizes": [0.5, "nan"], "activation": "abs"}
