"""Configs as strict JSON: values only, never a class or a callable."""

import dataclasses
import json
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from kitae.config.config import AlgoConfig


def config_to_json(config: AlgoConfig) -> str:
    """Writes a config as JSON.

    Example:
        >>> from dataclasses import dataclass
        >>> import kitae.config as cfg
        >>> @dataclass
        ... class Params:
        ...     gamma: float = 0.99
        >>> config = cfg.AlgoConfig(
        ...     seed=0,
        ...     algo_params=Params(),
        ...     update_cfg=cfg.UpdateConfig(),
        ...     train_cfg=cfg.TrainConfig(n_env_steps=100),
        ...     env_cfg=cfg.EnvConfig(
        ...         "Mine", spaces.Discrete(3), spaces.Discrete(2), n_envs=1
        ...     ),
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
        }
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic | np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, float):
        return _finite_or_name(value)
    if value is None or isinstance(value, bool | int | str):
        return value
    # A callable or another object is the caller's to pass again: its name tells which.
    return getattr(value, "__qualname__", type(value).__qualname__)


def space_to_json(space: gym.Space) -> dict[str, Any]:
    """Describes a space in plain values; infinities as `"inf"` and `"-inf"`.

    Raises:
        TypeError: The space is of a kind that is not known.

    Example:
        >>> space_to_json(spaces.Box(-np.inf, 1.0, (2,)))["low"]
        '-inf'
    """
    match space:
        case spaces.Box():
            return {
                "type": "Box",
                "low": _bound(space.low),
                "high": _bound(space.high),
                "shape": list(space.shape),
                "dtype": str(space.dtype),
            }
        case spaces.Discrete():
            return {"type": "Discrete", "n": int(space.n), "start": int(space.start)}
        case spaces.MultiDiscrete():
            return {
                "type": "MultiDiscrete",
                "nvec": space.nvec.tolist(),
                "start": space.start.tolist(),
            }
        case spaces.MultiBinary():
            return {"type": "MultiBinary", "shape": list(space.shape)}
        case spaces.Dict():
            parts = {name: space_to_json(part) for name, part in space.items()}
            return {"type": "Dict", "spaces": parts}
        case spaces.Tuple():
            return {"type": "Tuple", "spaces": [space_to_json(p) for p in space]}
    raise TypeError(f"{space!r} is of a kind of space that cannot be written as JSON")


def _bound(values: np.ndarray) -> Any:
    """One number where all are equal, as for images; else nested lists."""
    first = values.flat[0] if values.size else 0
    if (values == first).all():
        return _finite_or_name(first.item() if isinstance(first, np.generic) else first)
    return _nested(values.tolist())


def _nested(values: Any) -> Any:
    if isinstance(values, list):
        return [_nested(value) for value in values]
    return _finite_or_name(values)


def _finite_or_name(value: float) -> Any:
    return value if np.isfinite(value) else str(float(value))
