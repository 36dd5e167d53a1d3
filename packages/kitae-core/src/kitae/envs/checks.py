"""What passes between an environment and an agent, checked on the host."""

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete, Tuple


def map_space(
    function: Callable[[Any, gym.Space], Any], tree: Any, space: gym.Space
) -> Any:
    """Applies `function` to each part of `tree` and the simple space it is of.

    Args:
        function: `function(part, space)`.
        tree: A dict where the space is a Dict, a tuple where it is a Tuple.
        space: Which parts there are.

    Returns:
        The results, built as the space is.
    """
    if isinstance(space, Dict):
        return {
            name: map_space(function, tree[name], part) for name, part in space.items()
        }
    if isinstance(space, Tuple):
        pairs = zip(tree, space, strict=True)
        return tuple(map_space(function, member, part) for member, part in pairs)
    return function(tree, space)


def checked_observation(raw: Any, space: gym.Space, n_envs: int, step: int) -> Any:
    """Copies `raw` into arrays `[n_envs, *shape]`, a pytree for composite spaces.

    Raises:
        ValueError: A shape or dtype is not the space's, or a value is not finite.
    """

    def checked(raw: Any, space: gym.Space) -> np.ndarray:
        array = np.array(raw)
        if array.shape != (n_envs, *(space.shape or ())) or array.dtype != space.dtype:
            raise ValueError(
                f"observation must be {space.dtype}{[n_envs, *(space.shape or ())]} as "
                f"{space} says, got {array.dtype}{list(array.shape)}"
            )
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            finite = np.isfinite(array).reshape(n_envs, -1).all(axis=1)
            raise ValueError(
                f"observation of environment {int(np.argmin(finite))} at vector step "
                f"{step} is not finite: {array[np.argmin(finite)]}"
            )
        return array

    return map_space(checked, raw, space)


def checked_reward(reward: Any, n_envs: int, where: str) -> np.ndarray:
    """Returns `reward` as float32 `[n_envs]`.

    Raises:
        ValueError: The shape is another, or a reward is not finite in float32.
    """
    with np.errstate(over="ignore"):
        array = np.array(reward, np.float32)
    if array.shape != (n_envs,):
        raise ValueError(
            f"reward must have shape [{n_envs}], got {list(array.shape)} {where}"
        )
    finite = np.isfinite(array)
    if not finite.all():
        env = int(np.argmin(finite))
        raise ValueError(
            f"reward of environment {env} {where} is not finite: {array[env]}"
        )
    return array


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
    if isinstance(space, Discrete):
        if actions.dtype.kind not in "iu":
            raise ValueError(f"actions must be integers, got {actions.dtype} {where}")
        if actions.min() < 0 or actions.max() >= space.n:
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
    elif isinstance(space, Box) and not np.isfinite(actions).all():
        raise ValueError(f"actions must be finite, got {actions.tolist()} {where}")
    return actions


def env_actions(actions: np.ndarray, space: gym.Space) -> np.ndarray:
    """Copies `actions`, with the dtype and the first number that the space has."""
    return from_start(actions.astype(space.dtype), space)


def from_start(actions: Any, space: gym.Space) -> Any:
    """Returns `actions`, indices from 0, with the first number that the space has."""
    if isinstance(space, Discrete | MultiDiscrete):
        return actions + np.asarray(space.start, actions.dtype)
    return actions
