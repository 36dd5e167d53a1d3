"""A flax project that trains a Q-network of Kitae in a loop of its own."""

from importlib import metadata

import jax
import jax.numpy as jnp
import optax
from flax.training.train_state import TrainState
from gymnasium.spaces import Box, Discrete

from kitae.modules import init_params, observation_spec, qvalue_factory

observation_space, action_space = Box(-1.0, 1.0, (3,)), Discrete(2)
network = qvalue_factory(observation_space, action_space, hidden_sizes=(32,))
spec = observation_spec(observation_space)
params = init_params(jax.random.key(0), network, [spec])
state = TrainState.create(apply_fn=network.apply, params=params, tx=optax.adam(1e-2))

observations = jax.random.uniform(jax.random.key(1), (64, 3), minval=-1.0)
wanted = jnp.stack([observations.sum(axis=1), -observations.sum(axis=1)], axis=1)


@jax.jit
def update(state):
    def loss(params):
        return jnp.mean((state.apply_fn(params, observations) - wanted) ** 2)

    value, gradients = jax.value_and_grad(loss)(state.params)
    return state.apply_gradients(grads=gradients), value


for _ in range(300):
    state, value = update(state)
assert value < 1e-2, value

print(*sorted(entry.metadata["Name"] for entry in metadata.distributions()))
