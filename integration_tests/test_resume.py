"""Runs that end in the middle, by every way a process can end, and go on."""

import contextlib
import csv
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import resuming

from kitae.base.rundir import checkpoint

SCRIPT = Path(resuming.__file__)
N = resuming.N_ENV_STEPS
CLOCK = ("seconds", "steps_per_second")


def start(agent, driver, call, until, cwd, **variables):
    cwd.mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), agent, driver, call, str(until)],
        cwd=cwd,
        env={**os.environ, "JAX_PLATFORMS": "cpu", **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(process):
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, output + errors
    return output


def begun(process):
    assert process.stdout.readline() == "begins\n", process.communicate()


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def assert_same_run(mine, theirs):
    """The same arrays, bit for bit, and the same files but for the clock."""
    ours = [checkpoint.read(run_dir) for run_dir in (mine, theirs)]
    parts = [
        {name: part["sha256"] for name, part in saved._parts.items()} for saved in ours
    ]
    assert parts[0] == parts[1]
    assert {"state", "memory", "keys"} <= set(parts[0])
    counters = ("step", "iteration", "updates", "rows", "info", "score")
    facts = [{name: saved.facts[name] for name in counters} for saved in ours]
    assert facts[0] == facts[1]
    assert (mine / "episodes.csv").read_text() == (theirs / "episodes.csv").read_text()
    metrics = [rows(run_dir / "metrics.csv") for run_dir in (mine, theirs)]
    assert len(metrics[0]) == len(metrics[1]) == N // 100
    for one, other in zip(*metrics, strict=True):
        for name in set(one) - set(CLOCK):
            assert one[name] == other[name], (one["env_step"], name)
    seconds = [float(row["seconds"]) for row in metrics[0]]
    assert seconds == sorted(seconds)


# The fourth, a DQN in one program, is what the next test goes on with.
@pytest.mark.parametrize(
    "agent, driver", [("dqn", "host"), ("rainbow", "host"), ("rainbow", "compiled")]
)
def test_half_and_half_in_two_processes_is_the_whole(agent, driver, tmp_path):
    folder = tmp_path / "cwd"
    finished(start(agent, driver, "both", N // 2, folder))
    finished(start(agent, driver, "resume", N, folder))
    assert_same_run(folder / "runs/run", folder / "runs/through")


def test_a_run_that_is_killed_again_and_again_ends_as_the_whole(tmp_path):
    """SIGKILL at ten random moments of trainings that save all the time."""
    folder, chance = tmp_path / "cwd", random.Random(0)
    run_dir, resumed_at, kills = folder / "runs/run", [], 0
    # Its own: the killed ones may leave halves of entries.
    cache = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "compiled")}
    finished(start("dqn", "compiled", "train", N, folder, **cache))
    through = run_dir.rename(tmp_path / "through")
    seconds = [float(row["seconds"]) for row in rows(through / "metrics.csv")]
    while kills < 10:
        before = checkpoint.steps(run_dir)
        process = start("dqn", "compiled", "go-on", N, folder, **cache)
        begun(process)
        if kills % 5:  # the others while it starts
            while process.poll() is None and checkpoint.steps(run_dir) == before:
                time.sleep(0.001)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=chance.uniform(0.0, (seconds[-1] - seconds[1]) / 2))
        process.kill()
        output = process.communicate()
        if process.returncode == -signal.SIGKILL:
            kills += 1
            resumed_at += checkpoint.steps(run_dir)[-1:]
        else:
            # It came to its end: another one begins, to be killed in its turn.
            assert process.returncode == 0, output
            assert_same_run(run_dir, through)
            shutil.rmtree(folder / "runs")
    finished(start("dqn", "compiled", "go-on", N, folder, **cache))
    assert_same_run(run_dir, through)
    assert len(set(resumed_at)) > 4, resumed_at
    # What the last kill left is gone.
    left = [p.name for p in (run_dir / "checkpoints").iterdir()]
    assert all(name.isdecimal() for name in left), left


@pytest.mark.parametrize(
    "driver, number", [("host", signal.SIGTERM), ("compiled", signal.SIGINT)]
)
def test_a_run_that_is_asked_to_end_saves_and_goes_on(driver, number, tmp_path):
    folder = tmp_path / "cwd"
    process = start("dqn", driver, "train", 10_000_000, folder)
    begun(process)
    while len(rows_if_any(folder / "runs/run/metrics.csv")) < 3:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    status = {signal.SIGTERM: 143, signal.SIGINT: -signal.SIGINT}
    assert process.returncode == status[number], errors
    run_dir = folder / "runs/run"
    saved = checkpoint.read(run_dir)
    last = int(rows(run_dir / "metrics.csv")[-1]["env_step"])
    assert saved.step >= last >= 300
    again = finished(start("dqn", driver, "resume", saved.step + 400, folder))
    # The last vector step is taken whole.
    assert int(again.split()[-1]) in range(saved.step + 400, saved.step + 404)


def rows_if_any(path):
    return rows(path) if path.exists() else []


def test_two_trainings_of_one_run_at_a_time_are_refused(tmp_path):
    folder = tmp_path / "cwd"
    first = start("dqn", "compiled", "train", 10_000_000, folder)
    begun(first)
    while not checkpoint.steps(folder / "runs/run"):
        time.sleep(0.01)
    second = start("dqn", "compiled", "resume", 10_000_000, folder)
    _, errors = second.communicate(timeout=60)
    first.kill()
    first.communicate()
    assert second.returncode == 1
    assert "runs/run is being written by another training" in errors


def test_runs_of_one_name_that_begin_together_get_directories_of_their_own(tmp_path):
    folder = tmp_path / "cwd"
    processes = [start("dqn", "host", "train", 200, folder) for _ in range(3)]
    for process in processes:
        finished(process)
    names = sorted(p.name for p in (folder / "runs").iterdir())
    assert names == ["run", "run-2", "run-3"]
    for name in names:
        assert checkpoint.read(folder / "runs" / name).step in range(200, 204)
