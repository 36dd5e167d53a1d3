"""Environments in processes of their own: that they fail, die or hang is told by name.

Gymnasium's `AsyncVectorEnv` waits for its workers without end, and casts what they
observe to what the space says.
"""

import math
import multiprocessing
import queue
import select
import signal
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.reduction import ForkingPickler
from types import TracebackType
from typing import Any, Self

import gymnasium as gym
import numpy as np
from gymnasium.vector import AsyncVectorEnv, VectorEnv
from gymnasium.vector.async_vector_env import AsyncState, _async_worker

from kitae.envs.checks import check_member

# What a worker needs from one thing that it was told to the next that it does not do.
GRACE_SECONDS = 1.0
# To come through a pipe, or to be seen to have ended.
ARRIVAL_SECONDS = 5.0


# --- In the process that trains -------------------------------------------------------


@contextmanager
def workers_start() -> Iterator[None]:
    """Tells of a process that ends while an `AsyncVectorEnv` is made.

    Raises:
        RuntimeError: One did.
    """
    told = "Received the following error|Traceback|Raising the last exception"
    try:
        with warnings.catch_warnings():
            # What Gymnasium warns of is in the error of `checked_worker`, and would
            # come in its place where warnings are errors.
            warnings.filterwarnings("ignore", f".*ERROR: ({told})", UserWarning)
            yield
    except (EOFError, BrokenPipeError, ConnectionResetError) as error:
        raise RuntimeError(
            "a worker process ended before it had made its environment, and told why "
            "on stderr; in a script, workers are started under "
            'if __name__ == "__main__":'
        ) from error


def worker_guard(
    env: VectorEnv, timeout: float
) -> Callable[[str], AbstractContextManager]:
    """Returns what the calls of `env` are made in: `with guard(where): env.step(...)`.

    Args:
        env: Any vector environment; one that has no workers is not guarded.
        timeout: Seconds to wait for an environment's answer, above 0.

    Warns:
        RuntimeWarning: The workers were forked.
    """
    workers = env.unwrapped
    if not isinstance(workers, AsyncVectorEnv) or workers.closed:
        return nullcontext
    if multiprocessing.get_context(workers.context).get_start_method() == "fork":
        warnings.warn(
            "the workers of this AsyncVectorEnv were forked, and may wait for ever for "
            "a lock that a thread of JAX held just then: make it with "
            'context="forkserver", or by make_vec_env(..., vectorization_mode="async")',
            RuntimeWarning,
            stacklevel=3,
        )
    return WorkerGuard(workers, timeout)


class WorkerGuard:
    """Ends the calls of an `AsyncVectorEnv` that its workers do not answer.

    In `with guard(where):` each of these raises, in whatever wrappers the call is made:

    - A worker has died or does not answer in time: a `RuntimeError` that names the
      environment.
    - An environment raised something: just that, with a note that names the environment
      and has the traceback of its worker.

    The workers are then ended and the vector is closed, since it would wait for ever
    for what is lost. Nothing of it stays in `env` between calls.

    Args:
        env: The vector of workers, without wrappers.
        timeout: Seconds to wait for an environment's answer, above 0.
    """

    def __init__(self, env: AsyncVectorEnv, timeout: float) -> None:
        self._env: Any = env
        self._call = _Call(env.processes, env.error_queue, timeout)
        self._pipes = [
            pipe and _Pipe(index, pipe, self._call)
            for index, pipe in enumerate(env.parent_pipes)
        ]
        self._errors = _Errors(self._call)

    def __call__(self, where: str) -> Self:
        """Takes `where` for the errors of the next call, such as "at the reset"."""
        self._call.where = where
        return self

    def __enter__(self) -> None:
        self._own = self._env.parent_pipes, self._env.error_queue
        self._env.parent_pipes, self._env.error_queue = self._pipes, self._errors

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._env.parent_pipes, self._env.error_queue = self._own
        in_call = self._env._state is not AsyncState.DEFAULT
        if kind is not None and (in_call or self._call.ended()):
            _end(self._env)


@dataclass
class _Call:
    """The call that is being made, as the pipes see it."""

    processes: list[Any]
    error_queue: Any
    timeout: float
    where: str = ""

    def __post_init__(self) -> None:
        # Pieces are counted, not seconds: of those in which this process itself was
        # stopped, and its workers with it, there is one at most.
        self.pieces = math.ceil(self.timeout)
        self.piece = self.timeout / self.pieces

    def ended(self) -> list[int]:
        """Returns whose processes have ended."""
        ended = wait([process.sentinel for process in self.processes], timeout=0)
        return [i for i, one in enumerate(self.processes) if one.sentinel in ended]

    def died(self, index: int) -> BaseException:
        """Returns why a worker is gone."""
        process = self.processes[index]
        process.join(ARRIVAL_SECONDS)
        # A worker tells what was raised before it ends.
        if not self.error_queue.empty():
            return self.told()
        code = process.exitcode
        if code is None:
            how = "closed its pipe"
        elif code >= 0:
            how = f"ended with exit code {code}"
        else:
            names = {one.value: one.name for one in signal.Signals}
            how = f"was killed by {names.get(-code, f'signal {-code}')}"
        return RuntimeError(f"environment {index}'s worker process {how} {self.where}")

    def hangs(self, index: int) -> RuntimeError:
        return RuntimeError(
            f"environment {index} has not answered within {self.timeout:g} seconds "
            f"{self.where}: it hangs, or needs a larger EnvConfig.worker_timeout"
        )

    def told(self) -> BaseException:
        """Returns what a worker says that its environment raised."""
        try:
            index, _, error, trace = self.error_queue.get(timeout=ARRIVAL_SECONDS)
        except queue.Empty:
            return RuntimeError(
                f"environments {self.ended()} raised what cannot be sent between "
                f"processes {self.where}"
            )
        error.add_note(
            f"environment {index}'s worker raised this {self.where}:\n\n{trace}"
        )
        return error


class _Pipe:
    """A worker's pipe that does not wait for ever."""

    def __init__(self, index: int, pipe: Connection, call: _Call) -> None:
        self._index, self._pipe, self._call = index, pipe, call
        self._ready: Callable[[float], Any] = pipe.poll
        self._piece = call.piece
        if hasattr(select, "poll"):
            # What Connection.poll makes anew at each call. It takes milliseconds.
            poll = select.poll()
            poll.register(pipe, select.POLLIN)
            self._ready, self._piece = poll.poll, 1000 * call.piece

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pipe, name)

    def send(self, message: Any) -> None:
        try:
            self._pipe.send(message)
        except ConnectionError:
            raise self._call.died(self._index) from None

    def recv(self) -> Any:
        pieces = 0
        while not self._ready(self._piece):
            if ended := self._call.ended():
                raise self._call.died(ended[0])
            pieces += 1
            if pieces == self._call.pieces:
                raise self._call.hangs(self._index)
        try:
            return self._pipe.recv()
        except (EOFError, ConnectionError):
            raise self._call.died(self._index) from None


class _Errors:
    """Raises what workers tell, where Gymnasium would make another error of it."""

    def __init__(self, call: _Call) -> None:
        self._call = call

    def get(self) -> Any:
        raise self._call.told()


def _end(env: AsyncVectorEnv) -> None:
    """Closes `env`, of which it is unknown who has answered and who ever will."""
    for pipe in filter(None, env.parent_pipes):
        with suppress(OSError):
            pipe.send(("close", None))
    until = time.monotonic() + GRACE_SECONDS
    for process in env.processes:
        process.join(max(0.0, until - time.monotonic()))
    for process in env.processes:
        if process.is_alive():
            process.kill()
        process.join(ARRIVAL_SECONDS)
    for pipe in filter(None, env.parent_pipes):
        pipe.close()
    env.closed = True


# --- In a worker ----------------------------------------------------------------------


class CheckedEnv(gym.Wrapper):
    """Refuses observations that are not as the space says, before a vector casts them.

    Into what a vector keeps its observations in, `(1,)` is broadcast to `(4,)`, 1e300
    becomes infinite and an int a float, all without a word.

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
        self._name = f"observation of environment {index}"

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Starts an episode.

        Raises:
            ValueError: The observation has another shape or dtype than the space.
        """
        observation, info = self.env.reset(seed=seed, options=options)
        self._check(observation)
        return observation, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Takes one step.

        Raises:
            ValueError: The observation has another shape or dtype than the space.
        """
        result = self.env.step(action)
        self._check(result[0])
        return result

    def _check(self, observation: Any) -> None:
        space = self._space
        # Most are arrays, and this is far quicker.
        if (
            not isinstance(observation, np.ndarray)
            or observation.shape != space.shape
            or observation.dtype != space.dtype
        ):
            check_member(observation, space, self._name)


def checked_worker(
    index: int,
    make: Callable[[], gym.Env],
    pipe: Any,
    parent_pipe: Any,
    shared_memory: Any,
    error_queue: Any,
    *rest: Any,
) -> None:
    """Does what a worker of `AsyncVectorEnv` does, and three things more.

    The environment is a `CheckedEnv`; whatever it raises, also while it is made, is
    told to the process that trains; and Ctrl-C is left to that process, which
    finishes the step.

    Args:
        index: The environment's number.
        make: Makes it.
        pipe: For commands and answers.
        parent_pipe: Its other end.
        shared_memory: For observations.
        error_queue: For what the environment raises.
        *rest: As Gymnasium's version has it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
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
    _async_worker(index, lambda: env, pipe, parent_pipe, shared_memory, errors, *rest)


class _Sendable:
    """A queue of errors that sends those too that cannot be pickled."""

    def __init__(self, errors: Any) -> None:
        self._errors = errors

    def put(self, told: tuple[int, type, Any, str]) -> None:
        index, kind, error, trace = told
        pickler: Any = ForkingPickler
        try:
            pickler.loads(pickler.dumps(error))
        except Exception:
            kind, error = RuntimeError, RuntimeError(f"{kind.__name__}: {error}")
        self._errors.put((index, kind, error, trace))
