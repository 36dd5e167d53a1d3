"""Configs as strict JSON, and back: values only, never a class or a callable."""

import dataclasses
import json
import math
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np

from kitae.config.config import AlgoConfig
from kitae.config.spaces import space_to_json
from kitae.config.typed import finite_or_name


def config_to_json(config: AlgoConfig) -> str:
    """Writes a config as JSON.

    Fields that a dataclass does not take (`init=False`) are left out: it makes them
    again.

    Raises:
        TypeError: A space cannot be written, as `space_to_json` says.
        ValueError: A space is too large.

    Example:
        >>> from dataclasses import dataclass
        >>> from gymnasium.spaces import Discrete
        >>> import kitae.config as cfg
        >>> @dataclass
        ... class Params:
        ...     gamma: float = 0.99
        >>> config = cfg.AlgoConfig(
        ...     seed=0,
        ...     algo_params=Params(),
        ...     update_cfg=cfg.UpdateConfig(),
        ...     train_cfg=cfg.TrainConfig(n_env_steps=100),
        ...     env_cfg=cfg.EnvConfig("Mine", Discrete(3), Discrete(2), n_envs=1),
        ... )
        >>> json.loads(config_to_json(config))["algo_params"]
        {'gamma': 0.99}
    """
    return json.dumps(_plain(config), indent=2, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, gym.Space):
        return space_to_json(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: _plain(getattr(value, field.name))
            for field in dataclasses.fields(value)
            if field.init
        }
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic | np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, float):
        return finite_or_name(value)
    if value is None or isinstance(value, bool | int | str):
        return value
    # A callable or another object is the caller's to pass again: its name tells which.
    return getattr(value, "__qualname__", type(value).__qualname__)
