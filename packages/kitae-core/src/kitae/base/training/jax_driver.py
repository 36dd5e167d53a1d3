"""Trains in environments that are JAX functions, by programs of many iterations."""

import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from kitae.base.algorithm.schedule import Plan
from kitae.base.algorithm.state import Counters, EnvSnapshot, TrainingState
from kitae.base.common.pytrees import owned
from kitae.base.recording.statistics import EpisodeStatistics
from kitae.base.training.driver import Advance
from kitae.base.training.functions import CompiledFunctions, act_arguments
from kitae.base.training.host_environments import (
    agent_names,
    check_n_envs,
    check_spaces,
)
from kitae.base.training.jax_environments import (
    BAD_ACTION,
    BAD_OBSERVATION,
    OUTSIDE,
    Constants,
    JaxPrograms,
    training_constants,
)
from kitae.base.training.programs import Carry
from kitae.base.xla import loops
from kitae.config import AlgoConfig
from kitae.config.schedule import next_stop
from kitae.envs.functional import EnvState, JaxVectorEnv
from kitae.envs.observations import ObservationCheck
from kitae.types import Info

CHUNK_SECONDS = 0.5
# Environments whose observations are compared with their bounds, after each chunk.
LOOKED_AT = 64
OUTSIDE_ACTION = (
    "action is outside its space: the agent must bring its actions into the space; for "
    "indices, often the Q-values are not finite"
)


class Chunk(NamedTuple):
    """What a chunk of iterations gave.

    Attributes:
        steps: `[n]` int64, the environment steps after each iteration.
        records: float32 `[..., n, 2, n_envs]`; see
            `kitae.base.training.jax_environments.pack`.
        infos: `[..., n_updates]` by name.
        n_updates: Updates, each of as many gradient updates as the config says.
    """

    steps: np.ndarray
    records: np.ndarray
    infos: dict[str, np.ndarray]
    n_updates: int


class Session:
    """Runs the programs of one training, or of several seeds, chunk by chunk.

    Args:
        functions: Of the agent.
        programs: For the environments.
        training: Where it begins, with the arrays of all seeds.
        constants: See `Constants`.
        snapshot: Where the environments are. None: they are reset.

    Attributes:
        carry: The newest.
    """

    def __init__(
        self,
        functions: CompiledFunctions,
        programs: JaxPrograms,
        training: TrainingState,
        constants: Constants,
        snapshot: EnvSnapshot | None = None,
    ) -> None:
        self._schedule = functions.algorithm.schedule
        self._train_cfg = functions.algorithm.config.train_cfg
        self._programs = programs
        self._constants = constants
        if snapshot is None:
            env, acted = programs.begin(training.state, constants)
        else:
            env, acted = snapshot.env, snapshot.acted
        pending = training.pending if self._schedule.overlaps else None
        self.carry = Carry(training.state, training.memory, env, acted, pending)
        self._place()
        # Seconds of an iteration, and the programs that were called.
        self._pace, self._called = 0.0, set[tuple[int, bool]]()

    def with_memory(self, memory: Any, pending: Any) -> None:
        """Continues with another memory."""
        self.carry = self.carry._replace(memory=memory, pending=pending)
        self._place()

    def _place(self) -> None:
        devices = self._programs.devices
        if devices is not None:
            self.carry = devices.placed(self.carry)
            # Plain numbers go to every device of every process.
            self._constants = jax.tree.map(np.asarray, self._constants)

    def advance(self, counters: Counters, until: int) -> Chunk:
        """Runs one chunk: to `until`, or to where the host has something to do.

        Args:
            counters: How far each seed is.
            until: Environment steps at which the training ends.
        """
        programs, train_cfg = self._programs, self._train_cfg
        n_envs = programs.env.num_envs
        plan = next(self._plans(counters, until))
        size, learns = plan.size, plan.learns
        if not programs.knows(size, learns):
            plans = self._plans(counters, until)
            kinds = ((plan.size, plan.learns) for plan in plans)
            programs.make(kinds, self._constants, self.carry)
        loop = programs.loop(size, learns)
        stop = next_stop(train_cfg, counters.step, until)
        n = -(-(stop - counters.step) // (n_envs * size))
        n = min(plan.n_groups, loop.length, n)
        alone = programs.n_seeds is None and jax.process_count() == 1
        if self._pace and alone:  # others than this one would have to run as many
            n = max(1, min(n, int(CHUNK_SECONDS / (self._pace * size))))
        start = time.perf_counter()
        span = loops.Span(plan.done, size - plan.cut)
        self.carry, given = loop(
            self._constants, self.carry, counters.iteration - plan.done, n, span
        )
        if programs.devices is not None:
            given = programs.devices.gathered(given)
        records, infos = jax.tree.map(np.asarray, given)
        if (size, learns) in self._called:  # a first call compiles
            self._pace = (time.perf_counter() - start) / (n * size)
        self._called.add((size, learns))
        axis = 0 if programs.n_seeds is None else 1
        shape = (*records.shape[:axis], -1, 2, n_envs)
        taken = range(plan.done, n * size - plan.cut)
        records = records.reshape(shape).take(taken, axis)
        n_updates = min(plan.n_updates, n)
        learned = infos.items() if n_updates else ()
        infos = {name: x.take(range(n_updates), axis) for name, x in learned}
        steps = counters.step + n_envs * np.arange(1, len(taken) + 1)
        return Chunk(steps, records, infos, n_updates)

    def _plans(self, counters: Counters, until: int) -> Iterator[Plan]:
        """Yields what comes until the end, as the schedule plans it."""
        n_envs, schedule = self._programs.env.num_envs, self._schedule
        while counters.step < until:
            plan = schedule.plan(counters, -(-(until - counters.step) // n_envs))
            yield plan
            counters = schedule.after_iterations(
                counters, plan.n_iterations, plan.n_updates
            )


class JaxDriver:
    """Trains one agent, a chunk of iterations at a time.

    Args:
        functions: Of the agent.
        programs: For the environments.
        training: Where it begins; its arrays are given up.
        seed: Of the training.
        snapshot: `(like) -> EnvSnapshot`, where a training that is resumed left the
            environments. None: they are reset.

    Raises:
        TypeError: A function of the agent cannot be traced; the line is named.
        ValueError: The environments do not fit the config.
    """

    info: Info | None = None

    def __init__(
        self,
        functions: CompiledFunctions,
        programs: JaxPrograms,
        training: TrainingState,
        seed: int,
        snapshot: Callable[[Any], EnvSnapshot] | None = None,
    ) -> None:
        algorithm = functions.algorithm
        self._functions, self._programs = functions, programs
        self._schedule = algorithm.schedule
        self.statistics = EpisodeStatistics(programs.env.num_envs)
        self.is_sound = True
        constants = owned(training_constants(training, seed))
        resumed = None
        if snapshot is not None:
            env, acted = jax.eval_shape(programs.begin, training.state, constants)
            unfinished = self.statistics.unfinished
            resumed = snapshot(EnvSnapshot(env, acted, constants, unfinished))
            constants, self.statistics.unfinished = resumed[2:]
            training = training._replace(environments=resumed)
        else:
            counters = self._schedule.after_reset(training.counters)
            training = functions.restarted(training)._replace(counters=counters)
        pending = training.pending or functions.empty_rows(training)
        self._training = training
        self._constants = constants
        self._session = Session(
            functions,
            programs,
            training._replace(pending=pending),
            constants,
            resumed,
        )
        self._seen = ObservationCheck(programs.env.single_observation_space)

    @property
    def step(self) -> int:
        """Environment steps so far."""
        return self._training.counters.step

    @property
    def training(self) -> TrainingState:
        """The newest state."""
        return self._training

    def advance(self, until: int, interrupted: Callable[[], bool]) -> Advance:
        """Runs one chunk of iterations.

        Raises:
            ValueError: The environments gave what they must not give, or the agent
                chose an action outside its space.
        """
        before, session = self._training, self._session
        chunk = session.advance(before.counters, until)
        carry = session.carry
        self.is_sound = False
        self._training = before._replace(
            state=carry.state,
            memory=carry.memory,
            pending=carry.pending,
            counters=counted(self._schedule, before.counters, chunk),
            environments=None,  # known again once the chunk is found to be sound
        )
        record(self.statistics, chunk.steps, chunk.records)
        snapshot = snapshot_of(carry, self._constants, self.statistics)
        self._training = self._training._replace(environments=snapshot)
        self.is_sound = True
        self._look_at(carry.env)
        return Advance(before.counters.step, chunk.infos)

    def settle(self) -> None:
        """Adds the rows of the newest iteration to the memory."""
        if self._training.pending is None:
            return
        self._training = self._functions.settled(self._training)
        empty = self._functions.empty_rows(self._training)
        self._session.with_memory(self._training.memory, empty)

    def reset(self) -> None:
        """Does nothing: a checkpoint has the environments."""

    def finish(self) -> None:
        """Does nothing: an update comes with the step that makes it due."""

    def _look_at(self, state: EnvState) -> None:
        """Warns of observations outside the bounds of their space, once a training."""
        if jax.process_count() > 1:
            return  # no process has all of them
        env = self._programs.env
        n = min(env.num_envs, LOOKED_AT)
        first = jax.tree.map(lambda x: x[:n], state.observation)
        self._seen(env.to_host(first), n, self._training.counters.iteration)


def snapshot_of(
    carry: Carry, constants: Constants, statistics: EpisodeStatistics
) -> EnvSnapshot:
    """Returns where a training's environments are, for a checkpoint."""
    return EnvSnapshot(carry.env, carry.acted, constants, statistics.unfinished)


def check_fits(
    functions: CompiledFunctions,
    config: AlgoConfig,
    env: JaxVectorEnv,
    training: TrainingState,
) -> None:
    """Refuses environments that do not fit, and an `explore` that cannot be traced.

    Raises:
        TypeError: A function of the agent cannot be traced; the line is named.
        ValueError: The environments do not fit the config.
    """
    agent_names(config, env)
    check_spaces(config, env)
    check_n_envs(config, env.num_envs)
    observation = jax.eval_shape(env.initial, jax.random.key(0)).observation
    remembered = functions.algorithm.nothing_remembered(env.num_envs)
    args = act_arguments(training, observation, *remembered)
    functions.act.check_traceable(*args)


def counted(schedule: Any, counters: Counters, chunk: Chunk) -> Counters:
    """Returns the counters after a chunk."""
    return schedule.after_iterations(counters, len(chunk.steps), chunk.n_updates)


def record(
    statistics: EpisodeStatistics, steps: np.ndarray, records: np.ndarray
) -> None:
    """Counts the episodes of a chunk.

    Args:
        statistics: Of one training.
        steps: `[n]`, the environment steps after each iteration.
        records: `[n, 2, n_envs]`, of the same training.

    Raises:
        ValueError: The environments gave what they must not give, or the agent chose an
            action outside its space; environment and step are named.
    """
    check_records(records, steps)
    statistics.record_many(records[:, 0], records[:, 1] % BAD_ACTION > 0, steps)


def check_records(records: np.ndarray, steps: np.ndarray) -> None:
    """Refuses what an environment must not give, and an agent not choose.

    Raises:
        ValueError: The environment and the step are named.
    """
    reward, flags = records[:, 0], records[:, 1].astype(np.int64)
    for wrong, message in (
        (flags & BAD_ACTION > 0, OUTSIDE_ACTION),
        (~np.isfinite(reward), "reward is not finite"),
        (flags & BAD_OBSERVATION > 0, "observation is not finite"),
        (flags & OUTSIDE > 0, "observation has an index outside its space"),
    ):
        if wrong.any():
            time_index, env = np.argwhere(wrong)[0]
            raise ValueError(
                f"environment {env}, at environment step {steps[time_index]}: its "
                f"{message}"
            )
