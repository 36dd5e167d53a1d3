"""Runs that earlier versions wrote are read by this one; see tools/store_run.py."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from kitae.algos import DQN
from kitae.base.rundir import manifest
from kitae.envs import make_vec_env

RUNS = sorted((Path(__file__).parent / "stored_runs").iterdir())


@pytest.mark.parametrize("stored", RUNS, ids=lambda path: path.name)
def test_a_stored_run_is_read_and_goes_on(stored, tmp_path):
    run_dir = tmp_path / "runs" / stored.name
    shutil.copytree(stored, run_dir)
    env = make_vec_env("phys2d/CartPole-v1", 2)
    agent = DQN.load(run_dir)
    assert (agent.step, agent.config.seed) == (80, 7)
    assert agent.config.algo_params.hidden_sizes == (4,)
    assert agent.config.env_cfg.observation_space == env.single_observation_space
    # As the file has it, read by nothing of ours.
    path = run_dir / "checkpoints/80"
    leaves = json.loads((path / "manifest.json").read_bytes())["parts"]["state"]
    with np.load(path / "state.npz") as file:
        kept = [file[str(i)] for i in range(len(leaves["leaves"]))]
    mine = jax.tree.leaves(agent.state)
    assert len(mine) == len(kept)
    for a, b in zip(mine, kept, strict=True):
        np.testing.assert_array_equal(a, b)
    agent.resume(env, 100)
    assert agent.step == 100
    rows = (run_dir / "metrics.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows[1:]] == ["20", "40", "60", "80", "100"]


def test_this_versions_format_is_stored():
    assert f"format-{manifest.FORMAT}" in [path.name for path in RUNS]
