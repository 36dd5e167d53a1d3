"""What a JAX environment or an agent must not give, found by the compiled driver."""

import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.experimental.functional import FuncEnv
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete

from kitae.base.training.jax_environments import is_bad
from kitae.envs.functional import JaxVectorEnv


def walk(space, seen):
    """Counts up; `seen` makes an observation of the count."""

    class Walk(FuncEnv):
        observation_space, action_space = space, Discrete(2)

        def initial(self, rng, params=None):
            return jnp.int32(0)

        def transition(self, state, action, rng, params=None):
            return state + 1

        def observation(self, state, rng, params=None):
            return seen(state)

        def reward(self, state, action, next_state, rng, params=None):
            return jnp.float32(1)

        def terminal(self, state, rng, params=None):
            return state >= 9

    return JaxVectorEnv(Walk(), 3)


def train(helpers, env):
    class Agent(helpers.TableAgent):
        def explore(self, observation):
            return super().explore(observation.reshape(3, -1).astype(float))

        def _process_factory(self, config):
            process = super()._process_factory(config)

            def flat(state, key, rows):
                return process(
                    state,
                    key,
                    rows._replace(
                        observation=rows.observation.reshape(4, -1),
                        next_observation=rows.next_observation.reshape(4, -1),
                    ),
                )

            return flat

    agent = helpers.make_agent(env, agent_type=Agent, n_env_steps=200)
    agent.train(env, 200)
    return agent


@pytest.mark.parametrize(
    "space, seen",
    [
        (Discrete(5), lambda count: count),
        (Discrete(5, start=-3), lambda count: count - 3),
        (MultiDiscrete([2, 5]), lambda count: jnp.stack([count % 2, count])),
        (MultiBinary(1), lambda count: count[None] // 5 * 2),
    ],
    ids=["discrete", "start", "multi-discrete", "multi-binary"],
)
def test_an_index_outside_its_space_is_refused_by_name(helpers, space, seen):
    # Each is outside when the count is 5: at the fifth step of three environments.
    message = "environment 0, at environment step 15: its observation has an index"
    with pytest.raises(ValueError, match=message):
        train(helpers, walk(space, seen))


def test_indices_in_their_space_are_taken(helpers):
    assert train(helpers, walk(Discrete(10, start=-1), lambda n: n - 1)).step == 201


def test_an_observation_outside_its_bounds_is_reported_once(helpers):
    env = walk(Box(0, 0.5, (1,), np.float32), lambda count: count[None] + 1)
    with pytest.warns(
        RuntimeWarning, match=r"environment 0 .* outside the bounds"
    ) as w:
        train(helpers, env)
    assert len(w) == 1


@pytest.mark.parametrize(
    "space, actions, bad",
    [
        (Box(-0.1, 0.1, (1,)), [[0.1], [0.11]], [False, True]),
        (Box(0.0, np.inf, (2,)), [[0, 1e9], [1, -0.5]], [False, True]),
        (Box(0.0, np.inf, (1,)), [[np.inf], [np.nan]], [True, True]),
        (Box(-0.1, 0.1, (1,), np.float64), [[-0.1], [0.1]], [False, False]),
        (MultiBinary(2), [[0, 1], [2, 0]], [False, True]),
        (MultiDiscrete([2, 3]), [[1, 2], [1, 3]], [False, True]),
    ],
)
def test_actions_outside_their_space_are_found(space, actions, bad):
    dtype = jnp.float32 if isinstance(space, Box) else jnp.int32
    assert is_bad(jnp.array(actions, dtype), space).tolist() == bad
