"""Playing whole episodes with the best actions an agent knows, on the host."""

import gymnasium as gym
import jax
import numpy as np
from gymnasium.vector import VectorEnv

from kitae.base.algorithm.seeding import Stream, env_seed, stream_key
from kitae.base.algorithm.state import TrainingState, device_step
from kitae.base.recording.statistics import EpisodeStatistics
from kitae.base.training.functions import CompiledFunctions
from kitae.base.training.host_environments import host_env
from kitae.base.training.step_by_step import read_soon
from kitae.envs.pettingzoo import PettingZooEnvs


def evaluate(
    functions: CompiledFunctions,
    training: TrainingState,
    env: VectorEnv | gym.Env | PettingZooEnvs,
    n_episodes: int,
    seed: int,
    max_episode_steps: int | None = None,
) -> np.ndarray:
    """Returns the returns of `n_episodes`; see `BaseAgent.evaluate`.

    Environment `e` plays `n_episodes // n_envs` episodes, the first ones one more:
    taking the first that end would favour short episodes. An environment whose episode
    was cut off waits, and all are reset once each of them waits or has played its
    share: a vector cannot reset some of its environments in every autoreset mode.
    """
    config = functions.algorithm.config
    envs = host_env(config, env)
    n_envs, n_agents = envs.n_envs, config.env_cfg.n_agents
    left = np.full(n_envs, n_episodes // n_envs)
    left[: n_episodes % n_envs] += 1

    key = jax.random.key_data(stream_key(seed, Stream.EVALUATE))
    step = device_step(training.counters.step)
    returns: list[list[float]] = [[] for _ in range(n_envs)]
    iteration = n_resets = 0

    def note(index: int, value: float) -> None:
        returns[index].append(value)
        left[index] -= 1

    while left.any():
        observation = envs.reset(env_seed(seed, Stream.EVALUATE_ENV, n_resets))
        n_resets += 1
        n_rows = n_envs * n_agents
        hidden_state, first = functions.algorithm.nothing_remembered(n_rows)
        statistics, n_known = EpisodeStatistics(n_envs), 0
        waits = np.zeros(n_envs, bool)
        while (plays := (left > 0) & ~waits).any():
            acted = functions.select(
                training.state,
                key,
                iteration,
                step,
                observation,
                hidden_state,
                first,
                names=training.names,
            )
            iteration += 1
            result = envs.step(read_soon(acted.env_actions))
            observation, hidden_state = result.observation, acted.next_hidden_state
            first = None if hidden_state is None else result.first
            whole = result.of_envs(n_agents)
            statistics.record(whole, 0)
            if np.count_nonzero(whole.terminated | whole.truncated):
                new = slice(n_known, None)
                n_known = len(statistics)
                for index, value in zip(
                    statistics.envs[new], statistics.returns[new], strict=True
                ):
                    if left[index] and plays[index]:
                        note(index, value)
            if max_episode_steps is not None:
                so_far, lengths = statistics.unfinished
                waits |= plays & (left > 0) & (lengths >= max_episode_steps)
                for index in np.flatnonzero(waits & plays):
                    note(int(index), float(so_far[index]))
    return np.array([value for mine in returns for value in mine])
