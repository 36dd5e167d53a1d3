"""What a run notes of where it was trained."""

import getpass
import json
import socket
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import jax
import pytest

from kitae.base.rundir import system
from kitae.envs import make_vec_env


@pytest.fixture(autouse=True)
def _described_anew():
    system._process.cache_clear()
    yield
    system._process.cache_clear()


def git(*arguments):
    who = ["-c", "user.name=Nobody", "-c", "user.email=nobody@example.org"]
    command = ["git", *who, *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def entries_of(run_dir):
    return json.loads((run_dir / "system.json").read_text())


def test_a_run_notes_what_it_is_trained_on(helpers):
    env = helpers.count_envs()
    agent = helpers.make_agent(env)
    agent.train(env, 20)
    (entry,) = entries_of(agent.run_dir)
    assert entry["env_step"] == 0
    assert entry["agent"] == "TableAgent"
    assert entry["python"] == ".".join(map(str, sys.version_info[:3]))
    assert entry["backend"] == jax.default_backend()
    assert entry["devices"] == jax.device_count()
    assert entry["packages"]["jax"] == jax.__version__
    assert entry["packages"]["kitae-core"] == metadata.version("kitae-core")
    assert entry["commit"] is None  # the test's folder is no repository


def test_what_is_noted_names_no_user_no_host_and_no_path(helpers):
    env = helpers.count_envs()
    agent = helpers.make_agent(env)
    agent.train(env, 20)
    text = (agent.run_dir / "system.json").read_text()
    assert str(Path.home()) not in text
    assert "/" not in text
    assert socket.gethostname() not in text
    assert getpass.getuser() not in text


def test_going_on_is_noted_where_something_is_another(helpers, monkeypatch):
    env = helpers.count_envs()
    agent = helpers.make_agent(env, n_env_steps=60)
    agent.train(env, 20)
    agent.train(env, 20)
    assert len(entries_of(agent.run_dir)) == 1
    monkeypatch.setattr("os.cpu_count", lambda: 1_000)
    system._process.cache_clear()
    helpers.make_agent(env, n_env_steps=60).resume(env, 60)
    first, second = entries_of(agent.run_dir)
    assert (first["env_step"], second["env_step"]) == (0, 40)
    assert second["cpus"] == 1_000
    assert first["cpus"] != 1_000


@pytest.mark.parametrize("content", ["", "{}", "[1]", '[{"env_step": 0}'])
def test_a_damaged_file_is_begun_anew(helpers, content):
    env = helpers.count_envs()
    agent = helpers.make_agent(env)
    agent.train(env, 20)
    (agent.run_dir / "system.json").write_text(content)
    agent.train(env, 20)
    (entry,) = entries_of(agent.run_dir)
    assert entry["env_step"] == 20


def test_each_seed_of_many_notes_it(helpers):
    env = make_vec_env("phys2d/CartPole-v1", 2)
    runs = helpers.make_agent(env, n_env_steps=8).train_seeds(env, 8, seeds=[0, 1])
    for run in runs:
        assert entries_of(run.agent.run_dir)[0]["agent"] == "TableAgent"


def test_the_commit_is_noted_of_files_that_are_as_committed(tmp_path):
    assert system._commit() is None
    git("init", "--quiet")
    Path("code.py").write_text("x = 1\n")
    git("add", "code.py")
    git("commit", "--quiet", "-m", "first")
    Path("runs").mkdir()
    Path("runs/new").write_text("not of the repository\n")
    assert system._commit() == git("rev-parse", "HEAD")
    Path("code.py").write_text("x = 2\n")
    assert system._commit() is None


def test_without_git_there_is_no_commit(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert system._commit() is None
