"""Trains on the host by programs of many vector steps, which call the environments."""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kitae.base.algorithm.acting import Acted
from kitae.base.algorithm.state import TrainingState, device_step
from kitae.base.common.pytrees import owned
from kitae.base.training.driver import Advance
from kitae.base.training.functions import CompiledFunctions, act_arguments
from kitae.base.training.host_calls import (
    CalledEnvironments,
    HostConstants,
    HostState,
    Stepper,
    goes_on,
)
from kitae.base.training.host_environments import HostEnvironments
from kitae.base.training.host_training import HostTraining
from kitae.base.training.programs import Carry, Functions, Limits, Programs
from kitae.base.xla import compiling
from kitae.base.xla.stepping import MAX_BYTES
from kitae.config.schedule import next_stop, steps_logged, warm_up

# How long the host waits at most before it looks whether there is something to do.
CHUNK_SECONDS = 0.25
# Vector steps that are sooner taken one by one than a program for them is compiled.
SHORT = 1_000
# Vector steps of one program.
MAX_LENGTH = 1_024


class HostPrograms(Programs):
    """The programs that train one agent in environments on the host.

    Args:
        functions: Of the agent, compiled; their traces are used again.
        names: Of several agents.

    Attributes:
        called: The environments as the programs see them.
        beside: Whether the environments step while an update runs.
        begin: Acts for the first time; see `kitae.base.algorithm.acting.ActFn`.
    """

    def __init__(self, functions: CompiledFunctions, names: Any) -> None:
        algorithm = functions.algorithm
        # With one update for many steps, two threads would wait for each other at each
        # step: that takes longer than what is gained.
        self.beside = algorithm.config.skip_steps == 1
        n_rows = algorithm.config.env_cfg.n_rows
        self.called = CalledEnvironments(n_rows, self.beside)
        # An environment may spend steps on resets, which do not count.
        steps = min(9 * steps_logged(algorithm.config) // 8 + 1, MAX_LENGTH)
        super().__init__(
            algorithm,
            Functions(functions.act.jitted, functions.add, functions.learn.function),
            self.called,
            Limits(steps, MAX_BYTES, quick_ahead_bytes=float("inf")),
            names=names,
            going=goes_on,
        )
        self.begin = jax.jit(
            functions.act.jitted,
            static_argnames="names",
            compiler_options=compiling.quickly_compiled(),
        )


class HostDriver(HostTraining):
    """Takes vector steps as `StepByStep` does, many in one program.

    Args:
        functions: Of the agent, compiled.
        programs: Made of them.
        environments: Of this training.
        training: Where it begins; its arrays are given up.
    """

    def __init__(
        self,
        functions: CompiledFunctions,
        programs: HostPrograms,
        environments: HostEnvironments,
        training: TrainingState,
    ) -> None:
        super().__init__(functions, environments, training)
        self._config = functions.algorithm.config
        self._programs = programs
        self._observation: Any
        self._acted: Acted
        self.reset()

    def advance(self, until: int, interrupted: Callable[[], bool]) -> Advance:
        """Takes steps until the host has something to do.

        A short warm-up is taken step by step: the program for it would take longer to
        compile.
        """
        learns = self.environments.update_due
        left = warm_up(self._config) - self.step
        if not learns and left <= SHORT * self._config.env_cfg.n_envs:
            return self._one_step()
        return self._many_steps(learns, until, interrupted)

    def reset(self) -> None:
        """Resets the environments, and acts on what they give."""
        self._act(*self.begin())

    def finish(self) -> None:
        """Does nothing: an update that is due comes with the next step."""

    def _act(self, observation: Any, hidden_state: Any, first: Any) -> None:
        training = self.training
        state, key, number, *rest = act_arguments(
            training, observation, hidden_state, first
        )
        acted = self._programs.begin(
            state, key, np.uint32(number), *rest, names=training.names
        )
        self._observation, self._acted = observation, owned(acted)

    def _one_step(self) -> Advance:
        """Takes one step that no update comes before, without a program of many."""
        before, acted = self.step, self._acted
        self.settle()
        actions = np.asarray(acted.env_actions)
        self._act(*self.take(self._observation, acted, actions))
        return Advance(before, {})

    def _many_steps(
        self, learns: bool, until: int, interrupted: Callable[[], bool]
    ) -> Advance:
        """Takes many steps in one program, whose groups begin with an update or not."""
        size = self._config.skip_steps if learns else 1
        constants, carry = self._arguments()
        kinds = dict.fromkeys([(self._config.skip_steps, True), (size, learns)])
        if not all(self._programs.knows(*kind) for kind in kinds):
            self._programs.make(kinds, constants, carry)
        program = self._programs.loop(size, learns)
        environments, ends_at = self.environments, time.perf_counter() + CHUNK_SECONDS
        stop = next_stop(self._config.train_cfg, self.step, until)

        def is_enough(n: int) -> bool:
            if environments.counters.step >= stop:
                return True
            if learns and n % size:
                return False  # a group that was begun is finished
            if n == size * program.length or environments.update_due != learns:
                return True
            return interrupted() or time.perf_counter() >= ends_at

        def run() -> Carry:
            number = environments.counters.iteration
            after, _ = program(constants, carry, number, program.length)
            return after

        stepper = Stepper(
            environments,
            self._observation,
            size if learns else None,
            is_enough,
            # To hand each step to this thread takes 50 us, which is a third of a step.
            in_program=not self._programs.beside and environments.any_thread,
        )
        with self._programs.called.calls.to(stepper):
            after = stepper.run(run)
        self.held = self.held._replace(
            state=after.state, memory=after.memory, pending=after.pending
        )
        self._observation, self._acted = after.env.observation, after.acted
        if learns:
            self.info = after.info
        if stepper.error is not None:
            raise stepper.error
        return Advance(stepper.before, {})

    def _arguments(self) -> tuple[HostConstants, Carry]:
        """Returns what a program takes, in arrays that it may write into."""
        training = self.training
        shapes = self.functions.info_shapes(training)
        carry = Carry(
            training.state,
            training.memory,
            HostState(self._observation, device_step(self.step), np.bool_(True)),
            self._acted,
            training.pending or self.functions.empty_rows(training),
            jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes),
        )
        # Arrays of numpy stay those of others.
        carry = jax.tree.map(
            lambda leaf: leaf if isinstance(leaf, jax.Array) else jnp.array(leaf), carry
        )
        return HostConstants(training.keys.interact, training.keys.learn), carry
