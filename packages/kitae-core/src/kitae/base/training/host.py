"""The loop that trains on environments which live on the host."""

from typing import TYPE_CHECKING, Any

import gymnasium as gym
import jax
import numpy as np
from gymnasium.vector import VectorEnv

from kitae.base.algorithm.seeding import Stream, env_seed
from kitae.base.algorithm.tracing import Acted
from kitae.base.recording.run import Run, running
from kitae.base.recording.statistics import EpisodeStatistics, History
from kitae.base.rundir.checkpoint import Saved
from kitae.base.training.by_loops import ByLoops
from kitae.config.schedule import next_stop
from kitae.envs import HostEnv, HostStep, as_vector_env
from kitae.envs.pettingzoo import PettingZooEnvs
from kitae.envs.videos import videos_into

if TYPE_CHECKING:
    from kitae.base.agents.base import BaseAgent

MAX_STEP = 2**31 - 1
# Some hundred microseconds.
MAX_LOOKS = 1_000


def checked_env(
    agent: "BaseAgent", env: VectorEnv | gym.Env | PettingZooEnvs
) -> HostEnv | PettingZooEnvs:
    """Wraps `env`, if its spaces and agents are the config's.

    Raises:
        ValueError: They are not.
    """
    meet(agent, env)
    if isinstance(env, PettingZooEnvs):
        check_spaces(agent, env)
        return env
    vector_env = as_vector_env(env)
    check_spaces(agent, vector_env)
    return HostEnv(vector_env, agent.config.env_cfg.worker_timeout)


def meet(agent: "BaseAgent", env: Any) -> None:
    """Learns the agents' names from their environment, if it has as many.

    Raises:
        ValueError: It has another number of agents than the config.
    """
    names = env.agent_names if isinstance(env, PettingZooEnvs) else (None,)
    wanted = agent.config.env_cfg.n_agents
    if len(names) != wanted:
        raise ValueError(
            f"env has n_agents = {len(names)}, but env_cfg.n_agents is {wanted}: see "
            "kitae.envs.pettingzoo.make_pettingzoo"
        )
    if wanted > 1:
        agent._agent_names = names


def check_spaces(agent: "BaseAgent", env: VectorEnv | PettingZooEnvs) -> None:
    """Refuses an environment whose spaces are not the config's.

    Raises:
        ValueError: They are not.
    """
    env_cfg = agent.config.env_cfg
    for name, space in (
        ("observation_space", env.single_observation_space),
        ("action_space", env.single_action_space),
    ):
        if getattr(env_cfg, name) != space:
            raise ValueError(
                f"env has the {name} {space}, but env_cfg.{name} is "
                f"{getattr(env_cfg, name)}"
            )


def check_n_envs(agent: "BaseAgent", n_envs: int) -> None:
    """Refuses another number of environments than the config's.

    Raises:
        ValueError: It is another.
    """
    wanted = agent.config.env_cfg.n_envs
    if n_envs != wanted:
        raise ValueError(
            f"env has {n_envs} environments, but env_cfg.n_envs is {wanted}"
        )


class Steps:
    """Steps the environments of a training, and counts.

    Args:
        agent: Whose counters.
        env: The environments.
        statistics: Of their episodes.
        until: Environment steps at which the training ends.
    """

    def __init__(
        self,
        agent: "BaseAgent",
        env: HostEnv | PettingZooEnvs,
        statistics: EpisodeStatistics,
        until: int,
    ) -> None:
        self.agent = agent
        self._env = env
        self._statistics = statistics
        self._until = until

    @property
    def device_step(self) -> np.int32:
        """The agent's environment steps as the device sees them."""
        return device_step(self.agent.step)

    @property
    def is_rendered(self) -> bool:
        """Whether the environments draw themselves."""
        env = self._env.env if isinstance(self._env, HostEnv) else self._env
        return getattr(env, "render_mode", None) is not None

    def reset(self) -> Any:
        """Starts the environments anew; returns what to act on."""
        agent, n_envs = self.agent, self.agent.config.env_cfg.n_envs
        seed = env_seed(agent.config.seed, Stream.TRAIN_ENV, agent.step)
        agent._begin()
        self._statistics.unfinished = np.zeros(n_envs), np.zeros(n_envs, np.int64)
        return self._env.reset(seed)

    def take(self, actions: np.ndarray) -> HostStep:
        """Takes one vector step."""
        agent = self.agent
        step = self._env.step(actions)
        whole = step.of_envs(agent.config.env_cfg.n_agents)
        agent._taken(step.valid, int(np.count_nonzero(whole.valid)))
        self._statistics.record(whole, agent.step)
        return step

    def follow(
        self, observation: Any, acted: Acted, actions: np.ndarray
    ) -> tuple[Any, Any, Any]:
        """Takes one vector step, whose rows the agent is to add.

        Args:
            observation: What was acted on.
            acted: What was chosen.
            actions: Those of `acted`, on the host.

        Returns:
            What to act on next: the observation, what is remembered, and where
            episodes begin; the latter two None for an agent that remembers nothing.
        """
        step, agent = self.take(actions), self.agent
        agent._pending = agent._rows(observation, acted, step), step.valid
        hidden_state = acted.next_hidden_state
        first = None if hidden_state is None else step.first
        return step.observation, hidden_state, first

    def next_stop(self) -> int:
        """Returns the next environment step that leaves something to do beside."""
        train_cfg = self.agent.config.train_cfg
        periods = train_cfg.log_frequency, train_cfg.save_frequency
        return next_stop(self.agent.step, self._until, *periods)


class StepByStep:
    """Takes vector steps one by one: where they cannot be part of one program.

    Off-policy, a step acts, sends off an update from all the rows so far, and steps
    the environments while the device learns. Only the actions are read back at every
    step. On-policy, the update comes before the action that its policy should choose.

    Args:
        steps: Steps the environments.
        run: Is told of updates.
    """

    def __init__(self, steps: Steps, run: Run) -> None:
        self._steps = steps
        self._report = run.report
        self._world: tuple[Any, Any, Any]

    def start(self, observation: Any, hidden_state: Any, first: Any) -> None:
        """Begins anew with what the environments' reset gave."""
        self._world = observation, hidden_state, first

    def advance(self) -> int:
        """Takes one step; returns the agent's environment steps before it."""
        agent, before = self._steps.agent, self._steps.agent.step
        observation = self._world[0]
        due = agent._update_due()
        first_learn = due and not agent.learns_while_env_steps
        if first_learn:
            self._report.after_update(agent._take_in(update=True))
        acted = agent._acted(*self._world, add=not due)
        host_actions = read_soon(acted.actions)
        if not first_learn:
            self._report.after_update(agent._take_in(update=due))
        self._world = self._steps.follow(observation, acted, host_actions)
        return before


def train_on_host(
    agent: "BaseAgent",
    env: VectorEnv | gym.Env | PettingZooEnvs,
    n_env_steps: int,
    saved: Saved | None = None,
) -> History:
    """Trains until the agent has taken `n_env_steps` environment steps in all.

    Args:
        agent: Trained in place; it holds the newest state whenever it is saved.
        env: The environments, reset first and left open.
        n_env_steps: Where to stop.
        saved: What a resumed training goes on from.

    Returns:
        What happened in this call.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed; the last step was finished and saved.
        SystemExit: As much for SIGTERM.
    """
    host_env = checked_env(agent, env)
    env_cfg = agent.config.env_cfg
    check_n_envs(agent, host_env.n_envs)
    first_step, first_updates = agent.step, agent.updates
    statistics = EpisodeStatistics(env_cfg.n_envs)
    steps = Steps(agent, host_env, statistics, n_env_steps)

    def start() -> tuple[Any, Any, Any]:
        return steps.reset(), *agent._nothing_remembered(env_cfg.n_rows)

    world = start()
    with running(agent, statistics, n_env_steps, saved) as run:
        videos_into(agent._own_run_dir() / "videos", env)
        driver = ByLoops(steps, run) if can_loop(agent) else StepByStep(steps, run)
        driver.start(*world)
        while agent.step < n_env_steps and not run.stopped:
            before = driver.advance()
            if run.after_step(before) and agent.config.train_cfg.reset_on_save:
                driver.start(*start())
        if not agent.learns_while_env_steps:
            # Of the last rollout, which may be full by now.
            run.report.after_update(agent._take_in(agent._update_due()))
        run.finish()
    return statistics.history(agent.step - first_step, agent.updates - first_updates)


def can_loop(agent: "BaseAgent") -> bool:
    """Whether many vector steps can be one program, and are faster so."""
    if jax.default_backend() != "cpu" or jax.process_count() > 1:
        return False
    # Rows are of what `explore` gives: with them it is known whether it is compiled.
    return (
        agent.learns_while_env_steps
        and agent._no_rows is not None
        and agent._host.act.traceable
    )


def read_soon(array: Any) -> np.ndarray:
    """Reads an array that is about to be there, and stays awake for it a little while.

    To fall asleep and be woken takes longer than a small network takes to act.
    """
    is_ready = getattr(array, "is_ready", None)  # numpy's always are
    looks = 0
    while is_ready is not None and not is_ready() and looks < MAX_LOOKS:
        looks += 1
    return np.asarray(array)


def device_step(step: int) -> np.int32:
    """The count as the device sees it: it stays at its largest, and never wraps."""
    return np.int32(min(step, MAX_STEP))
