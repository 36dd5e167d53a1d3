"""Configs as strict JSON, and back: values only, never a class or a callable."""

import dataclasses
import json
import math
from collections.abc import Iterable, Iterator
from typing import Any

import gymnasium as gym
import numpy as np

from kitae.config.config import AlgoConfig, EnvConfig
from kitae.config.spaces import space_from_json, space_to_json
from kitae.config.typed import finite_or_name, place, read_dataclass, short

MAX_SHOWN = 100
# What JSON may hold, so that a file of a few bytes does not take much memory.
MAX_JSON_BYTES = 4_000_000
MAX_CONTAINERS = 100_000
MAX_DEPTH = 100
ABSENT = object()


def config_to_json(config: AlgoConfig) -> str:
    """Writes a config as JSON.

    Fields that a dataclass does not take (`init=False`) are left out: it makes them
    again.

    Raises:
        TypeError: A space cannot be written, as `space_to_json` says.
        ValueError: A space is too large, or all of it takes more than 4 MB.

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
    text = json.dumps(plain(config), indent=2, allow_nan=False) + "\n"
    try:
        check_size(text)
    except ValueError as error:
        raise ValueError(
            f"the config could not be read again: {error}. Bounds of a space that are "
            "all equal are written as one number"
        ) from None
    return text


def plain(value: Any) -> Any:
    """Returns what JSON has of a config or a part of one: dicts, lists and values.

    Example:
        >>> from kitae.config import TrainConfig
        >>> plain(TrainConfig(100))["save_frequency"]
        -1
    """
    if isinstance(value, gym.Space):
        return space_to_json(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: plain(getattr(value, field.name))
            for field in dataclasses.fields(value)
            if field.init
        }
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    if isinstance(value, np.generic | np.ndarray):
        return plain(value.tolist())
    if isinstance(value, float):
        return finite_or_name(value)
    if value is None or isinstance(value, bool | int | str):
        return value
    # A callable or another object: its name says what the caller has to pass again.
    return getattr(value, "__qualname__", type(value).__qualname__)


def strict_json(text: str | bytes, max_bytes: int = MAX_JSON_BYTES) -> Any:
    """Reads JSON of which every reader makes the same.

    Args:
        text: The JSON.
        max_bytes: How long it may be.

    Raises:
        ValueError: It is not JSON or not UTF-8, an object has a key twice, a number
            is NaN, infinite or too large for a float, or it is too long, has too many
            values, or is nested more than 100 deep.

    Example:
        >>> strict_json('{"seed": 1, "seed": 2}')
        Traceback (most recent call last):
        ...
        ValueError: not strict JSON: the key 'seed' is there twice
    """
    try:
        check_size(text, max_bytes)
        value = json.loads(
            text.decode() if isinstance(text, bytes) else text,
            object_pairs_hook=_unique,
            parse_float=_finite,
            parse_constant=_finite,
        )
        check_depth(value)
        return value
    except RecursionError:
        raise ValueError("not strict JSON: nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"not strict JSON: {error}") from None


def check_depth(value: Any) -> None:
    """Refuses plain values that are nested more than 100 deep.

    What walks through them calls itself, and would not come to the end.

    Raises:
        ValueError: They are.
    """
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        level = [part for one in level for part in _parts(one)]
        if not level:
            return
    raise ValueError("nested too deeply")


def _parts(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def check_size(text: str | bytes, max_bytes: int = MAX_JSON_BYTES) -> None:
    """Refuses JSON that is too long, or has too many values, to be read.

    Raises:
        ValueError: It is; both numbers are named.
    """
    content = text if isinstance(text, bytes) else text.encode("utf-8", "replace")
    if len(content) > max_bytes:
        raise ValueError(
            f"it has {len(content):,} bytes, at most {max_bytes:,} are read"
        )
    n_values = content.count(b",")
    n_containers = content.count(b"[") + content.count(b"{")
    if n_containers > MAX_CONTAINERS or n_values > max_bytes // 8:
        raise ValueError(
            f"it has {n_containers:,} lists and objects and {n_values:,} values, at "
            f"most {MAX_CONTAINERS:,} and {max_bytes // 8:,} are read"
        )


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    read = {}
    for key, value in pairs:
        if key in read:
            raise ValueError(f"the key {short(key)} is there twice")
        read[key] = value
    return read


def _finite(digits: str) -> float:
    if not math.isfinite(float(digits)):
        raise ValueError(f"{short(digits)} is not finite")
    return float(digits)


def config_from_json(text: str | bytes, params_type: type) -> AlgoConfig:
    """Reads the config that `config_to_json` wrote.

    `algo_params` are read by the annotations of their class, which may be of bool,
    int, float, str, None, `Literal`, unions, `list[X]`, `tuple[X, ...]`,
    `tuple[X, Y]`, `dict[str, X]` and dataclasses. JSON holds of a callable or another
    object only the name, so a field that is annotated otherwise (`Callable`, `Any`, a
    class) is refused wherever it is written, even if it has a default. (But None is
    read where the annotation allows it.) `check_readable` refuses such a config before
    an agent is made of it.

    Args:
        text: What was written.
        params_type: The dataclass of `algo_params`.

    Returns:
        The config. Fields that are not written have their defaults. Spaces are not
        seeded.

    Raises:
        ValueError: It is not strict JSON, or a field is unknown, missing, of another
            type or out of its range; the field's path is named.
        TypeError: `params_type` is not a dataclass.

    Example:
        >>> from dataclasses import dataclass
        >>> @dataclass
        ... class Params:
        ...     gamma: float = 0.99
        >>> config_from_json('{"sed": 0}', Params)
        Traceback (most recent call last):
        ...
        ValueError: sed is not a field of AlgoConfig: did you mean seed?
    """
    if not (isinstance(params_type, type) and dataclasses.is_dataclass(params_type)):
        raise TypeError(f"params_type must be a dataclass, got {params_type!r}")

    def params(value: Any, name: str) -> Any:
        return read_dataclass(params_type, value, name)

    def env(value: Any, name: str) -> Any:
        space = space_from_json
        readers = {"observation_space": space, "action_space": space}
        return read_dataclass(EnvConfig, value, name, readers)

    try:
        value = strict_json(text)
    except ValueError as error:
        raise ValueError(f"the config is {error}") from None
    try:
        readers = {"algo_params": params, "env_cfg": env}
        return read_dataclass(AlgoConfig, value, "", readers)
    except RecursionError:
        raise ValueError("the config is nested too deeply") from None


def check_readable(config: AlgoConfig) -> None:
    """Refuses a config that `config_from_json` could not read back from a run's files.

    Raises:
        TypeError: A field of `algo_params` is annotated as something that JSON cannot
            express, or has a value that its annotation does not allow; it is named.
    """
    try:
        config_from_json(config_to_json(config), type(config.algo_params))
    except (ValueError, NameError) as error:  # a NameError of an annotation
        raise TypeError(
            f"{error}. A config is written to the run's files, from which "
            "an agent is loaded"
        ) from error


def with_defaults(written: dict[str, Any], config: AlgoConfig) -> dict[str, Any]:
    """Returns a config that an older version wrote, with the fields it did not know.

    Args:
        written: What `strict_json` read.
        config: Its classes say what fields there are now; those with a default
            that were not written have it.

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
        >>> old = {"seed": 0, "train_cfg": {"n_env_steps": 50}}
        >>> with_defaults(old, config)["train_cfg"]["save_frequency"]
        -1
    """
    return _completed(written, config)


def _completed(written: Any, part: Any) -> Any:
    if not (isinstance(written, dict) and dataclasses.is_dataclass(part)):
        return written
    completed = {}
    for field in dataclasses.fields(part):
        if field.name in written:
            value = getattr(part, field.name)
            completed[field.name] = _completed(written[field.name], value)
        elif field.init and field.default is not dataclasses.MISSING:
            completed[field.name] = plain(field.default)
    return {**completed, **{k: v for k, v in written.items() if k not in completed}}


def config_changes(
    old: AlgoConfig | dict[str, Any], new: AlgoConfig | dict[str, Any]
) -> list[str]:
    """Lists the fields in which two configs differ, in their order.

    Compared is what `config_to_json` writes: callables by name.

    Args:
        old: A config, or what `strict_json` reads of one.
        new: Likewise.

    Returns:
        One line for each field.

    Example:
        >>> old = {"seed": 0, "update_cfg": {"batch_size": 32}}
        >>> config_changes(old, {"seed": 0, "update_cfg": {"batch_size": 64}})
        ['update_cfg.batch_size: 32 -> 64']
    """
    return list(_changes(plain(old), plain(new), ""))


def _changes(old: Any, new: Any, name: str) -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in dict.fromkeys((*old, *new)):
            was, is_now = old.get(key, ABSENT), new.get(key, ABSENT)
            yield from _changes(was, is_now, place(name, key))
        if old.keys() != new.keys() or list(old) == list(new):
            return
        old, new = list(old), list(new)  # the parts of a Dict space in another order
    if old != new:
        yield f"{name or 'the config'}: {_shown(old)} -> {_shown(new)}"


def _shown(value: Any) -> str:
    text = "nothing" if value is ABSENT else repr(value)
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 3] + "..."
