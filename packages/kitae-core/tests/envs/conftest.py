"""One scripted environment, written for each family of environments.

It counts up by one at each step, and starts at some hundred at each reset, which says
how long the episode is and how it ends. So a row that leads over a reset shows, and an
episode's first observation tells all that must follow. A step's reward is the count
that it left.
"""

from functools import cached_property
from typing import NamedTuple

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.experimental.functional import FuncEnv
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import TimeLimit

from kitae.envs.functional import JaxVectorEnv

SPACE = Box(-np.inf, np.inf, (1,), np.float32)


def length_of(start):
    return 2 + start // 100 % 3


def ends_of(start):
    """Whether it terminates and whether it is truncated: one of them, or both."""
    kind = start // 100 % 5 % 3
    return kind != 1, kind != 0


class Count(NamedTuple):
    count: jax.Array
    start: jax.Array


def first(key):
    start = 100 * jax.random.randint(key, (), 0, 10_000)
    return Count(start, start)


def following(state):
    return state._replace(count=state.count + 1)


def seen(state):
    return state.count[None].astype(jnp.float32)


def flags(state):
    ended = state.count - state.start == length_of(state.start)
    terminates, truncates = ends_of(state.start)
    return ended & terminates, ended & truncates


class HostScript(gym.Env):
    observation_space, action_space = SPACE, Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.start = self.count = 100 * int(self.np_random.integers(10_000))
        return np.array([self.count], np.float32), {}

    def step(self, action):
        self.count += 1
        ended = self.count - self.start == length_of(self.start)
        terminates, truncates = ends_of(self.start)
        observation = np.array([self.count], np.float32)
        reward = float(self.count - 1)
        return observation, reward, ended and terminates, ended and truncates, {}


def gymnasium_script(n_envs, limit=None):
    def one():
        return HostScript() if limit is None else TimeLimit(HostScript(), limit)

    return SyncVectorEnv([one] * n_envs, autoreset_mode=AutoresetMode.SAME_STEP)


class Script(FuncEnv):
    observation_space, action_space = SPACE, Discrete(2)

    def initial(self, rng, params=None):
        return first(rng)

    def transition(self, state, action, rng, params=None):
        return following(state)

    def observation(self, state, rng, params=None):
        return seen(state)

    def reward(self, state, action, next_state, rng, params=None):
        return state.count

    def terminal(self, state, rng, params=None):
        return flags(state)[0]

    def truncated(self, state, rng, params=None):
        return flags(state)[1]


def functional_script(n_envs, limit=None, **kwargs):
    return JaxVectorEnv(Script(), n_envs, limit, **kwargs)


def gymnax_script(n_envs, limit=None, **kwargs):
    """Here the limit is gymnax's own."""
    pytest.importorskip("gymnax", reason="gymnax is not installed")
    from gymnax.environments import environment, spaces

    from kitae.envs.gymnax import GymnaxFuncEnv

    class GymnaxScript(environment.Environment):
        def reset_env(self, key, params):
            state = first(key)
            return seen(state), (state, 0)

        def step_env(self, key, state, action, params):
            state, time = following(state[0]), state[1] + 1
            reward = state.count - 1
            return seen(state), (state, time), reward, flags(state)[0], {}

        def is_truncated(self, state, params):
            return flags(state[0])[1] | (state[1] >= params.max_steps_in_episode)

        def observation_space(self, params):
            return spaces.Box(-jnp.inf, jnp.inf, (1,), jnp.float32)

        def action_space(self, params):
            return spaces.Discrete(2)

    params = environment.EnvParams(max_steps_in_episode=limit or 1_000)
    return JaxVectorEnv(GymnaxFuncEnv(GymnaxScript(), params), n_envs, **kwargs)


def jumanji_script(n_envs, limit=None, **kwargs):
    pytest.importorskip("jumanji", reason="jumanji is not installed")
    from jumanji import specs
    from jumanji.env import Environment
    from jumanji.types import restart, termination, transition, truncation

    from kitae.envs.jumanji import JumanjiFuncEnv

    class JumanjiScript(Environment):
        def reset(self, key):
            state = first(key)
            return state, restart(seen(state))

        def step(self, state, action):
            reward = state.count.astype(jnp.float32)
            state = following(state)
            terminated, truncated = flags(state)
            which = jnp.where(terminated, 2, jnp.where(truncated, 1, 0))
            kinds = [transition, truncation, termination]
            return state, jax.lax.switch(which, kinds, reward, seen(state))

        @cached_property
        def observation_spec(self):
            return specs.Array((1,), jnp.float32)

        @cached_property
        def action_spec(self):
            return specs.DiscreteArray(2)

    return JaxVectorEnv(JumanjiFuncEnv(JumanjiScript()), n_envs, limit, **kwargs)


FUNCTIONAL = {
    "functional": functional_script,
    "gymnax": gymnax_script,
    "jumanji": jumanji_script,
}


@pytest.fixture(params=["gymnasium", *FUNCTIONAL])
def any_script(request):
    """Makes the scripted environment: `any_script(n_envs, limit=None)`."""
    return ({"gymnasium": gymnasium_script} | FUNCTIONAL)[request.param]


@pytest.fixture(params=FUNCTIONAL)
def jax_script(request):
    """The same, of the families that are JAX functions."""
    return FUNCTIONAL[request.param]


@pytest.fixture
def script():
    """What an episode's first observation says of it: `(length_of, ends_of)`."""
    return length_of, ends_of
