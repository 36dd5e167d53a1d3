"""The loop that trains on environments which live on the host."""

from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import VectorEnv

from kitae.base.checkpoint import Saved
from kitae.base.run import running
from kitae.base.seeding import Stream, env_seed
from kitae.base.statistics import EpisodeStatistics, History
from kitae.envs import HostEnv, as_vector_env
from kitae.envs.pettingzoo import PettingZooEnvs

if TYPE_CHECKING:
    from kitae.base.agent import BaseAgent

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


def train_on_host(
    agent: "BaseAgent",
    env: VectorEnv | gym.Env | PettingZooEnvs,
    n_env_steps: int,
    saved: Saved | None = None,
) -> History:
    """Trains until the agent has taken `n_env_steps` environment steps in all.

    Off-policy, one iteration acts, sends off an update from all the rows so far, and
    steps the environments while the device learns. Only the actions are read back at
    every step. On-policy, the update comes before the action that its policy should
    choose.

    Args:
        agent: Trained in place; it holds the newest state after every step.
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
    n_envs, n_agents = env_cfg.n_envs, env_cfg.n_agents
    check_n_envs(agent, host_env.n_envs)
    first_step, first_updates = agent.step, agent.updates
    statistics = EpisodeStatistics(n_envs)

    def start() -> tuple[Any, Any, Any]:
        seed = env_seed(agent.config.seed, Stream.TRAIN_ENV, agent.step)
        agent._begin()
        statistics.unfinished = np.zeros(n_envs), np.zeros(n_envs, np.int64)
        return host_env.reset(seed), *agent._nothing_remembered(env_cfg.n_rows)

    observation, hidden_state, first = start()
    with running(agent, statistics, n_env_steps, saved) as run:
        report = run.report
        while agent.step < n_env_steps:
            due = agent._update_due()
            first_learn = due and not agent.learns_while_env_steps
            if first_learn:
                report.after_update(agent._take_in(update=True))
            acted = agent._acted(observation, hidden_state, first, add=not due)
            host_actions = read_soon(acted.actions)
            if not first_learn:
                report.after_update(agent._take_in(update=due))
            step = host_env.step(host_actions)
            rows = agent._rows(
                observation,
                acted.actions,
                step.reward,
                step.terminated,
                step.next_observation,
                acted.log_probs,
                step.truncated,
                acted.hidden_state,
            )
            agent._pending = (rows, step.valid)
            observation, hidden_state = step.observation, acted.next_hidden_state
            first = None if hidden_state is None else step.first
            before, whole = agent.step, step.of_envs(n_agents)
            agent.step += int(np.count_nonzero(whole.valid))
            agent.iteration += 1
            agent.rows += step.valid
            statistics.record(whole, agent.step)
            if run.after_step(before) and agent.config.train_cfg.reset_on_save:
                observation, hidden_state, first = start()
        if not agent.learns_while_env_steps:
            # Of the last rollout, which may be full by now.
            report.after_update(agent._take_in(agent._update_due()))
        run.finish()
    return statistics.history(agent.step - first_step, agent.updates - first_updates)


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
