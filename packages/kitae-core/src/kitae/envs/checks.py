"""What passes between an environment and an agent, checked on the host."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple

# As numpy compares with at once; a number of Python's it would look at first.
LARGEST_REWARD = np.array(np.finfo(np.float32).max, np.float64)
# The spaces whose actions are indices. A tuple: such a union is made at each look.
INDICES = Discrete, MultiDiscrete


def map_space(
    function: Callable[[Any, gym.Space, str], Any],
    tree: Any,
    space: gym.Space,
    name: str = "observation",
) -> Any:
    """Applies `function` to each part of `tree` and the simple space it is of.

    Args:
        function: `function(part, space, name)`.
        tree: A dict where the space is a Dict, a tuple where it is a Tuple.
        space: Which parts there are.
        name: Of the whole, from which those of the parts are made.

    Returns:
        The results, built as the space is.

    Raises:
        ValueError: `tree` has other parts than the space.

    Example:
        >>> space = Dict({"a": Discrete(2), "b": Tuple([Discrete(2), Discrete(2)])})
        >>> map_space(lambda part, _, name: name, {"a": 0, "b": (0, 0)}, space, "x")
        {'a': "x['a']", 'b': ("x['b'][0]", "x['b'][1]")}
    """
    if isinstance(space, Dict):
        if not isinstance(tree, Mapping) or set(tree) != set(space):
            got = sorted(tree) if isinstance(tree, Mapping) else type(tree).__name__
            raise ValueError(f"{name} must be a dict of {sorted(space)}, got {got}")
        return {
            key: map_space(function, tree[key], part, f"{name}[{key!r}]")
            for key, part in space.items()
        }
    if isinstance(space, Tuple):
        if not isinstance(tree, Sequence) or len(tree) != len(space):
            got = len(tree) if isinstance(tree, Sequence) else type(tree).__name__
            raise ValueError(f"{name} must be a tuple of {len(space)}, got {got}")
        return tuple(
            map_space(function, tree[i], part, f"{name}[{i}]")
            for i, part in enumerate(space)
        )
    return function(tree, space, name)


def check_fixed_size(space: gym.Space, name: str) -> None:
    """Refuses a space with elements that are not arrays of one shape.

    Raises:
        ValueError: The space, or a part of it, is such.

    Example:
        >>> check_fixed_size(gym.spaces.Text(5), "observation")
        Traceback (most recent call last):
        ...
        ValueError: observation must be an array of one shape, which Text is not
    """
    if isinstance(space, Dict | Tuple):
        parts = space.items() if isinstance(space, Dict) else enumerate(space)
        for key, part in parts:
            check_fixed_size(part, f"{name}[{key!r}]")
    elif space.shape is None:
        raise ValueError(
            f"{name} must be an array of one shape, which {type(space).__name__} is not"
        )


def not_as_said(
    name: str, space: gym.Space, shape: list[int], array: np.ndarray
) -> ValueError:
    """Returns the error for an array of another shape or dtype than a space says."""
    return ValueError(
        f"{name} must be {space.dtype}{shape} as {space} says, got "
        f"{array.dtype}{list(array.shape)}"
    )


def all_of(flags: np.ndarray) -> bool:
    """Whether all are true: as `flags.all()`, in a quarter of the time for few."""
    return np.count_nonzero(flags) == flags.size


def checked_member(raw: Any, space: gym.Space, name: str) -> Any:
    """Copies the observation of one environment, if it is as the space says.

    An element of a `Discrete` space may be an integer of any kind.

    Args:
        raw: The observation. The environment may use its arrays again.
        space: What it should be an element of; its bounds are not looked at.
        name: What errors call it.

    Raises:
        ValueError: A part is missing, or a shape or dtype is not the space's.

    Example:
        >>> checked_member(np.zeros(4), Box(-1, 1, (4,)), "observation")
        Traceback (most recent call last):
        ...
        ValueError: observation must be float32[4] as Box(-1.0, 1.0, (4,), float32) \
says, got float64[4]
    """

    def checked(raw: Any, space: gym.Space, name: str) -> Any:
        if space.shape is None:
            return raw  # its elements are not arrays
        try:
            array = np.array(raw)
        except ValueError:  # lists of different lengths
            array = np.array(raw, object)
        if array.dtype == space.dtype and array.shape == space.shape:
            return array
        if isinstance(space, Discrete) and array.dtype.kind in "biu" and not array.ndim:
            return array
        raise not_as_said(name, space, list(space.shape), array)

    return map_space(checked, raw, space, name)


def checked_step(result: Any, env: str) -> tuple[Any, Any, Any, Any, Any]:
    """Returns the five parts of what a step returned.

    Args:
        result: What it returned.
        env: What errors call the environment.

    Raises:
        ValueError: They are not five.
    """
    names = "five values (observation, reward, terminated, truncated, info)"
    return _checked_parts(result, 5, f"step of {env}", names)


def checked_reset(result: Any, env: str) -> tuple[Any, Any]:
    """Returns the two parts of what a reset returned; see `checked_step`.

    Raises:
        ValueError: They are not two.
    """
    names = "two values (observation, info)"
    return _checked_parts(result, 2, f"reset of {env}", names)


def _checked_parts(result: Any, n: int, call: str, names: str) -> Any:
    if not isinstance(result, tuple) or len(result) != n:
        got = f"{len(result)} values" if isinstance(result, tuple) else repr(result)
        raise ValueError(f"{call} must return Gymnasium's {names}, got {got}")
    return result


def checked_flag(flag: Any, name: str) -> bool:
    """Returns a flag of one environment as a bool.

    Raises:
        ValueError: It is not one True or False, nor 1 or 0.

    Example:
        >>> checked_flag(float("nan"), "terminated of environment 0")
        Traceback (most recent call last):
        ...
        ValueError: terminated of environment 0 must be True or False, got nan
    """
    array = _as_array(flag)
    if array.ndim or not _are_flags(array):
        raise ValueError(f"{name} must be True or False, got {flag!r}")
    return bool(array)


def checked_flags(flags: Any, n_envs: int, name: str, where: str) -> np.ndarray:
    """Copies flags of all environments as bool `[n_envs]`.

    Raises:
        ValueError: The shape is another, or one is neither True, False, 1 nor 0.
    """
    array = _as_array(flags)
    if array.shape != (n_envs,) or not _are_flags(array):
        raise ValueError(
            f"{name} must be bool[{n_envs}], got {array.dtype}{list(array.shape)} "
            f"{where}: {array.tolist()}"
        )
    return array.astype(bool)


def _are_flags(array: np.ndarray) -> bool:
    if array.dtype.kind == "b":
        return True
    return array.dtype.kind in "iu" and bool(((array == 0) | (array == 1)).all())


def _as_array(value: Any) -> np.ndarray:
    try:
        return np.asarray(value)
    except ValueError:  # lists of different lengths
        return np.array(value, object)


def checked_number(value: Any, name: str) -> float:
    """Returns the reward of one environment as a float; its size is not looked at.

    Raises:
        ValueError: It is not one real number.

    Example:
        >>> checked_number([1.0], "reward of environment 0")
        Traceback (most recent call last):
        ...
        ValueError: reward of environment 0 must be one real number, got [1.0]
    """
    array = _as_array(value)
    if array.ndim or array.dtype.kind not in "biuf":
        raise ValueError(f"{name} must be one real number, got {value!r}")
    return float(array)


def checked_reward(reward: Any, n_envs: int, where: str) -> np.ndarray:
    """Returns `reward` as float32 `[n_envs]`.

    Raises:
        ValueError: The shape is another, or a reward is not a real number, or not
            finite in float32.
    """
    given = _as_array(reward)
    if given.shape != (n_envs,):
        raise ValueError(
            f"reward must have shape [{n_envs}], got {list(given.shape)} {where}"
        )
    if given.dtype.kind not in "biuf":
        raise ValueError(f"reward must be real numbers, got {given.dtype} {where}")
    fits = np.abs(given) <= LARGEST_REWARD  # NaN does not
    if not all_of(fits):
        env = int(np.argmin(fits))
        raise ValueError(
            f"reward of environment {env} {where} is not finite in float32: "
            f"{given[env]}"
        )
    return given.astype(np.float32)


def checked_actions(
    actions: np.ndarray, space: gym.Space, n_envs: int, where: str
) -> np.ndarray:
    """Returns `actions` `[n_envs, ...]` if the space allows them.

    Raises:
        ValueError: The shape is another, an index is out of range, or a value is not
            finite, or outside the bounds of a Box.
    """
    shape = (n_envs, *(space.shape or ()))
    if actions.shape != shape:
        raise ValueError(
            f"actions must have shape {list(shape)}, got {list(actions.shape)} {where}"
        )
    if isinstance(space, INDICES) and actions.dtype.kind not in "iu":
        raise ValueError(f"actions must be integers, got {actions.dtype} {where}")
    if isinstance(space, Discrete):
        # As unsigned numbers, those below 0 are the largest.
        if actions.view(f"u{actions.itemsize}").max() >= space.n:
            raise ValueError(
                f"actions must be indices in [0, {space.n - 1}], got "
                f"{actions.tolist()} {where}; -1 often comes of Q-values that are not "
                "finite: a smaller learning_rate or max_grad_norm may help"
            )
    elif isinstance(space, MultiDiscrete):
        if actions.min() < 0 or (actions >= space.nvec).any():
            raise ValueError(
                f"actions must be indices below {space.nvec.tolist()}, got "
                f"{actions.tolist()} {where}"
            )
    elif isinstance(space, Box):
        inside = _inside(actions, space)
        if not all_of(inside):
            raise _outside(actions, inside, space, where)
    elif isinstance(space, MultiBinary) and not _are_flags(actions):
        raise ValueError(f"actions must be 0 or 1, got {actions.tolist()} {where}")
    return actions


def box_bounds(space: Box, dtype: Any) -> tuple[np.ndarray, np.ndarray]:
    """Returns the bounds of a Box as `dtype` has them, each `[*shape]`.

    An action of float32 that is a bound of float64, rounded, is within the bounds.
    """
    kind = np.dtype(dtype)
    if kind.kind != "f":
        return space.low, space.high
    with np.errstate(over="ignore"):  # infinite is then right
        return space.low.astype(kind), space.high.astype(kind)


def _inside(actions: np.ndarray, space: Box) -> np.ndarray:
    """Returns bool as `actions`: where a number is finite and within the bounds."""
    low, high = box_bounds(space, actions.dtype)
    inside = (actions >= low) & (actions <= high)
    if not space.is_bounded("both"):
        inside &= np.isfinite(actions)
    if space.dtype.kind in "iub" and actions.dtype.kind == "f":
        inside &= actions == np.trunc(actions)
    return inside


def _outside(
    actions: np.ndarray, inside: np.ndarray, space: Box, where: str
) -> ValueError:
    """Returns the error for actions that a Box does not allow."""
    env = int(np.argwhere(~inside)[0][0])
    value = actions[env][~inside[env]].flat[0]
    if not np.isfinite(value):
        return ValueError(f"actions must be finite, got {actions.tolist()} {where}")
    return ValueError(
        f"the action of environment {env} {where} must be in {space}, got {value!s}: "
        "the agent must bring its actions into the space, or the environment must take "
        "others, by gymnasium.wrappers.ClipAction or RescaleAction for example"
    )


def env_actions(actions: np.ndarray, space: gym.Space) -> np.ndarray:
    """Copies `actions`, with the dtype and the first number that the space has.

    Numbers that another dtype had rounded over a bound of a Box are that bound.
    """
    sent = from_start(actions.astype(space.dtype), space)
    if isinstance(space, Box) and sent.dtype != actions.dtype:
        np.clip(sent, space.low, space.high, out=sent)
    return sent


def from_start(actions: Any, space: gym.Space) -> Any:
    """Returns `actions`, indices from 0, with the first number that the space has."""
    if not isinstance(space, INDICES):
        return actions
    if isinstance(space, Discrete) and space.start == 0:
        return actions
    return actions + np.asarray(space.start, actions.dtype)
