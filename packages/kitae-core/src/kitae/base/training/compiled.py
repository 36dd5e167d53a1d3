"""The loops that train on environments which are JAX functions."""

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from kitae.base.common.pytrees import owned
from kitae.base.recording.run import running
from kitae.base.recording.saving import WORLD, World
from kitae.base.recording.statistics import EpisodeStatistics, History
from kitae.base.rundir.checkpoint import Saved
from kitae.base.training.host import check_n_envs, check_spaces, device_step, meet
from kitae.base.training.programs import (
    BAD_ACTION,
    BAD_OBSERVATION,
    OUTSIDE,
    Carry,
    Programs,
    training_constants,
)
from kitae.config.schedule import next_stop
from kitae.envs.functional import EnvState, JaxVectorEnv
from kitae.envs.observations import ObservationCheck

if TYPE_CHECKING:
    from kitae.base.agents.base import BaseAgent

CHUNK_SECONDS = 0.5
# Environments whose observations are compared with their bounds, after each chunk.
LOOKED_AT = 64
OUTSIDE_ACTION = (
    "action is outside its space: the agent must bring its actions into the space; for "
    "indices, often the Q-values are not finite"
)


class Chunk(NamedTuple):
    """What a chunk of iterations told.

    Attributes:
        before: The agent's environment steps before it.
        steps: `[n]` int64, the same after each iteration.
        told: float32 `[..., n, 2, n_envs]`; see `kitae.base.training.programs.pack`.
        infos: `[..., n_updates]` by name.
        n_updates: Updates, each of as many gradient updates as the config says.
    """

    before: int
    steps: np.ndarray
    told: np.ndarray
    infos: dict[str, np.ndarray]
    n_updates: int


class Session:
    """One training on JAX environments, chunk by chunk.

    Args:
        agent: Whose counters tell how far it is, and whose config how to go on.
        programs: For the environments, which are reset.
        state: What is trained.
        memory: What it learns from.
        pending: Rows to take in before the next update.
        constants: See `Constants`.
        resumed: Where the environments were, and what comes next, of a training that
            is resumed. None: they are reset.
    """

    def __init__(
        self,
        agent: "BaseAgent",
        programs: Programs,
        state: Any,
        memory: Any,
        pending: Any,
        constants: Any,
        resumed: World | None = None,
    ) -> None:
        self._agent = agent
        self._programs = programs
        self._constants = constants
        env, acted = resumed[:2] if resumed else programs.begin(state, constants)
        if not agent.learns_while_env_steps:
            pending = None
        self.carry = Carry(state, memory, env, acted, pending)
        if programs.devices is not None:
            self.carry = programs.devices.placed(self.carry)
            # Plain numbers go to every device of every process.
            self._constants = jax.tree.map(np.asarray, constants)
        self._pace = 0.0

    def advance(self, until: int) -> Chunk:
        """Runs one chunk: to `until`, or to where the host has something to do."""
        agent, programs = self._agent, self._programs
        n_envs, train_cfg = programs.env.num_envs, agent.config.train_cfg
        size, n_groups, update = next(self._phases(until))
        known = programs.knows(size, update)
        if not known:
            phases = ((size, update) for size, _, update in self._phases(until))
            programs.make(phases, self.carry, self._constants)
        loop = programs.loop(size, update)
        stop = next_stop(
            agent.step, until, train_cfg.log_frequency, train_cfg.save_frequency
        )
        n = min(n_groups, loop.length, -(-(stop - agent.step) // (n_envs * size)))
        alone = programs.n_seeds is None and jax.process_count() == 1
        if self._pace and alone:  # others than this one would have to run as many
            n = max(1, min(n, int(CHUNK_SECONDS / (self._pace * size))))
        start = time.perf_counter()
        self.carry, told = loop(self._constants, self.carry, agent.iteration, n)
        if programs.devices is not None:
            told = programs.devices.gathered(told)
        outcomes, infos = jax.tree.map(np.asarray, told)
        if known:
            self._pace = (time.perf_counter() - start) / (n * size)
        axis = 0 if programs.n_seeds is None else 1
        outcomes = outcomes.take(range(n), axis)
        shape = (*outcomes.shape[:axis], n * size, 2, n_envs)
        infos = {name: values.take(range(n), axis) for name, values in infos.items()}
        steps = agent.step + n_envs * np.arange(1, n * size + 1)
        return Chunk(
            agent.step, steps, outcomes.reshape(shape), infos, n if update else 0
        )

    def _phases(self, until: int) -> Iterator[tuple[int, int, bool]]:
        """Yields what comes until the end, as `_next_iterations` plans it."""
        agent, n_envs = self._agent, self._programs.env.num_envs
        step, iteration = agent.step, agent.iteration
        while step < until:
            left = -(-(until - step) // n_envs)
            size, n_groups, update = agent._next_iterations(step, iteration, left)
            yield size, n_groups, update
            iteration += size * n_groups
            step += size * n_groups * n_envs

    def saved(self) -> None:
        """Goes on with the agent's memory, which a checkpoint brought up to date."""
        agent, devices = self._agent, self._programs.devices
        pending = agent._no_rows if agent.learns_while_env_steps else None
        self.carry = self.carry._replace(memory=agent.memory, pending=pending)
        if devices is not None:
            self.carry = devices.placed(self.carry)


def train_compiled(
    agent: "BaseAgent",
    programs: Programs,
    n_env_steps: int,
    saved: Saved | None = None,
) -> History:
    """Trains until the agent has taken `n_env_steps` environment steps in all.

    Chunks of iterations are one program each; between them the host shows progress,
    writes metrics and saves.

    Args:
        agent: Trained in place.
        programs: For the environments.
        n_env_steps: Where to stop.
        saved: Of a training that is resumed: the environments are where it left them,
            if they were these. None: they are reset first.

    Returns:
        What happened in this call.

    Raises:
        TypeError: A function of the agent cannot be traced; the line is named.
        KeyboardInterrupt: Ctrl-C was pressed; the chunk was finished and saved.
        SystemExit: As much for SIGTERM.
    """
    check(agent, programs)
    first_step, first_updates = agent.step, agent.updates
    statistics = EpisodeStatistics(programs.env.num_envs)
    resumed = None
    constants = owned(training_constants(agent))
    if saved is not None and WORLD in saved:
        env, acted = jax.eval_shape(programs.begin, agent.state, constants)
        like = World(env, acted, constants, statistics.unfinished)
        resumed = saved.tree(WORLD, like)
        constants, statistics.unfinished = resumed.constants, resumed.unfinished
        agent._world = resumed
    else:
        agent._begin()
    pending = agent._pending or agent._no_rows
    session = Session(
        agent, programs, agent.state, agent.memory, pending, constants, resumed
    )
    seen = ObservationCheck(programs.env.single_observation_space)
    with running(agent, statistics, n_env_steps, saved) as run:
        while agent.step < n_env_steps and not run.stopped:
            chunk = session.advance(n_env_steps)
            run.is_sound = False
            take_over(agent, session.carry)
            count(agent, statistics, chunk, chunk.told)
            agent._world = world(session.carry, constants, statistics)
            run.report.after_updates(chunk.infos)
            run.is_sound = True
            look_at(session.carry.env, programs.env, seen, agent.iteration)
            if run.after_step(chunk.before):
                session.saved()
        run.finish()
    return statistics.history(agent.step - first_step, agent.updates - first_updates)


def take_over(agent: "BaseAgent", carry: Carry) -> None:
    """Gives an agent what was trained."""
    agent.state, agent.memory, agent._pending = carry.state, carry.memory, carry.pending
    # Known again once the chunk was found to be sound.
    agent._world = None


def world(carry: Carry, constants: Any, statistics: EpisodeStatistics) -> World:
    """Returns where a training's environments are, for a checkpoint."""
    return World(carry.env, carry.acted, constants, statistics.unfinished)


def check(agent: "BaseAgent", programs: Programs) -> None:
    """Refuses environments that do not fit, and an `explore` that cannot be traced."""
    env = programs.env
    meet(agent, env)
    check_spaces(agent, env)
    check_n_envs(agent, env.num_envs)
    observation = jax.eval_shape(env.initial, jax.random.key(0)).observation
    agent._host.act.check_traceable(
        agent.state,
        agent.interact_key,
        np.uint32(0),
        device_step(agent.step),
        observation,
        *agent._nothing_remembered(env.num_envs),
    )


def count(
    agent: "BaseAgent", statistics: EpisodeStatistics, chunk: Chunk, told: np.ndarray
) -> None:
    """Counts what a chunk told of one agent."""
    agent._passed(len(chunk.steps), chunk.n_updates)
    check_outcomes(told, chunk.steps)
    statistics.record_many(told[:, 0], told[:, 1] % BAD_ACTION > 0, chunk.steps)


def look_at(
    state: EnvState, env: JaxVectorEnv, check: ObservationCheck, iteration: int
) -> None:
    """Warns of observations outside the bounds of their space; once in a training."""
    if jax.process_count() > 1:
        return  # no process has all of them
    n = min(env.num_envs, LOOKED_AT)
    check(env.to_host(jax.tree.map(lambda x: x[:n], state.observation)), n, iteration)


def check_outcomes(told: np.ndarray, steps: np.ndarray) -> None:
    """Refuses what an environment must not give, and an agent not choose.

    Raises:
        ValueError: The environment and the step are named.
    """
    reward, flags = told[:, 0], told[:, 1].astype(np.int64)
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
