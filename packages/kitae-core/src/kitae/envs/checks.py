"""What passes between an environment and an agent, checked on the host."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete, Tuple

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
            told = sorted(tree) if isinstance(tree, Mapping) else type(tree).__name__
            raise ValueError(f"{name} must be a dict of {sorted(space)}, got {told}")
        return {
            key: map_space(function, tree[key], part, f"{name}[{key!r}]")
            for key, part in space.items()
        }
    if isinstance(space, Tuple):
        if not isinstance(tree, Sequence) or len(tree) != len(space):
            told = len(tree) if isinstance(tree, Sequence) else type(tree).__name__
            raise ValueError(f"{name} must be a tuple of {len(space)}, got {told}")
        return tuple(
            map_space(function, tree[i], part, f"{name}[{i}]")
            for i, part in enumerate(space)
        )
    return function(tree, space, name)


def check_fixed_size(space: gym.Space, name: str) -> None:
    """Refuses a space with elements that are no arrays of one shape.

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


def checked_observation(
    raw: Any, space: gym.Space, n_envs: int, step: int, name: str = "observation"
) -> Any:
    """Copies `raw` into arrays `[n_envs, *shape]`, a pytree for composite spaces.

    Args:
        raw: What the environments gave.
        space: Of one environment.
        n_envs: Environments.
        step: The vector step, to be told in an error.
        name: What to call it.

    Raises:
        ValueError: A part is missing, a shape or dtype is not the space's, or a value
            is not finite; the part is named.
    """

    def checked(raw: Any, space: gym.Space, name: str) -> np.ndarray:
        array = np.array(raw)
        if array.shape != (n_envs, *(space.shape or ())) or array.dtype != space.dtype:
            raise not_as_said(name, space, [n_envs, *(space.shape or ())], array)
        if array.dtype.kind == "f" and not all_of(np.isfinite(array)):
            finite = np.isfinite(array).reshape(n_envs, -1).all(axis=1)
            raise ValueError(
                f"{name} of environment {int(np.argmin(finite))} at vector step "
                f"{step} is not finite: {array[np.argmin(finite)]}"
            )
        return array

    return map_space(checked, raw, space, name)


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


def check_member(raw: Any, space: gym.Space, name: str) -> None:
    """Refuses the observation of one environment if it is not as the space says.

    An element of a `Discrete` space may be an integer of any kind.

    Args:
        raw: The observation.
        space: What it should be an element of; its bounds are not looked at.
        name: What to call it.

    Raises:
        ValueError: A part is missing, or a shape or dtype is not the space's.

    Example:
        >>> check_member(np.zeros(4), Box(-1, 1, (4,)), "observation")
        Traceback (most recent call last):
        ...
        ValueError: observation must be float32[4] as Box(-1.0, 1.0, (4,), float32) \
says, got float64[4]
    """

    def check(raw: Any, space: gym.Space, name: str) -> None:
        array = np.asarray(raw)
        if array.dtype == space.dtype and array.shape == space.shape:
            return
        if isinstance(space, Discrete) and array.dtype.kind in "biu" and not array.ndim:
            return
        # Of a space without a shape there are no arrays.
        if space.shape is not None:
            raise not_as_said(name, space, list(space.shape), array)

    map_space(check, raw, space, name)


def checked_reward(reward: Any, n_envs: int, where: str) -> np.ndarray:
    """Returns `reward` as float32 `[n_envs]`.

    Raises:
        ValueError: The shape is another, or a reward is not finite in float32.
    """
    given = np.asarray(reward)
    if given.shape != (n_envs,):
        raise ValueError(
            f"reward must have shape [{n_envs}], got {list(given.shape)} {where}"
        )
    fits = np.abs(given) <= LARGEST_REWARD  # what is no number does not
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
            finite.
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
    elif isinstance(space, Box) and not all_of(np.isfinite(actions)):
        raise ValueError(f"actions must be finite, got {actions.tolist()} {where}")
    return actions


def env_actions(actions: np.ndarray, space: gym.Space) -> np.ndarray:
    """Copies `actions`, with the dtype and the first number that the space has."""
    return from_start(actions.astype(space.dtype), space)


def from_start(actions: Any, space: gym.Space) -> Any:
    """Returns `actions`, indices from 0, with the first number that the space has."""
    if not isinstance(space, INDICES):
        return actions
    if isinstance(space, Discrete) and space.start == 0:
        return actions
    return actions + np.asarray(space.start, actions.dtype)
