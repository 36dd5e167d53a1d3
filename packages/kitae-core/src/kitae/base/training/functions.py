"""An algorithm's functions, compiled for a caller that makes one call at each step."""

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np

from kitae.base.algorithm.acting import Acted, ActFn
from kitae.base.algorithm.algorithm import Algorithm
from kitae.base.algorithm.experience import row_spec
from kitae.base.algorithm.multi_agent import Names
from kitae.base.algorithm.state import TrainingState, device_step
from kitae.base.algorithm.tracing import UNTRACEABLE, explained
from kitae.base.common.memory import available_bytes, readable
from kitae.base.common.pytrees import n_bytes
from kitae.base.xla.stepping import HoistedFunction
from kitae.config.schedule import held_rows
from kitae.envs.observations import empty_observations
from kitae.types import Info, State


class CompiledFunctions:
    """An algorithm's functions, each compiled at its first call.

    Args:
        algorithm: Made when a subclass has set its own attributes.

    Attributes:
        algorithm: The same.
        act: `explore`, alone or with rows added in the same program.
        select: `select_action`.
        add: `add(memory, rows, valid) -> memory`; the memory is given up.
        learn: `learn(key_data, iteration, state, memory, rows, valid) -> (state,
            memory, info)` adds the rows first; state and memory are given up.
    """

    def __init__(self, algorithm: Algorithm) -> None:
        storage = algorithm.make_storage(1)
        add, learn = storage.add, algorithm.make_learn(storage)

        def add_and_learn(
            key_data: jax.Array,
            iteration: jax.Array,
            state: State,
            memory: Any,
            rows: Any,
            valid: jax.Array,
        ) -> tuple[State, Any, Info]:
            return learn(state, add(memory, rows, valid), key_data, iteration)

        self.algorithm = algorithm
        self.act = CompiledAct(algorithm.name, "explore", algorithm.explore, add)
        self.select = CompiledAct(
            algorithm.name, "select_action", algorithm.select_action
        )
        self.add = jax.jit(add, donate_argnums=0)
        self.learn = HoistedFunction(add_and_learn, donate=(0, 1))
        self._init = storage.init
        self._empty_rows: tuple[Any, np.ndarray] | None = None

    def empty_rows(self, training: TrainingState) -> tuple[Any, np.ndarray]:
        """Returns rows of zeros, and that none of them counts.

        Their shapes are those of what the spaces and `explore` give.

        Args:
            training: Any state of one.
        """
        if self._empty_rows is None:
            env_cfg = self.algorithm.config.env_cfg
            observation = empty_observations(env_cfg.observation_space, env_cfg.n_rows)
            remembered = self.algorithm.nothing_remembered(env_cfg.n_rows)
            args = act_arguments(training, observation, *remembered)
            acted = self.act.shapes(*args, names=training.names)
            self._empty_rows = self.algorithm.empty_rows(observation, acted)
        return self._empty_rows

    def info_shapes(self, training: TrainingState) -> Info:
        """Returns the shapes and dtypes of the info of an update.

        Raises:
            TypeError: A function of the user's cannot be compiled; the line is named.
            ValueError: A part of the info is no scalar.
        """
        name, keys = self.algorithm.name, training.keys
        with explained(f"{name}'s process_experience or update_step"):
            _, _, shapes = self.learn.eval_shape(
                keys.learn,
                0,
                training.state,
                training.memory,
                *self.empty_rows(training),
            )
        for part, shape in shapes.items():
            if shape.shape != ():
                raise ValueError(
                    f"update_step must return scalars in info, got {part} of shape "
                    f"{list(shape.shape)}"
                )
        return shapes

    def memory_init(self, training: TrainingState) -> Any:
        """Returns `init() -> memory`, compiled; its `eval_shape` makes no array."""
        rows, _ = self.empty_rows(training)
        return jax.jit(partial(self._init, row_spec(rows)))

    def prepared(self, training: TrainingState) -> TrainingState:
        """Returns a state with a memory.

        Raises:
            MemoryError: It would not fit.
        """
        if training.memory is not None:
            return training
        init = self.memory_init(training)
        wanted, available = n_bytes(init.eval_shape()), available_bytes()
        if wanted > available:
            n_held = held_rows(self.algorithm.config)[1]
            raise MemoryError(
                f"{n_held} transitions take {readable(wanted)}, but "
                f"{readable(available)} of memory are available"
            )
        return training._replace(memory=init())

    def restarted(self, training: TrainingState) -> TrainingState:
        """Returns a state for environments that are about to be reset.

        No sequence of rows continues across the reset. The memory before is given up.

        Raises:
            MemoryError: The memory would not fit.
        """
        training = self.settled(self.prepared(training))
        return training._replace(memory=self.algorithm.restart(training.memory))

    def settled(self, training: TrainingState) -> TrainingState:
        """Returns a state whose memory has all rows; the memory before is given up."""
        if training.pending is None:
            return training
        memory = self.add(training.memory, *training.pending)
        return training._replace(memory=memory, pending=None)


class CompiledAct:
    """`act(state, key_data, iteration, step, observation, hidden_state, first)`.

    A method that cannot be traced (it converts an array to numpy, or branches on a
    value) is called as it is at every step, after one warning that names it.

    Args:
        name: Of the agent's class, for messages.
        method: What is compiled, likewise.
        act: The pure function.
        add: What `and_add` calls too.

    Attributes:
        traceable: Whether it is compiled; known once it or `shapes` was called.
        jitted: `act`, as part of a program that is being traced; traced once.
    """

    def __init__(
        self,
        name: str,
        method: str,
        act: ActFn,
        add: Callable[..., Any] = lambda: None,
    ) -> None:
        self._what = f"{name}.{method}"
        self._act = act
        self._add = add
        self.jitted: Any = jax.jit(act, static_argnames="names")
        # By the number of rows: their shapes do not differ otherwise.
        self._hoisted: dict[tuple[int, Names | None], HoistedFunction] = {}
        self.traceable = True

    def __call__(
        self,
        state: Any,
        key_data: jax.Array,
        iteration: int,
        step: Any,
        observation: Any,
        hidden_state: Any,
        first: Any,
        names: Names | None = None,
    ) -> Acted:
        """Acts once."""
        rest = state, step, observation, hidden_state, first
        if self.traceable:
            try:
                hoisted = self._hoisted_of(observation, names)
                return hoisted(key_data, iteration, *rest)
            except UNTRACEABLE as error:
                self._give_up(error)
        number = np.uint32(iteration)
        return self._act(state, key_data, number, *rest[1:], names=names)

    def and_add(
        self,
        added: Sequence[Any],
        state: Any,
        key_data: jax.Array,
        iteration: int,
        step: Any,
        observation: Any,
        *remembered: Any,
        names: Names | None = None,
    ) -> tuple[Any, Acted]:
        """Acts once and calls `add(*added)`, in one program; only where `traceable`.

        The first of `added`, the memory, is given up.

        Returns:
            The new memory, and what acting gave.
        """
        rest = state, step, observation, *remembered
        hoisted = self._hoisted_of(observation, names)
        return hoisted.both(added, key_data, iteration, *rest)

    def _hoisted_of(self, observation: Any, names: Names | None) -> HoistedFunction:
        n_rows = jax.tree.leaves(observation)[0].shape[0]
        hoisted = self._hoisted.get((n_rows, names))
        if hoisted is None:
            hoisted = self._hoisted[n_rows, names] = HoistedFunction(
                self._of_number(names), beside=self._add, donate_beside=(0,)
            )
        return hoisted

    def _of_number(self, names: Names | None) -> Callable[..., Acted]:
        def act(key_data: Any, iteration: Any, state: Any, *rest: Any) -> Acted:
            return self.jitted(state, key_data, iteration, *rest, names=names)

        return act

    def shapes(
        self,
        state: Any,
        key_data: jax.Array,
        iteration: int,
        *rest: Any,
        names: Names | None = None,
    ) -> Any:
        """Returns what a call would, as shapes and dtypes."""
        args = state, key_data, np.uint32(iteration), *rest
        if self.traceable:
            try:
                return self.jitted.eval_shape(*args, names=names)
            except UNTRACEABLE as error:
                self._give_up(error)
        return self._act(*args, names=names)

    def check_traceable(
        self, state: Any, key_data: jax.Array, iteration: int, *rest: Any
    ) -> None:
        """Traces once.

        Raises:
            TypeError: It cannot be traced; the line is named, with the reason.
        """
        with explained(self._what):
            # The trace is kept.
            args = state, key_data, np.uint32(iteration), *rest
            self.jitted.eval_shape(*args, names=None)

    def _give_up(self, error: Exception) -> None:
        self.traceable = False
        reason = str(error).splitlines()[0]
        warnings.warn(
            f"{self._what} cannot be compiled and is called as it is at every step, "
            f"which is slower: {reason}",
            RuntimeWarning,
            stacklevel=4,
        )


def act_arguments(
    training: TrainingState, observation: Any, hidden_state: Any, first: Any
) -> tuple[Any, ...]:
    """Returns what `act` takes at a step of a training, but for the agents' names."""
    counters = training.counters
    return (
        training.state,
        training.keys.interact,
        counters.iteration % 2**32,
        device_step(counters.step),
        observation,
        hidden_state,
        first,
    )
