"""A process that goes back to an earlier checkpoint and is killed on the way."""

import csv
import os
import signal
import subprocess
import sys
from pathlib import Path

import kitae.config as cfg
from kitae.algos import DQN, DQNParams
from kitae.base.rundir import checkpoint
from kitae.envs.make import make_vec_env

RUN = Path("runs/run")
KILLED = """
import os, signal, warnings
from kitae.base.rundir import checkpoint
from test_going_back import make

env, agent = make()
agent.train(env, 80)
move, moved = checkpoint.move_folder, []

def call(*args, **kwargs):
    if moved:  # one of the two later checkpoints is set aside
        os.kill(os.getpid(), signal.SIGKILL)
    moved.append(args)
    return move(*args, **kwargs)

checkpoint.move_folder = call
env, agent = make()
warnings.simplefilter("ignore")
agent.resume(env, 160, step=40)
"""


def make():
    env = make_vec_env("phys2d/CartPole-v1", 2)
    spaces = env.single_observation_space, env.single_action_space
    config = cfg.AlgoConfig(
        seed=0,
        algo_params=DQNParams(hidden_sizes=(4,)),
        update_cfg=cfg.UpdateConfig(max_buffer_size=20, batch_size=8),
        train_cfg=cfg.TrainConfig(
            n_env_steps=160,
            save_frequency=20,
            keep_last=-1,
            log_frequency=10,
            show_progress=False,
        ),
        env_cfg=cfg.EnvConfig("CartPole", *spaces, 2),
    )
    return env, DQN("run", config)


def test_the_run_continues_from_the_newest_checkpoint_that_is_left():
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    environ = {**os.environ, "PYTHONPATH": path}
    command = [sys.executable, "-c", KILLED]
    assert subprocess.run(command, env=environ).returncode == -signal.SIGKILL
    assert checkpoint.steps(RUN) == [20, 40, 60]
    env, agent = make()
    agent.resume(env, 120)
    with (RUN / "metrics.csv").open(newline="") as file:
        steps = [int(row["env_step"]) for row in csv.DictReader(file)]
    assert steps == list(range(10, 121, 10))
    folder = RUN / "checkpoints"
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]
