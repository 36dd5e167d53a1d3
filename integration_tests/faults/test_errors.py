"""The command, with real environments that raise, exit or change the directory."""

import subprocess
import sys
from pathlib import Path

import pytest

ENVIRONMENTS = """
import os
import gymnasium as gym
import numpy as np


class Fails(gym.Env):
    observation_space = gym.spaces.Box(-np.inf, np.inf, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, error="SystemExit"):
        self.error, self.n = error, 0
        os.makedirs("elsewhere", exist_ok=True)
        os.chdir("elsewhere")

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.n += 1
        if self.n == 200:
            raise {"SystemExit": SystemExit(0), "LookupError": LookupError("gone")}[
                self.error
            ]
        return np.zeros(1, np.float32), 1.0, False, self.n % 50 == 0, {}


gym.register("Fails-v0", Fails)
"""


@pytest.mark.parametrize("error", ["SystemExit", "LookupError"])
def test_an_environment_that_ends_costs_no_training(error):
    Path("own_envs.py").write_text(ENVIRONMENTS)
    command = (
        f"{Path(sys.executable).parent}/kitae train dqn --env-id own_envs:Fails-v0 "
        f"--n-envs 1 --n-env-steps 5000 --exploration-steps 100 --start-step 50 "
        f"--env-kwargs error {error} --run-name mine"
    )
    done = subprocess.run(command.split(), capture_output=True, text=True, timeout=120)
    assert done.returncode not in (0, None), done
    said = "raised SystemExit(0) at vector step 199" if "Exit" in error else "gone"
    assert said in done.stderr
    assert "Stopped and saved at 199 environment steps; to continue: " in done.stdout
    # Absolute, since the command is not where it began.
    run_dir = Path("runs/mine").absolute()
    assert f"kitae resume {run_dir} --env-id own_envs:Fails-v0" in done.stdout
    assert [path.name for path in Path("runs/mine/checkpoints").iterdir()] == ["199"]
    assert not Path("elsewhere/runs").exists()
