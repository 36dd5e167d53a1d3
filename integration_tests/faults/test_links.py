"""Links and named pipes in a run's directory, which are not followed or waited for."""

import contextlib
import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest

from kitae.algos import DQN
from kitae.algos.cli.settings import read_settings, settings_of
from kitae.base import TensorBoard, WandB
from kitae.base.rundir import checkpoint
from kitae.base.rundir.directory import is_locked, locked
from kitae.base.rundir.system import write_system
from kitae.runs import find_runs, plot_runs, read_evaluations, read_run, write_report

RUN = Path("runs/run")
FILES = ["config.json", "system.json", "metrics.csv", "episodes.csv"]
OTHERS = ["evaluation.json", "train.toml", ".lock"]
SAVED = ["checkpoints/20/manifest.json", "checkpoints/20/state.npz"]


def facts(step):
    counts = {"step": step, "iteration": step, "updates": 0, "rows": [0], "row": {}}
    found = {"seconds": 1.0, "info": {}, "score": None}
    return {"agent": "DQN", "config": {}, **counts, **found}


@pytest.fixture(autouse=True)
def run():
    """A run's directory, with the checkpoints 10 and 20."""
    RUN.mkdir(parents=True)
    config = {"seed": 0, "train_cfg": {"n_env_steps": 100}}
    config["env_cfg"] = {"task_name": "CartPole-v1"}
    (RUN / "config.json").write_text(json.dumps(config))
    (RUN / "system.json").write_text(json.dumps([{"env_step": 0, "agent": "DQN"}]))
    (RUN / "metrics.csv").write_text("env_step,seconds,loss\n10,1,2\n20,2,1\n")
    (RUN / "episodes.csv").write_text("env_step,env,return,length\n10,0,1,9\n")
    for step in (10, 20):
        parts = {"state": {"['w']": np.zeros(3, np.float32)}}
        checkpoint.write(RUN, step, parts, facts(step))


@pytest.fixture
def home():
    """Folders and files that are not the run's, and must stay as they are."""
    home = Path("home").absolute()
    (home / "1700").mkdir(parents=True)
    (home / "1700/letter").write_text("mine")
    (home / ".5.tmp").mkdir()
    (home / "video.mp4").write_bytes(b"private")
    (home / "notes").write_text("mine")
    before = written(home)
    yield home
    assert written(home) == before


def written(folder):
    return {p: p.is_file() and p.read_bytes() for p in sorted(folder.rglob("*"))}


@pytest.fixture
def patience():
    """Ends what waits after ten seconds, a hundred times what is needed."""

    def end(*_):
        pytest.fail("it waits for a pipe that nobody writes into")

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, 10.0, 10.0)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0.0)
    signal.signal(signal.SIGALRM, before)


def put_link(path, target):
    path.unlink(missing_ok=True)
    path.symlink_to(target)


def test_no_file_is_written_through_a_link(home):
    for name in ("report.html", "evaluation.json", "config.json", "plot.png"):
        put_link(RUN / f".{name}.tmp", home / "notes")
    for name in ("report.html", "plot.png"):
        put_link(RUN / name, home / "notes")
    assert write_report(RUN) == RUN / "report.html"
    plot_runs([RUN], RUN / "plot.png", metric="loss")
    for name in ("report.html", "plot.png"):
        assert not (RUN / name).is_symlink()
        assert (RUN / name).stat().st_size > 1_000


@pytest.mark.parametrize("name", [*FILES, "evaluation.json", *SAVED])
def test_no_file_is_read_through_a_link(home, name):
    (home / "copy").write_bytes(b"[1]" if name.endswith(".json") else b"a,b\n")
    put_link(RUN / name, home / "copy")
    with pytest.raises(ValueError, match=rf"{Path(name).name} is a link"):
        read_all()
    (home / "copy").unlink()


def read_all():
    """Reads all of a run, and raises the first thing that is wrong."""
    problem = read_run(RUN).problem
    if problem:
        raise ValueError(problem)
    read_evaluations(RUN)
    like = {"w": np.zeros(3, np.float32)}
    checkpoint.read(RUN).tree("state", like)
    report = write_report(RUN).read_text(encoding="utf-8")
    if "is a link" in report:
        raise ValueError(report)


def test_checkpoints_that_are_a_link_are_refused(home):
    for path in (RUN / "checkpoints").iterdir():
        path.rename(home / path.name)
    (RUN / "checkpoints").rmdir()
    (RUN / "checkpoints").symlink_to(home)
    for use in (
        lambda: checkpoint.clean(RUN),
        lambda: checkpoint.steps(RUN),
        lambda: checkpoint.read(RUN),
        lambda: checkpoint.remove(RUN, 1700),
        lambda: checkpoint.write(RUN, 30, {}, facts(30)),
        lambda: DQN.load(RUN),
    ):
        with pytest.raises(ValueError, match=r"runs/run/checkpoints is a link"):
            use()
    (run,) = find_runs()
    assert run.state == "damaged"
    assert "checkpoints is a link" in run.problem
    for step in (10, 20):
        (home / str(step)).rename(RUN / str(step))


def test_a_checkpoint_that_is_a_link_is_not_one(home):
    (RUN / "checkpoints/1700").symlink_to(home / "1700")
    (RUN / "checkpoints/.90.tmp").symlink_to(home / "1700")
    checkpoint.clean(RUN)
    assert checkpoint.steps(RUN) == [10, 20]


@pytest.mark.parametrize("folder", ["videos", "videos/linked"])
def test_videos_in_a_folder_that_is_a_link_are_not_shown(home, folder):
    (RUN / folder).parent.mkdir(exist_ok=True)
    (RUN / folder).symlink_to(home)
    page = write_report(RUN).read_text(encoding="utf-8")
    assert "cHJpdmF0ZQ" not in page  # "private", as base64 writes it
    assert ("videos is a link" in page) == (folder == "videos")


def test_a_lock_that_is_a_link_is_refused_and_keeps_what_it_points_to(home):
    put_link(RUN / ".lock", home / "notes")
    assert not is_locked(RUN)
    with pytest.raises(ValueError, match=r"\.lock is a link"), locked(RUN):
        pass
    assert read_run(RUN).state == "interrupted"


@pytest.mark.parametrize("name", [*FILES, *OTHERS, *SAVED])
def test_a_named_pipe_is_never_waited_for(patience, name):
    (RUN / name).unlink(missing_ok=True)
    os.mkfifo(RUN / name)
    (run,) = find_runs()
    seen = name in ("config.json", "metrics.csv", "episodes.csv", SAVED[0])
    assert (run.state == "damaged") == seen
    for use in (
        lambda: DQN.load(RUN),
        lambda: read_evaluations(RUN),
        lambda: settings_of(RUN, "dqn"),
        lambda: read_settings(RUN / "train.toml", "dqn", DQN),
        lambda: checkpoint.read(RUN).tree("state", {"w": np.zeros(3, np.float32)}),
        lambda: locked(RUN).__enter__(),
    ):
        with contextlib.suppress(ValueError, OSError):
            use()
    page = write_report(RUN).read_text(encoding="utf-8")
    if name in (*FILES, "evaluation.json"):
        assert f"{name} is not a regular file" in page


def test_trackers_write_through_no_link(home):
    (RUN / "tensorboard").symlink_to(home)
    put_link(RUN / "wandb.json", home / "notes")
    with pytest.raises(ValueError, match="tensorboard is a link"):
        TensorBoard().start(RUN, None, 0)
    with pytest.raises(ValueError, match=r"wandb\.json is a link"):
        WandB("project").start(RUN, None, 0)


def test_a_temporary_of_an_older_version_is_no_trap(home):
    put_link(RUN / ".system.json.tmp", home / "notes")
    put_link(RUN / "system.json", home / "notes")
    write_system(RUN, "Trained", 30)
    assert json.loads((RUN / "system.json").read_text())[-1]["env_step"] == 30
