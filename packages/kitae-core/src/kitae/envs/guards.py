"""What calls of a vector environment are made in: their errors name the environment.

Gymnasium's `AsyncVectorEnv` waits for its workers without end. Its `SyncVectorEnv`
keeps final observations without copying them, and casts observations to what the space
says. Infos of different types end a step in both.
"""

import math
import multiprocessing
import queue
import select
import signal
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Self
from weakref import WeakSet

import gymnasium as gym
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv, VectorEnv
from gymnasium.vector.async_vector_env import AsyncState

from kitae.envs.workers import CheckedEnv

# For a worker to end when it is asked to.
GRACE_SECONDS = 1.0
# To come through a pipe, or to be seen to have ended.
ARRIVAL_SECONDS = 5.0

# Vectors whose workers are `kitae.envs.workers.checked_worker`.
_checked: WeakSet[Any] = WeakSet()


@contextmanager
def workers_start() -> Iterator[None]:
    """Raises an error if a process ends while an `AsyncVectorEnv` is made.

    Raises:
        RuntimeError: One did.
    """
    logged = "Received the following error|Traceback|Raising the last exception"
    try:
        with warnings.catch_warnings():
            # What Gymnasium warns of is in the error of `checked_worker`, and would
            # come in its place where warnings are errors.
            warnings.filterwarnings("ignore", f".*ERROR: ({logged})", UserWarning)
            yield
    except (EOFError, BrokenPipeError, ConnectionResetError) as error:
        raise RuntimeError(
            "a worker process ended before it had made its environment, and wrote why "
            "to stderr; in a script, workers are started under "
            'if __name__ == "__main__":'
        ) from error


def checked_workers(env: VectorEnv) -> None:
    """Takes note that the workers of `env` are `kitae.envs.workers.checked_worker`."""
    vector: Any = env.unwrapped
    _checked.add(vector)
    _end_by_kill(vector)


def _end_by_kill(env: Any) -> None:
    """Has Python and Gymnasium end workers by SIGKILL: they leave SIGTERM to others."""
    for process in env.processes:
        handle = process._popen  # noqa: SLF001, there is no public way
        handle.terminate = handle.kill


def guard_of(env: VectorEnv, timeout: float) -> "Guard":
    """Returns what the calls of `env` are made in: `with guard(where): env.step(...)`.

    Args:
        env: Any vector environment.
        timeout: Seconds to wait for an answer of an environment that has a process,
            above 0.

    Warns:
        RuntimeWarning: The processes were forked, and may wait for ever for a lock
            that a thread of JAX held just then.
    """
    vector = env.unwrapped
    if isinstance(vector, SyncVectorEnv):
        return MemberGuard(vector)
    if not isinstance(vector, AsyncVectorEnv) or vector.closed:
        return Guard()
    if multiprocessing.get_context(vector.context).get_start_method() == "fork":
        warnings.warn(
            "the workers of this AsyncVectorEnv were forked, and may wait for ever for "
            "a lock that a thread of JAX held just then: make it with "
            'context="forkserver", or by make_vec_env(..., vectorization_mode="async")',
            RuntimeWarning,
            stacklevel=3,
        )
    return WorkerGuard(vector, timeout)


class Guard:
    """Makes an error of an environment that would end the process.

    In `with guard(where):` a SystemExit is a `RuntimeError`: the process is not the
    environment's to end.

    Attributes:
        copies_final: Whether final observations are known to be copies.
    """

    copies_final = True
    where = ""

    def __call__(self, where: str) -> Self:
        """Takes `where` for the errors of the next call, such as "at the reset"."""
        self.where = where
        return self

    def __enter__(self) -> None:
        """Begins a call."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Ends a call.

        Raises:
            RuntimeError: The environment raised SystemExit.
        """
        if isinstance(error, SystemExit):
            raise RuntimeError(
                f"an environment raised SystemExit({error.code!r}) {self.where}"
            ) from error


class MemberGuard(Guard):
    """Checks the members of a `SyncVectorEnv` while they are called.

    They are `CheckedEnv`s meanwhile, so what they observe is checked and copied before
    the vector casts it, or resets them. Nothing of it stays in `env` between calls.

    Args:
        env: The vector of members, without wrappers.
    """

    def __init__(self, env: SyncVectorEnv) -> None:
        self._env: Any = env
        self._own: Sequence[gym.Env] = ()
        self._members: list[gym.Env] = []

    def __enter__(self) -> None:
        """Puts the checked members in the place of the vector's own."""
        own = self._env.envs
        if own is not self._own:
            self._own = own
            self._members = [
                env if isinstance(env, CheckedEnv) else CheckedEnv(env, i)
                for i, env in enumerate(own)
            ]
        self._env.envs = self._members
        _take_any_infos(self._env)

    def __exit__(self, *args: Any) -> None:
        """Puts them back."""
        self._env.envs = self._own
        del self._env._add_info  # noqa: SLF001, Gymnasium's own hook
        super().__exit__(*args)


def _take_any_infos(env: Any) -> None:
    """Has a vector leave out infos that it cannot put beside others."""
    add_one = type(env)._add_info  # noqa: SLF001, Gymnasium's own hook

    def add(infos: dict[str, Any], info: dict[str, Any], index: int) -> dict[str, Any]:
        if not info:
            return infos
        try:
            return add_one(env, infos, info, index)
        except Exception:
            # An info of another type or shape than that of the environment before.
            for key, value in info.items():
                with suppress(Exception):
                    infos = add_one(env, infos, {key: value}, index)
            return infos

    env._add_info = add  # noqa: SLF001, Gymnasium's own hook


class WorkerGuard(Guard):
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
        _end_by_kill(env)
        self._call = _Call(env.processes, env.error_queue, timeout)
        self._pipes = [
            pipe and _Pipe(index, pipe, self._call)
            for index, pipe in enumerate(env.parent_pipes)
        ]
        self._errors = _Errors(self._call)
        self.copies_final = env in _checked

    def __call__(self, where: str) -> Self:
        """Takes `where` for the errors of the next call, such as "at the reset"."""
        self._call.where = where
        return super().__call__(where)

    def __enter__(self) -> None:
        """Has the vector call its workers by pipes that do not wait for ever."""
        self._own = self._env.parent_pipes, self._env.error_queue
        self._env.parent_pipes, self._env.error_queue = self._pipes, self._errors
        _take_any_infos(self._env)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Puts the vector's own back; after an error of a worker, ends them all."""
        self._env.parent_pipes, self._env.error_queue = self._own
        del self._env._add_info  # noqa: SLF001, Gymnasium's own hook
        in_call = self._env._state is not AsyncState.DEFAULT  # noqa: SLF001, Gymnasium has no public way
        if kind is not None and (in_call or self._call.ended()):
            _end(self._env)
        super().__exit__(kind, error, traceback)


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
        # Not by their sentinels: one is not ready for a moment after it was read.
        return [i for i, one in enumerate(self.processes) if one.exitcode is not None]

    def died(self, index: int) -> BaseException:
        """Returns why a worker is gone."""
        process = self.processes[index]
        process.join(ARRIVAL_SECONDS)
        # A worker reports what was raised before it ends.
        if not self.error_queue.empty():
            return self.raised()
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

    def raised(self) -> BaseException:
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
        with suppress(ConnectionError):
            return self._pipe.send(message)
        # Outside of an `except`, whose error would be this one's context. Its traceback
        # holds a buffer of which Python 3.13 complains where a cycle is collected.
        raise self._call.died(self._index)

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
    """Raises what workers report, where Gymnasium would make another error of it."""

    def __init__(self, call: _Call) -> None:
        self._call = call

    def get(self) -> Any:
        raise self._call.raised()


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
