"""Programs of many vector steps on the host, which call back for each."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kitae.base.algorithm.multi_agent import Names
from kitae.base.algorithm.tracing import Acted
from kitae.base.common.pytrees import firm
from kitae.base.xla import compiling, hoisting, loops, packing
from kitae.base.xla.callback import callback
from kitae.base.xla.stepping import MAX_BYTES
from kitae.config.schedule import steps_logged
from kitae.envs import HostStep

if TYPE_CHECKING:
    from kitae.base.agents.base import BaseAgent
    from kitae.base.training.by_loops import Answers

# Vector steps of one program.
MAX_LENGTH = 1_024


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
        return self.answers(actions)


class HostLoops:
    """The programs that train one agent on the host.

    Args:
        agent: Whose functions are compiled. It must hold its memory.
        beside: Whether the host steps environments while an update runs.

    Attributes:
        line: Whom the programs call.
        begin: Acts for the first time; see `kitae.base.algorithm.tracing.ActFn`.
    """

    def __init__(self, agent: "BaseAgent", beside: bool) -> None:
        self._agent = agent
        self._beside = beside
        self._size = agent.config.skip_steps
        self._names: Names | None = agent._agent_names
        self._programs: dict[bool, loops.Loop] = {}
        self.line = Line()
        self.begin = jax.jit(
            partial(agent._host.act.jitted, names=self._names),
            compiler_options=compiling.quickly_compiled(),
        )

    def program(self, learns: bool, constants: Any, carry: Carry) -> loops.Loop:
        """Returns the program of groups that begin with an update, or without any.

        Both are compiled at the first call.
        """

        def made() -> Iterator[loops.Loop]:
            for kind in dict.fromkeys((True, learns)):
                if kind not in self._programs:
                    self._programs[kind] = self._made(kind, constants, carry)
                    yield self._programs[kind]

        compiling.compile_all(made(), constants, carry)
        return self._programs[learns]

    def _made(self, learns: bool, constants: Any, carry: Carry) -> loops.Loop:
        size = self._size if learns else 1
        body = partial(self._group, size, learns)
        parts = hoisting.split(body, constants, carry, jnp.uint32(0), MAX_BYTES)
        # An environment may spend steps on resets, which do not count.
        steps = min(9 * steps_logged(self._agent.config) // 8 + 1, MAX_LENGTH)
        length = loops.n_groups(size, steps, parts.bytes_ahead, MAX_BYTES)
        options = compiling.quickly_compiled()
        ahead = jax.jit(partial(hoisting.ahead, parts), compiler_options=options)
        loop = jax.jit(
            partial(loops.loop, parts, length, packing.SMALL, going=going),
            donate_argnums=1,
            compiler_options={} if learns else options,
        )
        return loops.Loop(ahead, loop, size, length)

    def _group(
        self, size: int, learns: bool, constants: Any, carry: Carry, first: jax.Array
    ) -> tuple[Carry, None]:
        carry, _ = self._iterate(learns, constants, carry, first)
        if size == 1:
            return carry, None
        body = partial(self._iterate, False)
        numbers = first + jnp.arange(1, size, dtype=jnp.uint32)
        parts = hoisting.split(body, constants, carry, numbers[0])
        values, n = hoisting.ahead(parts, constants, numbers), size - 1
        return loops.loop(
            parts,
            n,
            packing.SMALL,
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
