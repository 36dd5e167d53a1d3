"""Training agents that differ in their seed alone, side by side."""

import contextlib
import copy
import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp

from kitae.base.algorithm.seeding import Stream, stream_key
from kitae.base.common.interrupts import held_back
from kitae.base.common.pytrees import firm, n_bytes, owned
from kitae.base.recording.report import Report
from kitae.base.recording.statistics import EpisodeStatistics, History
from kitae.base.rundir.directory import locked
from kitae.base.rundir.system import write_system
from kitae.base.training.compiled import Chunk, Session, check, count, take_over, world
from kitae.base.training.programs import Programs, training_constants
from kitae.envs.functional import JaxVectorEnv

if TYPE_CHECKING:
    from kitae.base.agents.base import BaseAgent

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


class Group:
    """Seeds that are one batch of the compiled program.

    Args:
        agents: One for each seed.
        programs: Made for as many seeds.
        memory: An empty one.
        no_rows: Rows that do not count.
        n_env_steps: Environment steps of each agent.
        shown: Whether its first agent shows its progress.
    """

    def __init__(
        self,
        agents: Sequence["BaseAgent"],
        programs: Programs,
        memory: Any,
        no_rows: Any,
        n_env_steps: int,
        shown: bool,
    ) -> None:
        self.agents = agents
        self._until = n_env_steps
        for agent in agents:
            agent.memory, agent._no_rows = memory, no_rows
        self.statistics = [EpisodeStatistics(programs.env.num_envs) for _ in agents]
        self.reports = [
            Report(agent, statistics, n_env_steps, shown=shown and agent is agents[0])
            for agent, statistics in zip(agents, self.statistics, strict=True)
        ]
        self._constants = [training_constants(agent) for agent in agents]
        together = stacked(self._constants)._replace(
            first_iteration=self._constants[0].first_iteration,
            first_step=self._constants[0].first_step,
        )
        self._session = Session(
            agents[0],
            programs,
            stacked([agent.state for agent in agents]),
            stacked([memory] * len(agents)),
            stacked([no_rows] * len(agents)),
            owned(together),
        )

    def advance(self) -> Chunk:
        """Runs one chunk."""
        return self._session.advance(self._until)

    def account(self, chunk: Chunk) -> None:
        """Counts and writes what it told."""
        for i, agent in enumerate(self.agents):
            count(agent, self.statistics[i], chunk, chunk.told[i])
            mine = {name: values[i] for name, values in chunk.infos.items()}
            self.reports[i].after_updates(mine)
            self.reports[i].after_step(chunk.before, agent.step)

    def results(self) -> list[SeedRun]:
        """Gives each agent what was trained."""
        runs = []
        for i, agent in enumerate(self.agents):
            mine = jax.tree.map(lambda leaf, i=i: leaf[i], self._session.carry)
            take_over(agent, mine)
            agent._world = world(mine, self._constants[i], self.statistics[i])
            self.reports[i].finish()
            history = self.statistics[i].history(agent.step, agent.updates)
            runs.append(SeedRun(agent.config.seed, agent, history))
        return runs


def train_seeds(
    agent: "BaseAgent", env: JaxVectorEnv, n_env_steps: int, seeds: Sequence[int]
) -> list[SeedRun]:
    """Trains agents that differ in their seed alone, all by one program.

    On an accelerator all seeds are one batch. On a CPU a batch is as many as stay in a
    core's cache together, and the batches run on all cores.

    Args:
        agent: What they are like; it is not trained itself.
        env: The environments of each.
        n_env_steps: Environment steps of each agent.
        seeds: Of the agents.

    Returns:
        One result for each seed, in order.
    """
    # One that has trained may have rows, which are its own.
    agent = copy.copy(agent)
    agent._start()
    agent._begin()
    size = batch_of_seeds(agent.state, len(seeds))
    programs = Programs(agent, env, n_seeds=size)
    check(agent, programs)
    agents = with_seeds(agent, seeds)
    groups = [
        Group(
            agents[first : first + size],
            programs,
            agent.memory,
            agent._no_rows,
            n_env_steps,
            shown=first == 0,
        )
        for first in range(0, len(agents), size)
    ]
    with contextlib.ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(os.cpu_count()))
        for group in groups:
            for one, report in zip(group.agents, group.reports, strict=True):
                run_dir = one._own_run_dir()
                stack.enter_context(locked(run_dir))
                write_system(run_dir, one)
                stack.enter_context(report)
        interrupt = stack.enter_context(held_back())
        while agents[0].step < n_env_steps:
            # What the first one compiles, the others find.
            chunks = [groups[0].advance(), *pool.map(Group.advance, groups[1:])]
            for group, chunk in zip(groups, chunks, strict=True):
                group.account(chunk)
            interrupt.raise_if_pressed()
        return [run for group in groups for run in group.results()]


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


def with_seeds(agent: "BaseAgent", seeds: Sequence[int]) -> list["BaseAgent"]:
    """Returns new agents of an agent's config, one for each seed."""

    def leaves(key: jax.Array) -> list[jax.Array]:
        return [firm(leaf) for leaf in jax.tree.leaves(agent._make_state(key))]

    keys = jnp.stack([stream_key(seed, Stream.INIT) for seed in seeds])
    columns = jax.jit(jax.vmap(leaves))(keys)
    # What they share: programs that are traced once.
    _ = agent._host
    structure, agents = jax.tree.structure(agent.state), []
    for i, seed in enumerate(seeds):
        new = copy.copy(agent)
        new.config = replace(agent.config, seed=seed)
        new.run_name = f"{agent.run_name}-seed{seed}"
        new.state = jax.tree.unflatten(structure, [column[i] for column in columns])
        new._start()
        agents.append(new)
    return agents


def stacked(trees: Sequence[Any]) -> Any:
    """Stacks trees of equal leaves along a new axis in front, built as the first."""
    columns = zip(*map(jax.tree.leaves, trees), strict=True)
    leaves = [firm(jnp.stack([jnp.asarray(x) for x in column])) for column in columns]
    return jax.tree.unflatten(jax.tree.structure(trees[0]), leaves)
