"""Environments on the host, as part of a program that calls them."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kitae.base.algorithm.state import device_step
from kitae.base.common.pytrees import firm
from kitae.base.training.host_environments import HostEnvironments
from kitae.base.training.programs import Carry, Outcome
from kitae.base.xla.callback import callback
from kitae.envs import HostStep


class HostConstants(NamedTuple):
    """What stays the same through a training; see `Keys`."""

    interact_key: Any
    learn_key: Any


class HostState(NamedTuple):
    """What a program knows of environments on the host.

    Attributes:
        observation: What to act on.
        step: int32, the environment steps so far.
        goes_on: bool, whether there is one more step to take.
    """

    observation: Any
    step: Any
    goes_on: Any


class Reply(NamedTuple):
    """What the host returns for a vector step; see `kitae.envs.HostStep`.

    Attributes:
        observation: What to act on next.
        next_observation: The true successor.
        numbers: float32 `[4, n_rows]`: reward, terminated, truncated, valid.
        control: int32 `[2]`: the environment steps so far, and whether to go on.
    """

    observation: Any
    next_observation: Any
    numbers: Any
    control: Any


class Calls:
    """What programs call: the `Stepper` of the moment.

    A program holds this and nothing else of ours. Python's collector does not look into
    a program: one that held its agent would keep it, and itself, for ever.
    """

    def __init__(self) -> None:
        self._stepper: Stepper

    @contextmanager
    def to(self, stepper: "Stepper") -> Iterator[None]:
        """Has `stepper` called within."""
        self._stepper = stepper
        try:
            yield
        finally:
            del self._stepper

    def send(self, actions: np.ndarray) -> list[Any]:
        """Passes actions on; returns at once."""
        self._stepper.requests.put(np.array(actions))
        return [np.int32(0)]

    def receive(self, sent: np.ndarray, after: np.ndarray) -> list[Any]:
        """Returns the leaves of the `Reply` to the actions that were sent."""
        return self._stepper.replies.get()

    def exchange(self, actions: np.ndarray, after: np.ndarray) -> list[Any]:
        """Returns the leaves of the `Reply` to these actions."""
        return self._stepper.exchange(actions)


class Stepper:
    """Steps the environments for one run of a program, in the thread that trains.

    Args:
        environments: Of this training.
        observation: The newest.
        learns_every: Steps from one update to the next; the first step has one. None:
            there is none.
        is_enough: `(n) -> bool`, whether the program ends after `n` steps.
        in_program: Whether the thread that runs the program steps them: XLA's.
    """

    def __init__(
        self,
        environments: HostEnvironments,
        observation: Any,
        learns_every: int | None,
        is_enough: Callable[[int], bool],
        in_program: bool,
    ) -> None:
        self._environments = environments
        self._learns_every = learns_every
        self._is_enough = is_enough
        self._nothing = jax.tree.map(
            lambda leaf: np.zeros(leaf.shape, leaf.dtype), observation
        )
        n_rows = len(environments.counters.rows)
        # Written anew for each step: a program copies what it is given.
        self._numbers = np.zeros((4, n_rows), np.float32)
        self._control = np.zeros(2, np.int32)
        self._n = 0
        self._in_program = in_program
        self.before = environments.counters.step
        self.error: BaseException | None = None
        self.requests: SimpleQueue = SimpleQueue()
        self.replies: SimpleQueue = SimpleQueue()

    def run(self, program: Callable[[], Any]) -> Any:
        """Calls `program()` in another thread; steps the environments in this one.

        Where it does not matter who steps them, the program's thread does.
        """
        if self._in_program:
            return jax.block_until_ready(program())
        outcome: Future = Future()

        def call() -> None:
            try:
                outcome.set_result(jax.block_until_ready(program()))
            except BaseException as error:
                outcome.set_exception(error)
            finally:
                self.requests.put(None)

        threading.Thread(target=call, name="kitae-program").start()
        actions = self._next()
        while actions is not None:
            self.replies.put(self.reply(actions))
            actions = self._next()
        return outcome.result()

    def exchange(self, actions: np.ndarray) -> list[Any]:
        """Returns the leaves of the `Reply`; called by a program."""
        if self._in_program:
            return self.reply(actions)
        self.requests.put(np.array(actions))
        return self.replies.get()

    def _next(self) -> np.ndarray | None:
        """Returns the actions that the program sends; None: it has ended."""
        while True:
            try:
                return self.requests.get()
            except BaseException as error:  # a second Ctrl-C: the program ends first
                self.error = error

    def reply(self, actions: np.ndarray) -> list[Any]:
        """Returns the leaves of a `Reply`; after an error, of one that does not count.

        It raises nothing: what was raised is in `error`.
        """
        environments = self._environments
        if self._learns_every and self._n % self._learns_every == 0:
            environments.learned()
        self._n += 1
        try:
            if self.error is None:
                self.before = environments.counters.step
                step = environments.step(actions)
                goes_on = not self._is_enough(self._n)
                return self._leaves(step, goes_on)
        except BaseException as error:
            self.error = error
        numbers = self._numbers
        numbers[:] = 0.0
        nothing = HostStep(self._nothing, self._nothing, *numbers)
        return self._leaves(nothing, goes_on=False)

    def _leaves(self, step: HostStep, goes_on: bool) -> list[Any]:
        numbers, control = self._numbers, self._control
        numbers[0], numbers[1] = step.reward, step.terminated
        numbers[2], numbers[3] = step.truncated, step.valid
        control[0] = device_step(self._environments.counters.step)
        control[1] = goes_on
        if isinstance(step.observation, np.ndarray):
            return [step.observation, step.next_observation, numbers, control]
        reply = Reply(step.observation, step.next_observation, numbers, control)
        return jax.tree.leaves(reply)


class CalledEnvironments:
    """Has the host step the environments; see `TracedEnvironments`.

    Args:
        n_rows: Rows of a vector step.
        beside: Whether the host is asked before an update and answers after it: it then
            steps the environments while the update runs.

    Attributes:
        calls: What the programs call.
    """

    def __init__(self, n_rows: int, beside: bool) -> None:
        self._n_rows = n_rows
        self._beside = beside
        self.calls = Calls()

    def send(self, carry: Carry) -> jax.Array:
        """Passes actions on to the host, if it steps beside an update."""
        if not self._beside:
            return carry.acted.env_actions
        nothing = jax.ShapeDtypeStruct((), jnp.int32)
        (sent,) = callback(self.calls.send, [nothing], carry.acted.env_actions)
        return sent

    def step(
        self, constants: Any, carry: Carry, sent: Any, iteration: Any, state: Any
    ) -> Outcome:
        """Waits until the host has stepped the environments.

        It asks once there is nothing else to do, so it comes after the update.
        """
        seen = carry.env.observation
        numbers = jax.ShapeDtypeStruct((4, self._n_rows), jnp.float32)
        control = jax.ShapeDtypeStruct((2,), jnp.int32)
        leaves, structure = jax.tree.flatten(Reply(seen, seen, numbers, control))
        shapes = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves]
        call = self.calls.receive if self._beside else self.calls.exchange
        reply = callback(call, shapes, sent, some_of(state))
        observation, successor, numbers, control = jax.tree.unflatten(structure, reply)
        reward, *flags = numbers
        n_steps, is_more = control
        step = HostStep(observation, successor, reward, *(flag > 0 for flag in flags))
        env = HostState(observation, n_steps, is_more > 0)
        return Outcome(env, step, step.first, step.valid, record=None)

    def n_steps(self, constants: Any, env: HostState, iteration: Any) -> jax.Array:
        """Returns what the host has counted."""
        return env.step


def goes_on(carry: Carry) -> jax.Array:
    """Whether there is one more step to take."""
    return carry.env.goes_on


def some_of(state: Any) -> jax.Array:
    """Returns a number that is known once all floats of a state are."""
    leaves = [
        leaf.reshape(-1)[0].astype(jnp.float32)
        for leaf in jax.tree.leaves(state)
        if jnp.issubdtype(leaf.dtype, jnp.floating) and leaf.size
    ]
    return firm(sum(leaves, jnp.float32(0)))
