"""Jumanji's environments, as functions that Kitae compiles: needs jumanji."""

import importlib
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Dict, Discrete, MultiDiscrete

from kitae.envs.adapter import (
    StepFuncEnv,
    StepState,
    box,
    family,
    first_state,
    next_state,
    unconvertible,
)
from kitae.envs.functional import JaxVectorEnv
from kitae.envs.masks import MASK, masked_space, n_actions, with_mask

SINCE = (1, 1)


class JumanjiFuncEnv(StepFuncEnv):
    """One environment of Jumanji, for `kitae.envs.functional.JaxVectorEnv`.

    The last step of an episode has a discount of 0 where the episode terminates, and
    another where it is truncated. Most of Jumanji's environments say that their own
    `time_limit` terminates; the limit of the `JaxVectorEnv` truncates.

    Args:
        env: A `jumanji.env.Environment` with one agent that does not reset itself.
        observation: The field of the observation to see alone. Default: all of them,
            as a `Dict`, if there are several.
        action_mask: Whether the field `action_mask` is seen, whatever `observation`
            is, as `kitae.envs.masks.masked_space` says: int8, one for each action.

    Raises:
        ImportError: jumanji is missing, or older than 1.1.
        TypeError: `env` is something else.
        ValueError: There is no such field, the reward is not one number, a spec has no
            counterpart in Gymnasium, or there is no mask with one entry for each
            action.

    Example:
        >>> import jumanji  # doctest: +SKIP
        >>> snake = JumanjiFuncEnv(jumanji.make("Snake-v1"), "grid")  # doctest: +SKIP
        >>> JaxVectorEnv(snake, n_envs=8, max_episode_steps=500)  # doctest: +SKIP
    """

    def __init__(
        self, env: Any, observation: str | None = None, *, action_mask: bool = False
    ) -> None:
        check_env(env)
        super().__init__()
        self.env = env
        self.action_space = as_space(env.action_spec)
        space = whole = as_space(env.observation_spec)
        if observation is not None:
            parts = space.spaces if isinstance(space, Dict) else {}
            if observation not in parts:
                raise ValueError(
                    f"observation must be one of {list(parts)}, got {observation!r}"
                )
            space = parts[observation]
        self._field, self._unmasked = observation, space
        self._action_mask = action_mask
        if action_mask:
            space = _masked(space, whole, self.action_space)
        self.observation_space = space

    def initial(self, rng: Any, params: Any = None) -> StepState:
        """Starts an episode."""
        inner, timestep = self.env.reset(rng)
        return first_state(inner, self._seen(timestep.observation))

    def transition(
        self, state: StepState, action: Any, rng: Any, params: Any = None
    ) -> StepState:
        """Takes one step; Jumanji keeps the keys for it in its state."""
        inner, timestep = self.env.step(state.inner, action)
        last, ended = timestep.last(), timestep.discount == 0
        observation = self._seen(timestep.observation)
        return next_state(
            inner, observation, timestep.reward, last & ended, last & ~ended
        )

    def _seen(self, observation: Any) -> Any:
        whole = observation
        if self._field is not None:
            observation = getattr(whole, self._field)
        seen = _as_fields(observation, self._unmasked)
        return with_mask(seen, whole.action_mask) if self._action_mask else seen


def make_jumanji(
    env_id: str,
    n_envs: int,
    *,
    max_episode_steps: int | None = None,
    observation: str | None = None,
    action_mask: bool = False,
    lazy_reset: bool = False,
    **env_kwargs: Any,
) -> JaxVectorEnv:
    """Makes `n_envs` copies of an environment that Jumanji knows.

    Args:
        env_id: As `jumanji.make` knows it.
        n_envs: Parallel environments, from 1 to 2**20.
        max_episode_steps: Environment steps after which an episode is truncated.
            None: when the environment says so.
        observation: As in `JumanjiFuncEnv`.
        action_mask: As in `JumanjiFuncEnv`.
        lazy_reset: As in `JaxVectorEnv`; faster where a level is costly to make.
        **env_kwargs: Passed to `jumanji.make`.

    Raises:
        ImportError: jumanji is missing, or older than 1.1.
        ValueError: A number is out of range, Jumanji does not know the environment or
            the environment no such field, a spec has no counterpart in Gymnasium, or
            there is no mask with one entry for each action.

    Example:
        >>> env = make_jumanji("Snake-v1", 8, observation="grid")  # doctest: +SKIP
        >>> env.single_observation_space.shape  # doctest: +SKIP
        (12, 12, 5)
    """
    env = family("jumanji", SINCE).make(env_id, **env_kwargs)
    func_env = JumanjiFuncEnv(env, observation, action_mask=action_mask)
    return JaxVectorEnv(func_env, n_envs, max_episode_steps, lazy_reset=lazy_reset)


def check_env(env: Any) -> None:
    """Refuses what is not a single environment that one agent acts in.

    Raises:
        TypeError: It is something else, or resets itself.
        ValueError: It has many rewards.
    """
    package = family("jumanji", SINCE)
    if not isinstance(env, package.env.Environment):
        raise TypeError(
            f"env must be a jumanji.env.Environment, got {type(env).__name__}"
        )
    wrappers = importlib.import_module("jumanji.wrappers")  # noqa: TID251 (ours)
    resets = (wrappers.AutoResetWrapper, wrappers.VmapAutoResetWrapper)
    inner = env
    while isinstance(inner, wrappers.Wrapper):
        if isinstance(inner, (*resets, wrappers.VmapWrapper)):
            raise TypeError(
                f"env must be without {type(inner).__name__}: Kitae batches and resets"
            )
        inner = inner._env  # noqa: SLF001, Jumanji has no public way
    shapes = env.reward_spec.shape, env.discount_spec.shape
    if shapes != ((), ()):
        raise ValueError(
            "env must give one reward and one discount, got shapes "
            f"{[list(shape) for shape in shapes]}: see "
            "jumanji.wrappers.MultiToSingleWrapper"
        )


def as_space(spec: Any) -> gym.Space:
    """Returns Gymnasium's counterpart of one of Jumanji's specs.

    Raises:
        ValueError: There is none.
    """
    specs = family("jumanji", SINCE).specs
    if isinstance(spec, specs.DiscreteArray):
        return Discrete(spec.num_values)
    if isinstance(spec, specs.MultiDiscreteArray):
        return MultiDiscrete(np.asarray(spec.num_values))
    if isinstance(spec, specs.BoundedArray):
        return box(spec.minimum, spec.maximum, spec.shape, spec.dtype, spec)
    if isinstance(spec, specs.Array):
        return box(*_widest(spec.dtype), spec.shape, spec.dtype, spec)
    members = vars(spec).items() if isinstance(spec, specs.Spec) else ()
    parts = {name: part for name, part in members if isinstance(part, specs.Spec)}
    if not parts:
        raise unconvertible(spec, f"{type(spec).__name__} has no fields")
    return Dict({name: as_space(part) for name, part in parts.items()})


def _masked(space: gym.Space, whole: gym.Space, actions: gym.Space) -> Dict:
    mask = whole.spaces.get(MASK) if isinstance(whole, Dict) else None
    shape = None if mask is None else mask.shape
    if shape != (n_actions(actions),):
        found = "there is none" if shape is None else f"its shape is {list(shape)}"
        raise ValueError(
            f"action_mask must be a field of the observation with one entry for each "
            f"action of {actions}, but {found}"
        )
    if isinstance(space, Dict):
        space = Dict({name: part for name, part in space.items() if name != MASK})
    return masked_space(space, actions)


def _widest(dtype: Any) -> tuple[Any, Any]:
    kind = np.dtype(dtype).kind
    if kind in "iu":
        return np.iinfo(dtype).min, np.iinfo(dtype).max
    return (False, True) if kind == "b" else (-np.inf, np.inf)


def _as_fields(observation: Any, space: gym.Space) -> Any:
    if not isinstance(space, Dict):
        return observation
    if not isinstance(observation, Mapping):
        observation = {name: getattr(observation, name) for name in space}
    return {name: _as_fields(observation[name], part) for name, part in space.items()}
