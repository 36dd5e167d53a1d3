"""Real signals to real processes and process groups, while workers step."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

TRAINING = """
import os, sys, time
from pathlib import Path

import gymnasium as gym
import numpy as np


class Slow(gym.Env):
    observation_space = gym.spaces.Box(-np.inf, np.inf, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, render_mode=None, seconds=0.002):
        self.seconds = seconds

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        Path(f"worker-{{os.getpid()}}").touch()
        return np.zeros(1, np.float32), {{}}

    def step(self, action):
        self.t += 1
        time.sleep(self.seconds if self.t % 50 else self.seconds * {slower})
        return np.array([self.t], np.float32), 1.0, False, self.t == 100, {{}}


gym.register("Slow-v0", Slow)

if __name__ == "__main__":
    import kitae.config as cfg
    from kitae.algos import DQN, DQNParams
    from kitae.envs.make import make_vec_env

    env = make_vec_env("Slow-v0", 2, vectorization_mode="async")
    config = cfg.AlgoConfig(
        seed=0,
        algo_params=DQNParams(hidden_sizes=(8,)),
        update_cfg=cfg.UpdateConfig(max_buffer_size=200, batch_size=8),
        train_cfg=cfg.TrainConfig(n_env_steps=1_000_000, log_frequency=20),
        env_cfg=cfg.EnvConfig(
            "Slow-v0", env.single_observation_space, env.single_action_space, 2
        ),
    )
    DQN("run", config).train(
        env, 1_000_000, trackers=[lambda *_: Path("begun").touch()]
    )
"""


@pytest.fixture
def start():
    """Starts a training in a new process group, and waits until it learns."""
    started = []

    def start(*command, slower=1):
        Path("training.py").write_text(TRAINING.format(slower=slower))
        process = subprocess.Popen(
            [*command, sys.executable, "training.py"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        until = time.monotonic() + 120
        while not Path("begun").exists():
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < until
            time.sleep(0.05)
        return process

    yield start
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stderr.close()


def ended(process, timeout=30):
    _, errors = process.communicate(timeout=timeout)
    return process.returncode, errors


def saved_steps():
    return sorted(int(path.name) for path in Path("runs/run/checkpoints").iterdir())


def workers():
    return [int(path.name.removeprefix("worker-")) for path in Path().glob("worker-*")]


def is_running(pid):
    try:
        # What ended and was not waited for is no process any more.
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def assert_gone(pids, timeout=10):
    until = time.monotonic() + timeout
    while left := [pid for pid in pids if is_running(pid)]:
        assert time.monotonic() < until, f"{left} still run"
        time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_to_the_group_saves(start, number):
    """As `timeout`, systemd and Slurm send it, or a terminal that is closed."""
    process = start()
    time.sleep(0.3)
    os.killpg(process.pid, number)
    code, errors = ended(process)
    expected = 128 + number if number != signal.SIGINT else -signal.SIGINT
    assert code == expected, errors
    assert len(saved_steps()) == 1, errors
    assert "_async_worker" not in errors
    assert_gone(workers())


def test_timeout_ends_a_training_that_saves(start):
    """It sends SIGTERM twice: to its child, and to the group that both are in."""
    process = start("timeout", "--preserve-status", "600")
    os.kill(process.pid, signal.SIGTERM)  # which it passes on as when the time is over
    code, errors = ended(process)
    assert code == 128 + signal.SIGTERM, errors
    assert len(saved_steps()) == 1
    assert_gone(workers())


def test_nohup_lets_a_training_continue(start):
    process = start("nohup")
    os.killpg(process.pid, signal.SIGHUP)
    time.sleep(1)
    assert process.poll() is None
    os.killpg(process.pid, signal.SIGTERM)
    code, errors = ended(process)
    assert code == 128 + signal.SIGTERM, errors
    assert len(saved_steps()) == 1
    assert_gone(workers())


def test_workers_end_with_a_trainer_that_is_killed_while_they_step(start):
    process = start(slower=300_000)  # ten minutes in one step
    time.sleep(2)
    pids = workers()
    assert len(pids) == 2
    assert all(map(is_running, pids))
    process.kill()
    process.wait()
    assert_gone(pids)


def test_a_process_that_does_not_close_its_workers_does_not_wait_for_them():
    """Workers leave SIGTERM to the training, so Python ends them by SIGKILL."""
    Path("training.py").write_text(TRAINING.format(slower=1))
    Path("ends.py").write_text(
        "import builtins\n"
        "import training\n"
        "from kitae.envs.make import make_vec_env\n"
        "if __name__ == '__main__':\n"
        "    env = make_vec_env('Slow-v0', 2, vectorization_mode='async')\n"
        "    env.reset(seed=0)\n"
        "    builtins.kept = env\n"
    )
    subprocess.run([sys.executable, "ends.py"], timeout=30, check=True)
    assert len(workers()) == 2
    assert_gone(workers())
