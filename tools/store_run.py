"""Stores a small run, by which later versions prove that they read this one's files.

    hatch run python tools/store_run.py packages/kitae-algos/tests/stored_runs/format-1

To be used once for each format of checkpoints (`kitae.base.rundir.manifest.FORMAT`).
"""

import os
import shutil
import sys
import tempfile
from pathlib import Path

import kitae.config as cfg
from kitae.algos import DQN, DQNParams
from kitae.envs.make import make_vec_env


def main() -> None:
    """Trains for a moment and keeps the run's directory."""
    target = Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        env = make_vec_env("phys2d/CartPole-v1", 2)
        config = cfg.AlgoConfig(
            seed=7,
            algo_params=DQNParams(hidden_sizes=(4,), target_update_period=2),
            update_cfg=cfg.UpdateConfig(
                learning_rate=1e-3, max_buffer_size=20, batch_size=8
            ),
            train_cfg=cfg.TrainConfig(100, save_frequency=40, log_frequency=20),
            env_cfg=cfg.EnvConfig(
                "phys2d/CartPole-v1",
                env.single_observation_space,
                env.single_action_space,
                n_envs=2,
            ),
        )
        agent = DQN(target.name, config)
        agent.train(env, 80)
        assert agent.run_dir is not None
        (agent.run_dir / ".lock").unlink()
        shutil.copytree(agent.run_dir, target)


if __name__ == "__main__":
    main()
