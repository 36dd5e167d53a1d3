"""Training agents that differ in their seed alone, side by side."""

import contextlib
import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from kitae.base.algorithm.state import TrainingState
from kitae.base.common.interrupts import held_back
from kitae.base.common.pytrees import firm, n_bytes, owned
from kitae.base.recording.report import Report
from kitae.base.recording.statistics import EpisodeStatistics, History
from kitae.base.recording.subject import Subject
from kitae.base.rundir.directory import locked
from kitae.base.rundir.system import write_system
from kitae.base.training.functions import CompiledFunctions
from kitae.base.training.jax_driver import (
    Chunk,
    Session,
    counted,
    record,
    snapshot_of,
)
from kitae.base.training.jax_environments import JaxPrograms, training_constants

CACHED_BYTES = 2**19


class SeedRun(NamedTuple):
    """What the training of one seed gave.

    Attributes:
        seed: The seed.
        agent: As if trained alone with that seed.
        history: What happened.
    """

    seed: int
    agent: Any
    history: History


class Trainee(NamedTuple):
    """One of the seeds that are trained.

    Attributes:
        subject: What its recording knows of it.
        commit: Is given its newest state.
    """

    subject: Subject
    commit: Callable[[TrainingState], None]


class Group:
    """Seeds that are one batch of the compiled program.

    Args:
        functions: Of the agents.
        programs: Made for as many seeds.
        states: Where each seed begins; they share an empty memory.
        trainees: One for each seed.
        until: Environment steps at which the training ends.
        shown: Whether its first seed shows its progress.
    """

    def __init__(
        self,
        functions: CompiledFunctions,
        programs: JaxPrograms,
        states: Sequence[TrainingState],
        trainees: Sequence[Trainee],
        until: int,
        shown: bool,
    ) -> None:
        self._until = until
        self._states = list(states)
        self._schedule = functions.algorithm.schedule
        self.trainees = trainees
        self.statistics = [EpisodeStatistics(programs.env.num_envs) for _ in states]
        self.reports = [
            Report(
                trainee.subject,
                self.statistics[i],
                states[i],
                until,
                shown=shown and i == 0,
            )
            for i, trainee in enumerate(trainees)
        ]
        seeds = [trainee.subject.config.seed for trainee in trainees]
        self._constants = list(map(training_constants, states, seeds))
        together = stacked(self._constants)._replace(
            first_iteration=self._constants[0].first_iteration,
            first_step=self._constants[0].first_step,
        )
        n, empty_rows = len(states), functions.empty_rows(states[0])
        everything = states[0]._replace(
            state=stacked([training.state for training in states]),
            memory=stacked([states[0].memory] * n),
            pending=stacked([empty_rows] * n),
        )
        self._session = Session(functions, programs, everything, owned(together))

    def advance(self) -> Chunk:
        """Runs one chunk."""
        return self._session.advance(self._states[0].counters, self._until)

    def account(self, chunk: Chunk) -> None:
        """Counts and writes what it gave."""
        for i, trainee in enumerate(self.trainees):
            training, report = self._states[i], self.reports[i]
            before = training.counters.step
            counters = counted(self._schedule, training.counters, chunk)
            self._states[i] = training._replace(counters=counters)
            trainee.commit(self._states[i])
            record(self.statistics[i], chunk.steps, chunk.records[i])
            report.note(counters, None)
            report.after_updates({name: x[i] for name, x in chunk.infos.items()})
            report.after_step(before)

    def finish(self) -> list[History]:
        """Gives each agent what was trained; writes the last rows."""
        histories = []
        for i, trainee in enumerate(self.trainees):
            carry = jax.tree.map(lambda leaf, i=i: leaf[i], self._session.carry)
            trainee.commit(
                self._states[i]._replace(
                    state=carry.state,
                    memory=carry.memory,
                    pending=carry.pending,
                    environments=snapshot_of(
                        carry, self._constants[i], self.statistics[i]
                    ),
                )
            )
            self.reports[i].finish()
            counters = self._states[i].counters
            history = self.statistics[i].history(counters.step, counters.updates)
            histories.append(history)
        return histories


def train_seeds(
    functions: CompiledFunctions,
    programs: JaxPrograms,
    states: Sequence[TrainingState],
    trainees: Sequence[Trainee],
    until: int,
) -> list[History]:
    """Trains agents that differ in their seed alone, all by one program.

    On an accelerator all seeds are one batch. On a CPU a batch is as many as stay in a
    core's cache together, and the batches run on all cores.

    Args:
        functions: Of the agents.
        programs: For a batch of them.
        states: Where each seed begins; they share an empty memory.
        trainees: One for each seed.
        until: Environment steps of each agent.

    Returns:
        What happened, one for each seed, in order.
    """
    size = programs.n_seeds or 1
    groups = [
        Group(
            functions,
            programs,
            states[first : first + size],
            trainees[first : first + size],
            until,
            shown=first == 0,
        )
        for first in range(0, len(states), size)
    ]
    with contextlib.ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(os.cpu_count()))
        for group in groups:
            for (subject, _), report in zip(group.trainees, group.reports, strict=True):
                run_dir = subject.run_dir()
                stack.enter_context(locked(run_dir))
                write_system(run_dir, subject.agent, env_step=0)
                stack.enter_context(report)
        interrupt = stack.enter_context(held_back())
        step = 0
        while step < until:
            # What the first one compiles, the others find.
            chunks = [groups[0].advance(), *pool.map(Group.advance, groups[1:])]
            for group, chunk in zip(groups, chunks, strict=True):
                group.account(chunk)
            step = int(chunks[0].steps[-1])
            interrupt.raise_if_pressed()
        return [history for group in groups for history in group.finish()]


def batch_of_seeds(state: Any, n_seeds: int) -> int:
    """Returns how many seeds make a batch; it divides their number.

    Example:
        >>> import jax.numpy as jnp
        >>> batch_of_seeds(jnp.zeros(100), 1)
        1
    """
    if jax.default_backend() != "cpu":
        return n_seeds
    cached = CACHED_BYTES // max(n_bytes(state), 1)
    at_most = max(1, min(cached, n_seeds // (os.cpu_count() or 1)))
    return max(math.gcd(n_seeds, size) for size in range(1, at_most + 1))


def stacked(trees: Sequence[Any]) -> Any:
    """Stacks trees of equal leaves along a new axis in front, built as the first."""
    columns = zip(*map(jax.tree.leaves, trees), strict=True)
    leaves = [firm(jnp.stack([jnp.asarray(x) for x in column])) for column in columns]
    return jax.tree.unflatten(jax.tree.structure(trees[0]), leaves)
