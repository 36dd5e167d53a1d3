"""Gymnax's environments, as functions that Kitae compiles: needs gymnax."""

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import gymnasium as gym
from gymnasium.spaces import Dict, Discrete, Tuple

from kitae.config import check_int
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

SINCE = (1, 0)


class GymnaxFuncEnv(StepFuncEnv):
    """One environment of gymnax, for `kitae.envs.functional.JaxVectorEnv`.

    Its parameters' `max_steps_in_episode` truncates. It is stepped by `step_env`,
    which resets nothing.

    Args:
        env: A `gymnax.environments.environment.Environment`, not one of the wrappers:
            these change `step`, which also resets.
        params: Its parameters. Default: its `default_params`.

    Raises:
        ImportError: gymnax is missing, or older than 1.0.
        TypeError: `env` is something else.
        ValueError: A space has no counterpart in Gymnasium.

    Example:
        >>> import gymnax  # doctest: +SKIP
        >>> env, params = gymnax.make("CartPole-v1")  # doctest: +SKIP
        >>> JaxVectorEnv(GymnaxFuncEnv(env, params), n_envs=8)  # doctest: +SKIP
    """

    def __init__(self, env: Any, params: Any = None) -> None:
        kind = family("gymnax", SINCE).environments.environment.Environment
        if not isinstance(env, kind):
            raise TypeError(
                "env must be a gymnax.environments.environment.Environment, got "
                f"{type(env).__name__}"
            )
        super().__init__()
        self.env = env
        self.params = env.default_params if params is None else params
        self.observation_space = as_space(env.observation_space(self.params))
        self.action_space = as_space(env.action_space(self.params))

    def initial(self, rng: Any, params: Any = None) -> StepState:
        """Starts an episode."""
        observation, inner = self.env.reset_env(rng, self.params)
        return first_state(inner, observation)

    def transition(
        self, state: StepState, action: Any, rng: Any, params: Any = None
    ) -> StepState:
        """Takes one step, and does not reset."""
        observation, inner, reward, terminated, _ = self.env.step_env(
            rng, state.inner, action, self.params
        )
        truncated = self.env.is_truncated(inner, self.params)
        return next_state(inner, observation, reward, terminated, truncated)


def make_gymnax(
    env_id: str,
    n_envs: int,
    *,
    max_episode_steps: int | None = None,
    params: Mapping[str, Any] | None = None,
    lazy_reset: bool = False,
    **env_kwargs: Any,
) -> JaxVectorEnv:
    """Makes `n_envs` copies of an environment that gymnax knows.

    Args:
        env_id: As `gymnax.make` knows it.
        n_envs: Parallel environments, from 1 to 2**20.
        max_episode_steps: Environment steps after which an episode is truncated, in
            place of the environment's own `max_steps_in_episode`.
        params: Others of its default parameters, by name, to change.
        lazy_reset: As in `JaxVectorEnv`.
        **env_kwargs: Passed to `gymnax.make`.

    Raises:
        ImportError: gymnax is missing, or older than 1.0.
        ValueError: A number is out of range, gymnax does not know the environment or
            the environment no such parameter, or a space has no counterpart in
            Gymnasium.

    Example:
        >>> make_gymnax("Breakout-MinAtar", 8).single_action_space  # doctest: +SKIP
        Discrete(3)
    """
    changes = dict(params or {})
    if max_episode_steps is not None:
        check_int("max_episode_steps", max_episode_steps, 1)
        changes["max_steps_in_episode"] = max_episode_steps
    env, defaults = family("gymnax", SINCE).make(env_id, **env_kwargs)
    known = [field.name for field in fields(defaults)]
    unknown = sorted(set(changes) - set(known))
    if unknown:
        raise ValueError(
            f"params must name parameters of {env_id}, {known}, got {unknown}"
        )
    func_env = GymnaxFuncEnv(env, replace(defaults, **changes))
    return JaxVectorEnv(func_env, n_envs, lazy_reset=lazy_reset)


def as_space(space: Any) -> gym.Space:
    """Returns Gymnasium's counterpart of one of gymnax's spaces.

    Raises:
        ValueError: There is none.
    """
    spaces = family("gymnax", SINCE).environments.spaces
    if isinstance(space, spaces.Discrete):
        return Discrete(int(space.n))
    if isinstance(space, spaces.Box):
        return box(space.low, space.high, space.shape, space.dtype, space)
    if isinstance(space, spaces.Dict):
        return Dict({name: as_space(part) for name, part in space.spaces.items()})
    if isinstance(space, spaces.Tuple):
        return Tuple([as_space(part) for part in space.spaces])
    raise unconvertible(space, f"{type(space).__name__} is unknown")
