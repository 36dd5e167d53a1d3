"""Real disks that are full, and a real overlay file system as a container has one."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import kitae.config as cfg
from kitae.algos import DQN, DQNParams
from kitae.base.recording import saving
from kitae.base.rundir import checkpoint
from kitae.base.rundir.tables import Table
from kitae.envs.make import make_vec_env
from kitae.runs import plot_runs, write_report


def mount(folder, *options):
    """Mounts a file system for a test, or says why there is none."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", *options, str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stderr", "") or error
        pytest.skip(f"mounting is impossible here: {said}")


@pytest.fixture
def small_disk():
    """A real file system of 200 kB under `runs/`."""
    folder = Path("runs").absolute()
    mount(folder, "-t", "tmpfs", "-o", "size=200k", "tmpfs")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def overlay():
    """A run with the checkpoints 10, 20 and 30 in the lower layer."""
    for name in ("lower", "upper", "work"):
        Path(name).mkdir()
    lower = Path("lower/run")
    lower.mkdir()
    for step in (10, 20, 30):
        write(lower, step)
    (lower / "checkpoints/.25.tmp").mkdir()
    folder = Path("layers").absolute()
    layers = "lowerdir=lower,upperdir=upper,workdir=work"
    mount(folder, "-t", "overlay", "overlay", "-o", layers)
    yield folder / "run"
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def facts(step):
    counts = {"step": step, "iteration": step, "updates": 0, "rows": [0], "row": {}}
    found = {"seconds": 1.0, "info": {}, "score": None}
    return {"agent": "DQN", "config": {}, **counts, **found}


def write(run_dir, step, value=0.0):
    parts = {"state": {"['w']": np.full(3, value, np.float32)}}
    checkpoint.write(run_dir, step, parts, facts(step))


def value(run_dir, step=None):
    like = {"w": np.zeros(3, np.float32)}
    return checkpoint.read(run_dir, step).tree("state", like)["w"][0]


def fill(folder, left=0):
    """Fills a disk, up to some bytes."""
    free = shutil.disk_usage(folder).free - left
    (folder / "other").write_bytes(bytes(free))


def left(folder):
    return sorted(path.name for path in folder.iterdir())


def test_rows_that_do_not_fit_name_their_file_and_leave_no_part(small_disk):
    run_dir = small_disk / "run"
    run_dir.mkdir()
    table = Table(run_dir / "metrics.csv", ["env_step", "note"], [])
    table.write([{"env_step": 1, "note": "x"}])
    fill(small_disk)
    row = {"env_step": 2, "note": "x" * 300}
    rows = [[row]] * 1_000  # more than the rest of a page of the disk
    with pytest.raises(OSError, match=r"metrics\.csv could not .* free some space"):
        list(map(table.write, rows))
    lines = (run_dir / "metrics.csv").read_bytes().splitlines(keepends=True)
    assert lines[:2] == [b"env_step,note\r\n", b"1,x\r\n"]
    assert set(lines[2:]) <= {f"2,{row['note']}\r\n".encode()}
    (small_disk / "other").unlink()
    table.write([{"env_step": 3, "note": "y"}])
    table.close()
    assert (run_dir / "metrics.csv").read_bytes().endswith(b"\r\n3,y\r\n")
    assert left(run_dir) == ["metrics.csv"]


@pytest.fixture
def written_run(small_disk):
    run_dir = small_disk / "run"
    run_dir.mkdir()
    config = {"seed": 0, "train_cfg": {"n_env_steps": 100}}
    config["env_cfg"] = {"task_name": "CartPole-v1"}
    (run_dir / "config.json").write_text(json.dumps(config))
    (run_dir / "metrics.csv").write_text("env_step,seconds,loss\n10,1,2\n20,2,1\n")
    return run_dir


@pytest.mark.parametrize("name", ["plot.png", "plot.svg", "report.html"])
def test_a_plot_or_report_that_does_not_fit_leaves_nothing(written_run, name):
    def draw():
        if name == "report.html":
            return write_report(written_run)
        return plot_runs([written_run], written_run / name, metric="loss")

    before = left(written_run)
    fill(written_run.parent, left=4_096)
    with pytest.raises(OSError, match=rf"{name} could not be .*; free some space"):
        draw()
    assert left(written_run) == before
    (written_run.parent / "other").unlink()
    draw()
    assert left(written_run) == sorted([*before, name])


def test_a_training_on_a_full_disk_names_its_file_and_continues_later(small_disk):
    env = make_vec_env("phys2d/CartPole-v1", 2)
    spaces = env.single_observation_space, env.single_action_space
    train_cfg = cfg.TrainConfig(
        n_env_steps=40_000, save_frequency=40, log_frequency=2, show_progress=False
    )
    config = cfg.AlgoConfig(
        seed=0,
        algo_params=DQNParams(hidden_sizes=(4,)),
        update_cfg=cfg.UpdateConfig(max_buffer_size=20, batch_size=8),
        train_cfg=train_cfg,
        env_cfg=cfg.EnvConfig("CartPole", *spaces, 2),
    )
    agent = DQN("run", config)
    agent.train(env, 40)
    fill(small_disk, left=8_192)
    found = r"(metrics|episodes)\.csv could not|step \d+ could not"
    with pytest.raises(OSError, match=found):
        agent.train(env, 4_000)
    folder = small_disk / "run/checkpoints"
    assert left(folder) == [str(step) for step in checkpoint.steps(small_disk / "run")]
    assert not [name for name in left(small_disk / "run") if name.endswith(".tmp")]
    (small_disk / "other").unlink()
    again = DQN("run", config)
    last = checkpoint.steps(small_disk / "run")[-1]
    again.resume(env, last + 80)
    assert again.step == last + 80


def test_checkpoints_of_the_lower_layer_are_rotated(overlay):
    assert checkpoint.steps(overlay) == [10, 20, 30]
    checkpoint.clean(overlay)
    write(overlay, 40, 4.0)
    saving.rotate(overlay, 40, keep_last=2, keep_best=False)
    assert left(overlay / "checkpoints") == ["30", "40"]


def test_a_training_removes_checkpoints_of_the_lower_layer(overlay):
    checkpoint.remove(overlay, 10)
    assert left(overlay / "checkpoints") == [".25.tmp", "20", "30"]


def test_a_checkpoint_of_the_lower_layer_is_replaced(overlay):
    write(overlay, 30, 3.0)
    assert value(overlay) == 3.0
    assert left(overlay / "checkpoints") == [".25.tmp", "10", "20", "30"]


def test_a_branch_of_the_lower_layer_is_retired(overlay):
    assert checkpoint.retire(overlay, 10) == [20, 30]
    assert checkpoint.steps(overlay) == [10]
    write(overlay, 20, 2.0)
    assert (checkpoint.steps(overlay), value(overlay)) == ([10, 20], 2.0)
    checkpoint.clean(overlay)
    assert left(overlay / "checkpoints") == ["10", "20"]
