"""Every agent trains with JAX_ENABLE_X64=1, under both drivers."""

import json
import os
import subprocess
import sys

import jax
import pytest

from kitae.algos.presets import AGENTS

# The replay and the batches have the presets' sizes: which paths are taken in the
# buffers depends on them.
SCRIPT = """
import json, sys
from dataclasses import replace
import jax
import kitae.config as cfg
from kitae.algos.presets import AGENTS, preset
from kitae.envs.make import make_vec_env

def trained(name, env_id, n_envs=8, n_env_steps=288):
    found = preset(name, env_id)
    env = make_vec_env(env_id, n_envs)
    algo, update = found.algo_params, found.update_cfg
    if name == "pqn":
        update = replace(update, n_epochs=1)
    else:
        algo = replace(algo, start_step=256)
    space, actions = env.single_observation_space, env.single_action_space
    agent = AGENTS[name](name, cfg.AlgoConfig(
        seed=0,
        algo_params=algo,
        update_cfg=update,
        train_cfg=cfg.TrainConfig(n_env_steps),
        env_cfg=cfg.EnvConfig("CartPole-v1", space, actions, n_envs),
    ))
    agent.train(env, n_env_steps)
    dtypes = {str(leaf.dtype) for leaf in jax.tree.leaves(agent.state)}
    return agent.updates > 0, sorted(dtypes)

assert jax.config.jax_enable_x64
print(json.dumps({name: trained(name, sys.argv[1]) for name in AGENTS}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("env_id", ["CartPole-v1", "phys2d/CartPole-v1"])
def test_every_agent_trains_in_float32_where_64_bit_types_are_on(env_id):
    cache = jax.config.jax_compilation_cache_dir
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT, env_id],
        env={
            **os.environ,
            "JAX_ENABLE_X64": "1",
            "JAX_COMPILATION_CACHE_DIR": f"{cache}-x64",
        },
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found == {name: [True, ["float32", "int32"]] for name in AGENTS}
