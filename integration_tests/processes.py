"""Scripts run by processes with devices of their own.

The number of devices is set before JAX starts, so each script is another process.
"""

import os
import socket
import subprocess
import sys

AGENT = """
import os, sys
import jax
import jax.numpy as jnp
import numpy as np

import kitae.config as cfg
from kitae.algos import DQN, DQNParams
from kitae.envs.make import make_vec_env


def make_agent(n_envs=16):
    env = make_vec_env("phys2d/CartPole-v1", n_envs)
    config = cfg.AlgoConfig(
        seed=0,
        algo_params=DQNParams(target_update_period=2, hidden_sizes=(32,)),
        update_cfg=cfg.UpdateConfig(
            learning_rate=1e-2, max_buffer_size=20, batch_size=32
        ),
        train_cfg=cfg.TrainConfig(n_env_steps=640),
        env_cfg=cfg.EnvConfig(
            "CartPole", env.single_observation_space, env.single_action_space, n_envs
        ),
    )
    return env, DQN("run", config)


def leaves(tree):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


"""

JOINED = """
jax.distributed.initialize(
    f"127.0.0.1:{sys.argv[2]}", num_processes=2, process_id=int(sys.argv[1])
)
assert (jax.device_count(), jax.local_device_count()) == (8, 4)
os.makedirs(sys.argv[1])
os.chdir(sys.argv[1])
"""


def start(script, devices, *arguments, cwd, quick=False, **variables):
    """Starts it on some devices, compiled as users do or, if quick, as tests are."""
    path = cwd / f"script{'-'.join(arguments)}.py"
    path.write_text(AGENT + script, encoding="utf-8")
    flags = f"--xla_force_host_platform_device_count={devices}"
    if quick:
        flags += f" {os.environ['XLA_FLAGS']}"
    ours = {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", **variables}
    return subprocess.Popen(
        [sys.executable, str(path), *arguments],
        cwd=cwd,
        env={**os.environ, **ours},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finished(process, timeout=500):
    output, _ = process.communicate(timeout=timeout)
    assert process.returncode == 0, output
    return output


def two_processes(script, cwd, timeout=500, quick=False):
    """Runs it on two processes of four devices, in the folders 0 and 1."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    # Neither reads what the other is writing.
    alone = {"JAX_ENABLE_COMPILATION_CACHE": "false"}
    started = [
        start(JOINED + script, 4, i, port, cwd=cwd, quick=quick, **alone) for i in "01"
    ]
    for process in started:
        finished(process, timeout)
