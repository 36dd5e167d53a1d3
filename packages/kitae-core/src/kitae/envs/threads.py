"""Which environments may be stepped by any thread."""

from typing import Any

import gymnasium as gym
from gymnasium.vector import VectorEnv, VectorWrapper

# Their steps compute, and do nothing else, unless they render.
KNOWN = ("gymnasium.", "ale_py.", "kitae.", "numpy.", "builtins.")


def may_step_anywhere(env: VectorEnv) -> bool:
    """Whether a step runs only code of Gymnasium, ale-py and Kitae, without rendering.

    Code of yours, or of anybody else, may belong to the thread that calls `train`: it
    is always called by that thread. Of environments in worker processes only the
    exchange with them counts.

    Args:
        env: The environments, with all their wrappers.

    Example:
        >>> from gymnasium.vector import SyncVectorEnv
        >>> may_step_anywhere(SyncVectorEnv([lambda: gym.make("CartPole-v1")]))
        True
        >>> rendered = lambda: gym.make("CartPole-v1", render_mode="rgb_array")
        >>> may_step_anywhere(SyncVectorEnv([rendered]))
        False
    """
    if getattr(env, "render_mode", None) is not None:
        return False
    while isinstance(env, VectorWrapper):
        if not _is_known(env):
            return False
        env = env.env
    members = getattr(env, "envs", ())
    return _is_known(env) and all(map(_all_known, members))


def _all_known(env: Any) -> bool:
    while isinstance(env, gym.Wrapper):
        if not _is_known(env):
            return False
        env = env.env
    return _is_known(env)


def _is_known(env: Any) -> bool:
    """Whether it is one of these, and holds no function of another package."""
    functions = filter(callable, vars(env).values())
    return all(_from(part, KNOWN) for part in (type(env), *functions))


def _from(part: Any, packages: tuple[str, ...]) -> bool:
    return f"{getattr(part, '__module__', None)}.".startswith(packages)
