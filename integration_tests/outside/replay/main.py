"""A loop of plain JAX that learns a line from replayed pairs, without an agent."""

from importlib import metadata

import jax
import jax.numpy as jnp

from kitae.buffer import uniform_replay

N_ENVS = 4
replay = uniform_replay(capacity=400, n_envs=N_ENVS, batch_size=32)


def step(carry, key):
    memory, params = carry
    seen, drawn = jax.random.split(key)
    x = jax.random.uniform(seen, (N_ENVS,), minval=-1.0)
    memory = replay.add(memory, {"x": x, "y": 3.0 * x - 1.0})
    batch = replay.sample(memory, drawn)

    def loss(params):
        error = params["slope"] * batch["x"] + params["offset"] - batch["y"]
        return jnp.mean(error**2)

    gradients = jax.grad(loss)(params)
    params = jax.tree.map(lambda p, g: p - 0.1 * g, params, gradients)
    return (memory, params), loss(params)


memory = replay.init({"x": 0.0, "y": 0.0})
params = {"slope": jnp.zeros(()), "offset": jnp.zeros(())}
keys = jax.random.split(jax.random.key(0), 500)
(memory, params), losses = jax.jit(lambda c, k: jax.lax.scan(step, c, k))(
    (memory, params), keys
)
assert losses[-1] < 1e-4, losses[-1]
assert abs(params["slope"] - 3.0) < 0.05, params

print(*sorted(entry.metadata["Name"] for entry in metadata.distributions()))
