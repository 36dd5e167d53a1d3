"""What runs in the process of an environment: checks, and who may end it.

It must not import JAX, which would cost each process 130 MB and more than a second.
"""

import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector.async_vector_env import _async_worker

from kitae.envs.checks import (
    checked_flag,
    checked_member,
    checked_number,
    checked_reset,
    checked_step,
)

# A process of a group, or of a closed terminal, gets these with all the others.
LEFT_TO_THE_TRAINING = ("SIGINT", "SIGTERM", "SIGHUP")

# Types that need no closer look.
NUMBERS = (float, int, np.float64, np.float32)
FLAGS = (bool, np.bool_)


class CheckedEnv(gym.Wrapper):
    """Refuses what Gymnasium does not allow, before a vector casts it; copies the rest.

    In the arrays of a vector, an observation `(1,)` is broadcast to `(4,)`, 1e300
    becomes infinite, an int a float, and a flag `"False"` true, without a word. And a
    vector that resets in the step that ends an episode keeps the final observation as
    it is: of an environment that changes one array, it would be the reset's.

    Args:
        env: The environment.
        index: Its number in the vector.

    Example:
        >>> env = CheckedEnv(gym.make("CartPole-v1"), index=0)
        >>> observation, _ = env.reset(seed=0)
        >>> observation.dtype
        dtype('float32')
    """

    def __init__(self, env: gym.Env, index: int) -> None:
        super().__init__(env)
        self._space = env.observation_space
        self._shape, self._dtype = self._space.shape, self._space.dtype
        self._who = f"environment {index}"

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Starts an episode.

        Raises:
            ValueError: Something is not as the space or Gymnasium says.
        """
        result = self.env.reset(seed=seed, options=options)
        observation, info = checked_reset(result, self._who)
        return self._observation(observation), self._info(info)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Takes one step.

        Raises:
            ValueError: Something is not as the space or Gymnasium says.
        """
        result = self.env.step(action)
        if type(result) is not tuple or len(result) != 5:
            result = checked_step(result, self._who)
        observation, reward, terminated, truncated, info = result
        # Most are of these types, and to look at them is far quicker.
        if type(reward) not in NUMBERS:
            reward = checked_number(reward, f"reward of {self._who}")
        if type(terminated) not in FLAGS:
            terminated = checked_flag(terminated, f"terminated of {self._who}")
        if type(truncated) not in FLAGS:
            truncated = checked_flag(truncated, f"truncated of {self._who}")
        if type(info) is not dict:
            info = self._info(info)
        return self._observation(observation), reward, terminated, truncated, info

    def _observation(self, observation: Any) -> Any:
        if (
            type(observation) is np.ndarray
            and observation.shape == self._shape
            and observation.dtype == self._dtype
        ):
            return observation.copy()
        return checked_member(observation, self._space, f"observation of {self._who}")

    def _info(self, info: Any) -> dict[str, Any]:
        if not isinstance(info, dict):
            raise ValueError(f"info of {self._who} must be a dict, got {info!r}")
        return info


def checked_worker(
    index: int,
    make: Callable[[], gym.Env],
    pipe: Any,
    parent_pipe: Any,
    shared_memory: Any,
    error_queue: Any,
    *rest: Any,
) -> None:
    """Does what a worker of `AsyncVectorEnv` does, and four things more.

    The environment is a `CheckedEnv`. Whatever it raises, also while it is made, is
    sent to the process that trains. Signals that ask a group of processes to end are
    left to that process, which finishes the step and saves. When that process is gone,
    this one ends too, also within a step.

    Args:
        index: The environment's number.
        make: Makes it.
        pipe: For commands and answers.
        parent_pipe: Its other end.
        shared_memory: For observations.
        error_queue: For what the environment raises.
        *rest: As Gymnasium's version has it.
    """
    for name in LEFT_TO_THE_TRAINING:
        if hasattr(signal, name):
            # A handler, since programs that an environment starts would inherit
            # SIG_IGN, and could not be ended by SIGTERM.
            signal.signal(getattr(signal, name), lambda *_: None)
    threading.Thread(target=_end_with_the_training, daemon=True).start()
    errors: Any = _Sendable(error_queue)
    try:
        env = CheckedEnv(make(), index)
    except Exception as error:
        trace = traceback.format_exc()
        message = (
            f"environment {index} could not be made in its worker: "
            f"{type(error).__name__}: {error}\n\n{trace}"
        )
        # Gymnasium prints the trace by way of %.
        errors.put((index, RuntimeError, message, trace.replace("%", "%%")))
        pipe.recv()
        pipe.send((None, False))
        return
    try:
        _async_worker(
            index, lambda: env, pipe, parent_pipe, shared_memory, errors, *rest
        )
    except (EOFError, ConnectionError):
        os._exit(1)  # the process that trains is gone, and nobody reads a traceback


def _end_with_the_training() -> None:
    """Waits until the process that trains is gone, then ends this one at once."""
    training = multiprocessing.parent_process()
    if training is not None:
        training.join()
        os._exit(1)


class _Sendable:
    """A queue of errors that sends those too that cannot be pickled."""

    def __init__(self, errors: Any) -> None:
        self._errors = errors

    def put(self, raised: tuple[int, type, Any, str]) -> None:
        index, kind, error, trace = raised
        pickler: Any = ForkingPickler
        try:
            pickler.loads(pickler.dumps(error))
        except Exception:
            kind, error = RuntimeError, RuntimeError(f"{kind.__name__}: {error}")
        self._errors.put((index, kind, error, trace))
