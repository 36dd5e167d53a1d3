"""Environments and agents small enough to know by heart."""

import itertools
from collections import Counter
from dataclasses import dataclass, replace
from typing import ClassVar

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import kitae.config as cfg
from kitae.base import OffPolicyAgent


class CountEnv(gym.Env):
    """Counts up by one at each step, and by a hundred at each reset.

    So a row that leads over a reset shows: its observations are not one apart. An
    episode's reward is the observation it left.
    """

    observation_space = Box(-1.0, np.inf, (1,), np.float32)
    action_space = Discrete(2)

    def __init__(self, length=3, truncate=False, first=0):
        self.length, self.truncate = length, truncate
        self.count, self.t = first - 100, 0
        self.actions = []
        self.seeds = []
        self.closed = False

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.seeds.append(seed)
        self.count += 100
        self.t = 0
        return self._observation(), {}

    def step(self, action):
        self.actions.append(action)
        reward = float(self.count)
        self.count += 1
        self.t += 1
        end = self.t == self.length
        return (
            self._observation(),
            reward,
            end and not self.truncate,
            end and self.truncate,
            {},
        )

    def close(self):
        self.closed = True

    def _observation(self):
        return np.array([self.count], np.float32)


# When an agent comes, when it leaves, and whether it is cut off then. The names are
# not sorted.
LIVES = {"b": (0, 4, True), "a": (0, 2, False), "late": (1, 3, False)}


def count_agents(n_envs=2, lives=LIVES, **spoil):
    """Environments of several agents who each count, as `CountEnv` does.

    Agent `i` of environment `e` begins at `100_000 * e + 1_000 * i`. An action should
    be 1 where its agent's count is odd, else 0; all others are counted as wrong.

    Args:
        n_envs: Copies.
        lives: Of the agents, as `LIVES`.
        spoil: Functions, by "observation" and so on, that spoil what a step returns.
    """
    pettingzoo = pytest.importorskip("pettingzoo", reason="PettingZoo is not installed")
    from kitae.envs.pettingzoo import PARTS, make_pettingzoo

    class CountAgents(pettingzoo.ParallelEnv):
        metadata: ClassVar = {"name": "count_agents"}
        possible_agents: ClassVar = list(lives)

        def __init__(self, first=0):
            self.first, self.count = first, -100
            self.seeds, self.n_wrong, self.n_steps = [], 0, Counter()

        def observation_space(self, agent):
            return CountEnv.observation_space

        def action_space(self, agent):
            return CountEnv.action_space

        def reset(self, seed=None, options=None):
            self.seeds.append(seed)
            self.count += 100
            self.t = 0
            self.agents = [name for name in lives if lives[name][0] == 0]
            infos = {name: {} for name in self.agents}
            return {name: self._seen(name) for name in self.agents}, infos

        def step(self, actions):
            there = list(self.agents)
            assert list(actions) == there
            counts = {name: int(self._seen(name)[0]) for name in there}
            self.n_wrong += sum(counts[name] % 2 != actions[name] for name in there)
            self.n_steps.update(there)
            self.count += 1
            self.t += 1
            here = there + [name for name in lives if lives[name][0] == self.t]
            ended = {name: lives[name][1] == self.t for name in here}
            self.agents = [name for name in here if not ended[name]]
            parts = (
                {name: self._seen(name) for name in here},
                {name: float(counts.get(name, 0)) for name in here},
                {name: ended[name] and not lives[name][2] for name in here},
                {name: ended[name] and lives[name][2] for name in here},
            )
            kinds = zip(PARTS, parts, strict=True)
            spoilt = [spoil.get(kind, dict)(part) for kind, part in kinds]
            return *spoilt, {name: {} for name in here}

        def _seen(self, name):
            first = self.first + 1_000 * self.possible_agents.index(name)
            return np.array([first + self.count], np.float32)

    numbers = itertools.count()
    return make_pettingzoo(lambda: CountAgents(100_000 * next(numbers)), n_envs)


MODES = [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP, AutoresetMode.DISABLED]


def count_envs(lengths=(3, 5), mode=AutoresetMode.SAME_STEP, truncate=False):
    makers = [
        lambda i=i, n=n: CountEnv(n, truncate, first=100_000 * i)
        for i, n in enumerate(lengths)
    ]
    return SyncVectorEnv(makers, autoreset_mode=mode)


@dataclass(frozen=True)
class TableParams:
    n_states: int = 1
    gamma: float = 0.9
    exploration: float = 0.5
    skip_steps: int = 1
    start_step: int = -1


def table_train_state(key, config, *, preprocess_fn=None, tabulate=False):
    return {"value": jnp.zeros(config.algo_params.n_states), "updates": 0}


class TableAgent(OffPolicyAgent):
    """Learns the value of each state in a table; acts at random.

    `traces` counts how often each function was traced.
    """

    def __init__(self, run_name, config, **kwargs):
        self.traces = Counter()
        super().__init__(
            run_name,
            config,
            table_train_state,
            self._explore_factory,
            self._process_factory,
            self._update_factory,
            **kwargs,
        )

    def _explore_factory(self, config):
        def explore(state, key, observations, exploration):
            self.traces["explore"] += 1
            n_envs = observations.shape[0]
            coin = jax.random.bernoulli(key, exploration, (n_envs,))
            return coin.astype(jnp.int32), jnp.full(n_envs, jnp.log(0.5))

        return explore

    def _process_factory(self, config):
        gamma, n_states = config.algo_params.gamma, config.algo_params.n_states

        def process(state, key, experience):
            self.traces["process"] += 1
            index = experience.observation[:, 0].astype(jnp.int32) % n_states
            following = experience.next_observation[:, 0].astype(jnp.int32) % n_states
            discount = gamma * (1.0 - experience.done)
            return index, experience.reward + discount * state["value"][following]

        return process

    def _update_factory(self, config):
        rate = config.update_cfg.learning_rate

        def update(state, key, batch):
            self.traces["update"] += 1
            index, target = batch
            value = state["value"]
            error = jnp.zeros_like(value).at[index].add(target - value[index])
            count = jnp.zeros_like(value).at[index].add(1.0)
            state["value"] = value + rate * error / jnp.maximum(count, 1.0)
            state["updates"] = state["updates"] + 1
            return state, {"loss_value": jnp.mean((target - value[index]) ** 2)}

        return update

    def explore(self, observation):
        key = self.interact_keys(observation)
        return self.explore_fn(
            self.state,
            key,
            observation,
            exploration=self.config.algo_params.exploration,
        )

    def select_action(self, observation):
        n_envs = observation.shape[0]
        return jnp.zeros(n_envs, jnp.int32), jnp.zeros(n_envs)


def make_config(env, seed=0, algo_params=None, n_env_steps=100, **changes):
    """A config for `env`; further arguments go to the part that has such a field."""
    update = cfg.UpdateConfig(learning_rate=0.1, max_buffer_size=50, batch_size=4)
    train = cfg.TrainConfig(n_env_steps=n_env_steps)
    params = algo_params or TableParams()
    for name, value in changes.items():
        if hasattr(update, name):
            update = replace(update, **{name: value})
        elif hasattr(train, name):
            train = replace(train, **{name: value})
        else:
            params = replace(params, **{name: value})
    return cfg.AlgoConfig(
        seed=seed,
        algo_params=params,
        update_cfg=update,
        train_cfg=train,
        env_cfg=cfg.EnvConfig(
            task_name="Count",
            observation_space=env.single_observation_space,
            action_space=env.single_action_space,
            n_envs=getattr(env, "num_envs", None) or env.n_envs,
            n_agents=getattr(env, "n_agents", 1),
        ),
    )


def make_agent(env, run_name="run", agent_type=TableAgent, **changes):
    return agent_type(run_name, make_config(env, **changes))


@pytest.fixture(autouse=True)
def _inside_tmp_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def helpers():
    """The classes and functions of this file: tests cannot import a conftest."""

    class Helpers:
        pass

    things = [CountEnv, count_envs, count_agents]
    things += [TableParams, TableAgent, table_train_state]
    for thing in [*things, make_config, make_agent]:
        setattr(Helpers, thing.__name__, staticmethod(thing))
    Helpers.MODES = MODES
    return Helpers


def pytest_generate_tests(metafunc):
    if "autoreset_mode" in metafunc.fixturenames:
        metafunc.parametrize("autoreset_mode", MODES, ids=lambda mode: mode.name)
