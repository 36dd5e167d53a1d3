"""The environments of a training that live on the host."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import VectorEnv

from kitae.base.algorithm.algorithm import Algorithm
from kitae.base.algorithm.multi_agent import Names
from kitae.base.algorithm.seeding import Stream, env_seed
from kitae.base.algorithm.state import Counters
from kitae.base.recording.statistics import EpisodeStatistics
from kitae.config import AlgoConfig
from kitae.envs import HostEnv, HostStep, as_vector_env
from kitae.envs.pettingzoo import PettingZooEnvs
from kitae.envs.threads import may_step_anywhere


def host_env(
    config: AlgoConfig, env: VectorEnv | gym.Env | PettingZooEnvs
) -> HostEnv | PettingZooEnvs:
    """Wraps `env`, if its spaces and agents are the config's.

    Raises:
        ValueError: They are not.
    """
    agent_names(config, env)
    if isinstance(env, PettingZooEnvs):
        check_spaces(config, env)
        return env
    vector_env = as_vector_env(env)
    check_spaces(config, vector_env)
    return HostEnv(vector_env, config.env_cfg.worker_timeout)


def agent_names(config: AlgoConfig, env: Any) -> Names | None:
    """Returns the names of the agents in an environment; None if there is one agent.

    Raises:
        ValueError: It has another number of agents than the config.
    """
    names = env.agent_names if isinstance(env, PettingZooEnvs) else (None,)
    wanted = config.env_cfg.n_agents
    if len(names) != wanted:
        raise ValueError(
            f"env has n_agents = {len(names)}, but env_cfg.n_agents is {wanted}: see "
            "kitae.envs.pettingzoo.make_pettingzoo"
        )
    return names if wanted > 1 else None


def check_spaces(config: AlgoConfig, env: VectorEnv | PettingZooEnvs) -> None:
    """Refuses an environment whose spaces are not the config's.

    Raises:
        ValueError: They are not.
    """
    for name, space in (
        ("observation_space", env.single_observation_space),
        ("action_space", env.single_action_space),
    ):
        if getattr(config.env_cfg, name) != space:
            raise ValueError(
                f"env has the {name} {space}, but env_cfg.{name} is "
                f"{getattr(config.env_cfg, name)}"
            )


def check_n_envs(config: AlgoConfig, n_envs: int) -> None:
    """Refuses another number of environments than the config's.

    Raises:
        ValueError: It is another.
    """
    wanted = config.env_cfg.n_envs
    if n_envs != wanted:
        raise ValueError(
            f"env has {n_envs} environments, but env_cfg.n_envs is {wanted}"
        )


class HostEnvironments:
    """Steps the environments of a training, and counts.

    Args:
        algorithm: Of the agent.
        env: The environments.
        seed: Of the training.
        counters: How far the training is.

    Attributes:
        counters: The newest.
        statistics: Of the episodes of this training.
        any_thread: Whether it does not matter which thread steps them.
    """

    def __init__(
        self,
        algorithm: Algorithm,
        env: HostEnv | PettingZooEnvs,
        seed: int,
        counters: Counters,
    ) -> None:
        check_n_envs(algorithm.config, env.n_envs)
        self.counters = counters
        self.statistics = EpisodeStatistics(env.n_envs)
        self.any_thread = isinstance(env, HostEnv) and may_step_anywhere(env.env)
        self._env = env
        self._seed = seed
        self._n_agents = algorithm.config.env_cfg.n_agents
        self._schedule = algorithm.schedule

    def reset(self) -> Any:
        """Starts the environments anew; returns what to act on."""
        n_envs = self._env.n_envs
        seed = env_seed(self._seed, Stream.TRAIN_ENV, self.counters.step)
        self.counters = self._schedule.after_reset(self.counters)
        self.statistics.unfinished = np.zeros(n_envs), np.zeros(n_envs, np.int64)
        return self._env.reset(seed)

    def step(self, actions: np.ndarray) -> HostStep:
        """Takes one vector step."""
        step = self._env.step(actions)
        whole = step.of_envs(self._n_agents)
        self.counters = self._schedule.after_step(
            self.counters, step.valid, int(np.count_nonzero(whole.valid))
        )
        self.statistics.record(whole, self.counters.step)
        return step

    def learned(self) -> None:
        """Counts an update."""
        self.counters = self._schedule.after_update(self.counters)

    @property
    def update_due(self) -> bool:
        """Whether to learn before the next step."""
        return self._schedule.due(self.counters)
