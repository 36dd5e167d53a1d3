"""Training on the host as programs of many vector steps, which call back for each."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kitae.base import bulk
from kitae.base.callback import callback
from kitae.base.drawn import MAX_BYTES, MAX_LENGTH
from kitae.base.multi_agent import Names
from kitae.base.pytrees import firm, owned
from kitae.base.tracing import Acted
from kitae.envs import HostStep

if TYPE_CHECKING:
    from kitae.base.agent import BaseAgent
    from kitae.base.host import Steps
    from kitae.base.run import Run

# How long the host waits at most before it looks whether there is something to do.
CHUNK_SECONDS = 0.25


class Carry(NamedTuple):
    """What one vector step passes to the next.

    Attributes:
        state: The agent's.
        memory: What it learns from.
        pending: Rows of the last step and which of them count.
        observation: What was acted on.
        acted: What comes next: chosen already.
        info: Of the newest update.
        step: int32, the environment steps so far.
        goes_on: bool, whether there is one more step to take.
    """

    state: Any
    memory: Any
    pending: Any
    observation: Any
    acted: Acted
    info: Any
    step: Any
    goes_on: Any


class Reply(NamedTuple):
    """What the host tells of a vector step; see `kitae.envs.HostStep`.

    Attributes:
        observation: What to act on next.
        next_observation: The true successor.
        told: float32 `[4, n_rows]`: reward, terminated, truncated, valid.
        control: int32 `[2]`: the environment steps so far, and whether to go on.
    """

    observation: Any
    next_observation: Any
    told: Any
    control: Any


class Line:
    """Whom programs call: whoever answers at the moment.

    It is all of ours that a program holds. Python's collector does not look into a
    program: one that held its agent would keep it, and itself, for ever.

    Attributes:
        answers: Answers; set while a program runs.
    """

    def __init__(self) -> None:
        self.answers: Answers

    @contextmanager
    def to(self, answers: "Answers") -> Iterator[None]:
        """Has `answers` answer within."""
        self.answers = answers
        try:
            yield
        finally:
            del self.answers

    def post(self, actions: np.ndarray) -> list[Any]:
        """Passes actions on; returns at once."""
        self.answers.requests.put(np.array(actions))
        return [np.int32(0)]

    def take(self, sent: np.ndarray, after: np.ndarray) -> list[Any]:
        """Returns what came of the actions that were passed on."""
        return self.answers.replies.get()

    def ask(self, actions: np.ndarray, after: np.ndarray) -> list[Any]:
        """Returns what comes of these actions."""
        return self.answers(np.array(actions))


class HostLoops:
    """The programs that train one agent on the host.

    Args:
        agent: Whose functions are compiled. It must hold its memory.
        beside: Whether the host steps environments while an update runs.

    Attributes:
        line: Whom the programs call.
    """

    def __init__(self, agent: "BaseAgent", beside: bool) -> None:
        self._agent = agent
        self._beside = beside
        self._size = agent.config.skip_steps
        self._names: Names | None = agent._agent_names
        self._programs: dict[bool, bulk.Loop] = {}
        self._begin: Any = None
        self.line = Line()

    def begin(self, *args: Any) -> Acted:
        """Acts for the first time; see `kitae.base.tracing.ActFn`."""
        if self._begin is None:
            act = partial(self._agent._host.act.jitted, names=self._names)
            options = bulk.quickly_compiled()
            self._begin = jax.jit(act, compiler_options=options).lower(*args).compile()
        return self._begin(*args)

    def program(self, learns: bool, constants: Any, carry: Carry) -> bulk.Loop:
        """Returns the program of groups that begin with an update, or without any.

        Both are compiled at the first call.
        """
        made = {
            kind: self._made(kind, constants, carry)
            for kind in (learns, True)
            if kind not in self._programs
        }
        bulk.compile_all(made.values(), constants, carry)
        self._programs |= made
        return self._programs[learns]

    def _made(self, learns: bool, constants: Any, carry: Carry) -> bulk.Loop:
        size = self._size if learns else 1
        body = partial(self._group, size, learns)
        parts = bulk.split(body, constants, carry, jnp.uint32(0))
        fits = MAX_BYTES // max(parts.bytes_ahead, 1)
        length = max(1, min(fits, MAX_LENGTH // size))
        options = bulk.quickly_compiled()
        ahead = jax.jit(partial(bulk.ahead, parts), compiler_options=options)
        loop = jax.jit(
            partial(bulk.loop, parts, length, bulk.SMALL, going=going),
            donate_argnums=1,
            compiler_options={} if learns else options,
        )
        return bulk.Loop(ahead, loop, size, length)

    def _group(
        self, size: int, learns: bool, constants: Any, carry: Carry, first: jax.Array
    ) -> tuple[Carry, None]:
        carry, _ = self._iterate(learns, constants, carry, first)
        if size == 1:
            return carry, None
        body = partial(self._iterate, False)
        numbers = first + jnp.arange(1, size, dtype=jnp.uint32)
        parts = bulk.split(body, constants, carry, numbers[0])
        values, n = bulk.ahead(parts, constants, numbers), size - 1
        return bulk.loop(
            parts,
            n,
            bulk.SMALL,
            constants,
            carry,
            numbers,
            values,
            jnp.int32(n),
            going=going,
        )

    def _iterate(
        self, learns: bool, constants: Any, carry: Carry, iteration: jax.Array
    ) -> tuple[Carry, None]:
        agent, host = self._agent, self._agent._host
        interact_key, learn_key = constants
        state, memory, acted, info = carry.state, carry.memory, carry.acted, carry.info
        sent = acted.actions
        if self._beside:
            nothing = jax.ShapeDtypeStruct((), jnp.int32)
            (sent,) = callback(self.line.post, [nothing], sent)
        if learns:
            state, memory, info = host.learn.function(
                learn_key, iteration, state, memory, *carry.pending
            )
        else:
            memory = host.add(memory, *carry.pending)
        # Asked for once there is nothing else to do: it may be waited for.
        told, (step, goes_on) = self._told(carry.observation, sent, some_of(state))
        rows = agent._rows(carry.observation, acted, told)
        remembered = acted.next_hidden_state
        acting = host.act.jitted(
            state,
            interact_key,
            iteration + 1,
            step,
            told.observation,
            remembered,
            None if remembered is None else told.first,
            names=self._names,
        )
        after = Carry(
            state,
            memory,
            (rows, told.valid),
            told.observation,
            acting,
            info,
            step,
            goes_on > 0,
        )
        return after, None

    def _told(
        self, observation: Any, sent: jax.Array, after: jax.Array
    ) -> tuple[HostStep, jax.Array]:
        """Has the host step the environments, or waits until it has.

        Returns:
            The step, and `Reply.control`.
        """
        n_rows = self._agent.config.env_cfg.n_rows
        told = jax.ShapeDtypeStruct((4, n_rows), jnp.float32)
        control = jax.ShapeDtypeStruct((2,), jnp.int32)
        like = Reply(observation, observation, told, control)
        leaves, structure = jax.tree.flatten(like)
        shapes = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves]
        call = self.line.take if self._beside else self.line.ask
        reply = jax.tree.unflatten(structure, callback(call, shapes, sent, after))
        reward, *flags = reply.told
        step = HostStep(
            reply.observation,
            reply.next_observation,
            reward,
            *(flag > 0 for flag in flags),
        )
        return step, reply.control


class Answers:
    """Steps the environments for one program, and keeps what goes wrong with that.

    Args:
        steps: Steps them, and counts.
        run: Tells whether to end early.
        observation: As the environments give it.
        program: Which calls.
        learns: Whether its groups begin with an update.
    """

    def __init__(
        self,
        steps: "Steps",
        run: "Run",
        observation: Any,
        program: bulk.Loop,
        learns: bool,
    ) -> None:
        self._steps, self._run = steps, run
        self._program, self._learns = program, learns
        self._nothing = jax.tree.map(
            lambda leaf: np.zeros(leaf.shape, leaf.dtype), observation
        )
        self._ends_at = time.perf_counter() + CHUNK_SECONDS
        self._n = 0
        self._stops_at = steps.next_stop()
        self.before = steps.agent.step
        self.error: BaseException | None = None
        self.requests: SimpleQueue = SimpleQueue()
        self.replies: SimpleQueue = SimpleQueue()

    def __call__(self, actions: np.ndarray) -> list[Any]:
        """Returns the leaves of the `Reply`; where there is none, one that counts not.

        It raises nothing: what was raised is in `error`.
        """
        agent = self._steps.agent
        if self._learns and self._n % self._program.size == 0:
            agent._updated()
        self._n += 1
        try:
            if self.error is None:
                self.before = agent.step
                return self._told(self._steps.take(actions))
        except BaseException as error:
            self.error = error
        told = np.zeros((4, agent.config.env_cfg.n_rows), np.float32)
        control = np.array([self._steps.device_step, 0], np.int32)
        return self._leaves(self._nothing, self._nothing, told, control)

    def beside(self, program: Any) -> Any:
        """Calls `program()` in another thread, and answers its calls in this one."""
        outcome: Future = Future()

        def call() -> None:
            try:
                outcome.set_result(program())
            except BaseException as error:
                outcome.set_exception(error)
            finally:
                self.requests.put(None)

        threading.Thread(target=call, name="kitae-program").start()
        actions = self._next()
        while actions is not None:
            self.replies.put(self(actions))
            actions = self._next()
        return outcome.result()

    def _next(self) -> np.ndarray | None:
        while True:
            try:
                return self.requests.get()
            except BaseException as error:  # a second Ctrl-C: the program ends first
                self.error = error

    def _told(self, step: HostStep) -> list[Any]:
        told = np.empty((4, step.reward.size), np.float32)
        told[0], told[1] = step.reward, step.terminated
        told[2], told[3] = step.truncated, step.valid
        control = np.array([self._steps.device_step, self._goes_on()], np.int32)
        return self._leaves(step.observation, step.next_observation, told, control)

    def _leaves(self, *parts: Any) -> list[Any]:
        if isinstance(parts[0], np.ndarray):
            return list(parts)
        return jax.tree.leaves(Reply(*parts))

    def _goes_on(self) -> bool:
        agent = self._steps.agent
        if agent.step >= self._stops_at:
            return False
        if self._learns and self._n % self._program.size:
            return True  # a group that was begun is finished
        left = self._n < self._program.size * self._program.length
        due = bool(agent._update_due()) == self._learns
        quiet = not self._run.interrupted and time.perf_counter() < self._ends_at
        return left and due and quiet


class ByLoops:
    """Takes vector steps as `kitae.base.host.StepByStep` does, many in one program.

    Args:
        steps: Steps the environments.
        run: Is told of updates.
    """

    def __init__(self, steps: "Steps", run: "Run") -> None:
        agent = steps.agent
        self._steps, self._run = steps, run
        self._constants = agent.interact_key, agent.learn_key
        # With one update for many steps, to be woken twice a step would take longer
        # than what is gained. What draws on a screen belongs to one thread.
        self._beside = agent.config.skip_steps == 1 or steps.is_rendered
        self._loops = agent._host.loops(self._beside)
        self._world: tuple[Any, Acted]

    def start(self, observation: Any, hidden_state: Any, first: Any) -> None:
        """Begins anew with what the environments' reset gave."""
        agent = self._steps.agent
        acted = self._loops.begin(
            agent.state,
            agent.interact_key,
            np.uint32(agent.iteration % 2**32),
            self._steps.device_step,
            observation,
            hidden_state,
            first,
        )
        self._world = observation, owned(acted)

    def advance(self) -> int:
        """Takes steps until the host has something to do.

        Returns:
            The agent's environment steps before the last one.
        """
        steps, agent = self._steps, self._steps.agent
        observation, acted = self._world
        learns = agent._update_due()
        shapes = agent._host.shapes_of_info()
        info = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
        carry = Carry(
            agent.state,
            agent.memory,
            agent._pending or agent._no_rows,
            observation,
            acted,
            info,
            steps.device_step,
            np.bool_(True),
        )
        # The program writes into what it is given: numpy's arrays stay others'.
        carry = jax.tree.map(
            lambda leaf: leaf if isinstance(leaf, jax.Array) else jnp.array(leaf), carry
        )
        program = self._loops.program(learns, self._constants, carry)
        answers = Answers(steps, self._run, observation, program, learns)

        def run() -> Carry:
            after, _ = program(self._constants, carry, agent.iteration, program.length)
            return jax.block_until_ready(after)

        with self._loops.line.to(answers):
            after = answers.beside(run) if self._beside else run()
        agent.state, agent.memory, agent._pending = (
            after.state,
            after.memory,
            after.pending,
        )
        self._world = after.observation, after.acted
        if learns:
            self._run.report.after_update(after.info)
        if answers.error is not None:
            raise answers.error
        return answers.before


def going(carry: Carry) -> jax.Array:
    """Whether there is one more step to take."""
    return carry.goes_on


def some_of(state: Any) -> jax.Array:
    """Returns a number that is known once all floats of a state are."""
    leaves = [
        leaf.reshape(-1)[0].astype(jnp.float32)
        for leaf in jax.tree.leaves(state)
        if jnp.issubdtype(leaf.dtype, jnp.floating) and leaf.size
    ]
    return firm(sum(leaves, jnp.float32(0)))
