"""One iteration of a training, and the programs that run many of them."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from kitae.base.algorithm.acting import Acted
from kitae.base.algorithm.algorithm import Algorithm
from kitae.base.algorithm.multi_agent import Names
from kitae.base.algorithm.tracing import explained
from kitae.base.common.pytrees import n_bytes
from kitae.base.training.devices import Devices
from kitae.base.xla import compiling, hoisting, loops, packing


class Carry(NamedTuple):
    """What one iteration passes to the next.

    Attributes:
        state: The train state.
        memory: What the agent learns from.
        env: Where the environments are; its `observation` is what was acted on.
        acted: What was chosen for the next step.
        pending: Rows of the last step and which of them count, to be added before the
            next update. None for an agent that adds them at once.
        info: Of the newest update. None where each iteration returns its own.
    """

    state: Any
    memory: Any
    env: Any
    acted: Acted
    pending: Any
    info: Any = None


class Outcome(NamedTuple):
    """What a traced step of the environments gave.

    Attributes:
        env: Where they are now.
        step: An `EnvStep` or a `HostStep`.
        first: `[n_rows]` bool, where an episode begins.
        valid: `[n_rows]` bool, which rows count.
        record: What the host is to know of the step: an array, or None.
    """

    env: Any
    step: Any
    first: Any
    valid: Any
    record: Any


class TracedEnvironments(Protocol):
    """Environments as part of a program: JAX functions, or calls to the host."""

    def send(self, carry: Carry) -> Any:
        """Passes actions on, before an update; returns what `step` is given."""
        ...

    def step(
        self, constants: Any, carry: Carry, sent: Any, iteration: jax.Array, state: Any
    ) -> Outcome:
        """Takes one vector step.

        Args:
            constants: Of the training.
            carry: With the environments and what was chosen.
            sent: What `send` returned.
            iteration: uint32.
            state: The newest train state.
        """
        ...

    def n_steps(self, constants: Any, env: Any, iteration: jax.Array) -> jax.Array:
        """Returns int32, the environment steps before an iteration."""
        ...


class Functions(NamedTuple):
    """An agent's functions as parts of a program.

    Attributes:
        act: See `kitae.base.algorithm.acting.ActFn`.
        add: `add(memory, rows, valid) -> memory`.
        add_and_learn: `(key_data, iteration, state, memory, rows, valid) -> (state,
            memory, info)`.
    """

    act: Callable[..., Acted]
    add: Callable[..., Any]
    add_and_learn: Callable[..., Any]


def pure_functions(algorithm: Algorithm, storage: Any) -> Functions:
    """Returns an algorithm's functions for a memory, none of them compiled."""
    learn = algorithm.make_learn(storage)

    def add_and_learn(
        key_data: Any, iteration: Any, state: Any, memory: Any, rows: Any, valid: Any
    ) -> Any:
        return learn(state, storage.add(memory, rows, valid), key_data, iteration)

    return Functions(algorithm.explore, storage.add, add_and_learn)


class Limits(NamedTuple):
    """How large programs are.

    Attributes:
        steps: Vector steps that one program runs at most.
        bytes: For all that is drawn ahead and returned, of all seeds.
        quick_ahead_bytes: Draws of fewer bytes for a group are compiled quickly.
    """

    steps: int
    bytes: int
    quick_ahead_bytes: float


class Programs:
    """The programs that train one agent in one kind of environments.

    An iteration adds the rows of the last step, learns, steps the environments and acts
    for the next step, with the parameters just learned. On-policy, it adds and learns
    after the step. So nothing reads parameters that are then overwritten, and nothing
    need be copied. A program runs groups of iterations, each with one update or none.

    Args:
        algorithm: Of the agent.
        functions: Its functions, for the memory that is used.
        environments: The traced ones.
        limits: How large programs are.
        names: Of several agents.
        n_seeds: Trainings side by side in one program, each leaf of a carry with an
            axis more in front. None: one, without that axis.
        seeded: The axis of each constant that differs from seed to seed, or None.
        devices: Over which the environments, the replay and the batches are split.
        going: Says of a carry whether there is one more step; for programs that call
            the host. Default: always.
    """

    def __init__(
        self,
        algorithm: Algorithm,
        functions: Functions,
        environments: TracedEnvironments,
        limits: Limits,
        *,
        names: Names | None = None,
        n_seeds: int | None = None,
        seeded: Any = None,
        devices: Devices | None = None,
        going: Callable[[Carry], jax.Array] | None = None,
    ) -> None:
        self._algorithm = algorithm
        self._functions = functions
        self._environments = environments
        self._limits = limits
        self._names = names
        self._going = going
        self._small = 0 if going is None else packing.SMALL
        self._seeded = seeded
        self.n_seeds = n_seeds
        self.devices = devices
        self._loops: dict[tuple[int, bool], loops.Loop] = {}

    def make(
        self, kinds: Iterable[tuple[int, bool]], constants: Any, carry: Carry
    ) -> None:
        """Makes the programs of a training; each is compiled at its first call.

        Args:
            kinds: Of each program, the iterations in a group, at least 1, and whether
                each group has one update.
            constants: What stays the same through the training.
            carry: What it starts from.
        """
        for size, learns in kinds:
            if self.knows(size, learns):
                continue
            whole = loops.Span(jnp.int32(0), jnp.int32(size))
            name = self._algorithm.name
            with explained(f"{name}'s explore, process_experience or update_step"):
                parts = hoisting.split(
                    partial(self._group, size, learns),
                    (self._of_one_seed(constants, self._seeded), whole),
                    self._of_one_seed(carry, 0),
                    jnp.uint32(0),
                    self._limits.bytes // (self.n_seeds or 1),
                )
            self._loops[size, learns] = self._made(parts, size, learns)

    def loop(self, size: int, learns: bool) -> loops.Loop:
        """Returns the program that runs groups of iterations; see `make`."""
        return self._loops[size, learns]

    def knows(self, size: int, learns: bool) -> bool:
        """Whether this program was made before."""
        return (size, learns) in self._loops

    def _made(self, parts: hoisting.Split, size: int, learns: bool) -> loops.Loop:
        limits, n_seeds = self._limits, self.n_seeds or 1
        bytes_per_group = (parts.bytes_ahead + n_bytes(parts.y)) * n_seeds
        length = loops.n_groups(size, limits.steps, bytes_per_group, limits.bytes)
        given = self._seeded, None
        ahead = self.over_seeds(partial(hoisting.ahead, parts), (given, None))
        loop = self.over_seeds(
            partial(loops.loop, parts, length, going=self._going, small=self._small),
            (given, 0, None, 0, None),
        )
        quickly = compiling.quickly_compiled()
        few_bytes = parts.bytes_ahead < limits.quick_ahead_bytes
        warms_up = self._algorithm.schedule.overlaps and not learns
        return loops.Loop(
            jax.jit(
                ahead,
                compiler_options=quickly if few_bytes else {},
                out_shardings=None if self.devices is None else self.devices.everywhere,
            ),
            jax.jit(
                loop,
                donate_argnums=1,
                compiler_options=quickly if warms_up else {},
            ),
            size,
            length,
        )

    def over_seeds(self, function: Callable[..., Any], in_axes: Any) -> Any:
        """Returns the function of all seeds, each of which has its part."""
        return function if self.n_seeds is None else jax.vmap(function, in_axes=in_axes)

    def _of_one_seed(self, tree: Any, axes: Any) -> Any:
        if self.n_seeds is None:
            return tree
        return jax.tree.map(
            lambda axis, part: part if axis is None else _first(part),
            axes,
            tree,
            is_leaf=lambda axis: axis is None,
        )

    def _group(
        self,
        size: int,
        learns: bool,
        given: tuple[Any, loops.Span],
        carry: Carry,
        first: jax.Array,
    ) -> tuple[Carry, Any]:
        """Runs `size` iterations with one update: first, or last where it must wait.

        Of these only those in the span are run: so a training that stopped within a
        group continues in the same program, to the same bits.
        """
        constants, span = given
        at = 0 if self._algorithm.schedule.overlaps else size - 1
        # The host stops where it likes, and never begins within a group.
        is_whole = size == 1 or self._going is not None
        records, info = [], {}
        parts = (0, at, False), (at, at + 1, learns), (at + 1, size, False)
        for start, stop, learning in parts:
            if start == stop:
                continue
            body = partial(self._iterate, learning)
            numbers = first + jnp.arange(start, stop, dtype=jnp.uint32)
            run = self._once if is_whole and start == at else self._many
            begin, end = (jnp.clip(x, start, stop) - start for x in span)
            carry, (record, new) = run(body, constants, carry, numbers, begin, end)
            records += [] if record is None else [record]
            if start == at:
                info = jax.tree.map(lambda x: x[0], new)
        return carry, (jnp.concatenate(records) if records else None, info)

    def _once(
        self, body: Any, constants: Any, carry: Carry, numbers: jax.Array, *_: Any
    ) -> tuple[Carry, Any]:
        """Runs one iteration."""
        carry, given = body(constants, carry, numbers[0])
        return carry, jax.tree.map(lambda x: x[None], given)

    def _many(
        self,
        body: Any,
        constants: Any,
        carry: Carry,
        numbers: jax.Array,
        begin: jax.Array,
        end: jax.Array,
    ) -> tuple[Carry, Any]:
        """Runs iterations in a loop, from one to before another."""
        parts = hoisting.split(body, constants, carry, numbers[0])
        values = hoisting.ahead(parts, constants, numbers)
        n = len(numbers)
        return loops.loop(
            parts,
            n,
            constants,
            carry,
            numbers,
            values,
            end,
            begin,
            self._going,
            self._small,
        )

    def _iterate(
        self, learns: bool, constants: Any, carry: Carry, iteration: jax.Array
    ) -> tuple[Carry, tuple[Any, dict[str, jax.Array]]]:
        """Takes one step, and learns before it, or after it where it must wait."""
        add, add_and_learn = self._functions.add, self._functions.add_and_learn
        overlaps, environments = self._algorithm.schedule.overlaps, self._environments
        state, memory, info, acted = carry.state, carry.memory, {}, carry.acted

        def take_in(rows: Any, valid: Any, number: jax.Array) -> Any:
            if not learns:
                return state, add(memory, rows, valid), info
            key = constants.learn_key
            return add_and_learn(key, number, state, memory, rows, valid)

        following = iteration + 1
        sent = environments.send(carry)
        if overlaps:
            state, memory, info = take_in(carry.pending[0], carry.pending[1], iteration)
        given = environments.step(constants, carry, sent, iteration, state)
        rows = self._algorithm.rows(carry.env.observation, acted, given.step)
        pending = rows, given.valid
        if not overlaps:
            # The host stops where rows do not count: they are learned from no more.
            pending = None
            state, memory, info = take_in(rows, None, following)
        remembered = acted.next_hidden_state
        acting = self._functions.act(
            state,
            constants.interact_key,
            following,
            environments.n_steps(constants, given.env, following),
            given.env.observation,
            remembered,
            None if remembered is None else given.first,
            names=self._names,
        )
        after = Carry(state, memory, given.env, acting, pending)
        if carry.info is not None:
            after, info = after._replace(info=info or carry.info), {}
        if self.devices is not None:
            after = self.devices.constrained(after)
        return after, (given.record, info)


def _first(tree: Any) -> Any:
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), tree
    )
