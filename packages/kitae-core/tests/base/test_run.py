"""What a run leaves on disk, and going on from it."""

import csv
import json
import shutil
import signal
import unicodedata
from pathlib import Path
from typing import NamedTuple

import gymnasium as gym
import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kitae.base.rundir import checkpoint
from kitae.config.run_name import checked_run_name
from kitae.envs import make_vec_env


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_run_is_a_directory(helpers, tmp_path):
    env = helpers.count_envs()
    agent = helpers.make_agent(env, "first", n_env_steps=60, log_frequency=20)
    history = agent.train(env, 60)
    assert agent.run_dir == Path("runs/first").absolute()
    assert [p.name for p in tmp_path.iterdir()] == ["runs"]
    names = sorted(p.name for p in agent.run_dir.iterdir())
    files = ["checkpoints", "config.json", "episodes.csv", "metrics.csv", "system.json"]
    assert names == [".lock", *files]

    config = json.loads((agent.run_dir / "config.json").read_text())
    assert config["algo_params"]["gamma"] == 0.9
    metrics = rows_of(agent.run_dir / "metrics.csv")
    assert [row["env_step"] for row in metrics] == ["20", "40", "60"]
    assert [int(row["updates"]) for row in metrics] == [8, 18, 28]
    assert all(float(row["loss_value"]) > 0 for row in metrics)
    assert sum(int(row["episodes"]) for row in metrics) == len(history.episode_return)
    episodes = rows_of(agent.run_dir / "episodes.csv")
    assert [float(row["return"]) for row in episodes] == history.episode_return.tolist()
    assert [int(row["length"]) for row in episodes] == history.episode_length.tolist()
    assert {row["env"] for row in episodes} == {"0", "1"}


def test_every_environment_that_ends_in_one_step_is_counted(helpers):
    env = helpers.count_envs((4, 4, 4))
    agent = helpers.make_agent(env)
    history = agent.train(env, 24)
    assert len(history.episode_return) == 6
    assert rows_of(agent.run_dir / "episodes.csv")[0]["env_step"] == "12"


def test_the_mean_return_of_a_row_is_of_its_own_episodes(helpers):
    env = helpers.count_envs((5,))
    agent = helpers.make_agent(env, n_env_steps=20, log_frequency=10)
    history = agent.train(env, 20)
    means = [float(r["episode_return"]) for r in rows_of(agent.run_dir / "metrics.csv")]
    assert means == [
        history.episode_return[:2].mean(),
        history.episode_return[2:].mean(),
    ]


def test_a_second_run_of_one_name_gets_a_directory_of_its_own(helpers):
    for expected in ("again", "again-2", "again-3"):
        env = helpers.count_envs()
        agent = helpers.make_agent(env, "again")
        agent.train(env, 20)
        assert agent.run_dir == Path("runs", expected).absolute()


def test_videos_and_metrics_of_a_run_share_its_directory(helpers):
    env = make_vec_env("CartPole-v1", 2, capture_video=True, run_name="filmed")
    agent = helpers.make_agent(env, "filmed")
    agent.train(env, 20)
    env.close()
    assert [p.name for p in Path("runs").iterdir()] == ["filmed"]
    assert {"videos", "config.json"} <= {p.name for p in agent.run_dir.iterdir()}


def test_training_on_stays_in_the_directory_and_appends(helpers):
    env = helpers.count_envs()
    agent = helpers.make_agent(env, log_frequency=20)
    agent.train(env, 40)
    agent.train(env, 40)
    assert [p.name for p in Path("runs").iterdir()] == ["run"]
    steps = [int(row["env_step"]) for row in rows_of(agent.run_dir / "metrics.csv")]
    assert steps == [20, 40, 60, 80]


def test_a_resumed_run_holds_everything_and_repeats_nothing(helpers):
    env = helpers.count_envs()
    agent = helpers.make_agent(env, n_env_steps=80, save_frequency=40, log_frequency=20)
    agent.train(env, 40)
    saved = jax.tree.map(np.asarray, (agent.state, agent.memory))
    keys = agent.training_state.keys

    other = helpers.make_agent(env, n_env_steps=80, save_frequency=40, log_frequency=20)
    other.restore("runs/run")
    for mine, theirs in zip(keys, other.training_state.keys, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    history = other.resume(env, 80)
    assert history.env_steps == 40
    assert history.updates == 20  # no second warm-up: the replay came along
    assert other.step == 80
    assert other.updates == agent.updates + 20
    before = jax.tree.map(lambda x: np.asarray(x)[:20], other.memory.data)
    held = jax.tree.map(lambda x: x[:20], saved[1].data)
    for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(held), strict=True):
        np.testing.assert_array_equal(a, b)
    steps = [int(row["env_step"]) for row in rows_of(Path("runs/run/metrics.csv"))]
    assert steps == [20, 40, 60, 80]


def test_resuming_equals_going_on(helpers):
    """The counter environment starts from where it is told, so all is exact."""

    def start():
        env = helpers.count_envs()
        return env, helpers.make_agent(env, n_env_steps=100)

    env, through = start()
    through.train(env, 50)
    through.train(helpers.count_envs(), 50)

    shutil.rmtree("runs")
    env, first = start()
    first.train(env, 50)
    env, second = start()
    second.resume(helpers.count_envs(), 100)
    for a, b in zip(
        jax.tree.leaves((through.state, through.memory)),
        jax.tree.leaves((second.state, second.memory)),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


def test_rows_written_after_the_checkpoint_are_written_once(helpers):
    env = helpers.count_envs()
    agent = helpers.make_agent(
        env, n_env_steps=200, save_frequency=40, log_frequency=20
    )
    agent.train(env, 100)
    other = helpers.make_agent(
        env, n_env_steps=200, save_frequency=40, log_frequency=20
    )
    with pytest.warns(RuntimeWarning, match=r"of the steps 80, 100\) and later rows"):
        other.resume(env, 120, step=40)
    steps = [int(row["env_step"]) for row in rows_of(Path("runs/run/metrics.csv"))]
    assert steps == [20, 40, 60, 80, 100, 120]
    ended = [int(row["env_step"]) for row in rows_of(Path("runs/run/episodes.csv"))]
    assert ended == sorted(ended)


def test_resuming_nothing_says_so(helpers):
    agent = helpers.make_agent(helpers.count_envs(), "never")
    with pytest.raises(FileNotFoundError, match="there is no run in runs/never"):
        agent.resume(helpers.count_envs(), 100)


def test_a_checkpoint_of_another_agent_is_refused(helpers):
    env = helpers.count_envs()
    helpers.make_agent(env).train(env, 40)
    wider = helpers.make_agent(env, n_states=3)
    with pytest.raises(ValueError, match=r"state\['value'\] as float32\[1\].*\[3\]"):
        wider.restore("runs/run")
    longer = helpers.make_agent(env, max_buffer_size=60)
    with pytest.raises(ValueError, match=r"memory.*\[50, 2, 6\].*\[60, 2, 6\]"):
        longer.resume(env, 80)


def test_a_replay_of_other_rows_is_refused_although_they_are_as_long(helpers):
    class Swapped(NamedTuple):
        observation: jax.Array
        reward: jax.Array
        action: jax.Array
        done: jax.Array
        next_observation: jax.Array
        log_prob: jax.Array
        truncated: jax.Array

    env = helpers.count_envs()
    helpers.make_agent(env).train(env, 40)
    config = helpers.make_config(env)
    other = helpers.TableAgent("run", config, experience_type=Swapped)
    with pytest.raises(ValueError, match=r"rows of .*action: int32\[\].*Swapped|rows"):
        other.restore("runs/run")


def files_of_a_checkpoint(helpers):
    env = helpers.count_envs()
    agent = helpers.make_agent(env)
    agent.train(env, 40)
    (path,) = (agent.run_dir / "checkpoints").iterdir()
    return [p for p in path.rglob("*") if p.is_file()]


def test_any_damage_to_any_file_is_refused_by_name(helpers):
    files = files_of_a_checkpoint(helpers)
    assert len(files) == 4
    for file in files:
        content = file.read_bytes()
        flipped = bytearray(content)
        if flipped:
            flipped[len(flipped) // 2] ^= 1
        damages = [content[:-1], b"", bytes(flipped), None]
        for damage in damages:
            if damage == content:
                continue
            if damage is None:
                file.unlink()
            else:
                file.write_bytes(damage)
            agent = helpers.make_agent(helpers.count_envs())
            if file.name == "manifest.json" and damage == bytes(flipped):
                continue  # a changed digit may still be a manifest; see below
            with pytest.raises(ValueError, match=file.name):
                agent.restore("runs/run")
        file.write_bytes(content)
    helpers.make_agent(helpers.count_envs()).restore("runs/run")


def test_restoring_and_saving_loses_nothing(helpers):
    env = helpers.count_envs()
    agent = helpers.make_agent(env)
    agent.train(env, 40)
    other = helpers.make_agent(env)
    other.restore("runs/run")
    assert other.run_dir is None
    other.run_dir = agent.run_dir
    other.save()
    third = helpers.make_agent(env)
    third.restore("runs/run")
    assert third.memory.size.tolist() == [20, 20]
    fresh = helpers.make_agent(env, "fresh")
    fresh.save()
    assert fresh.resume(env, 20).env_steps == 20


def test_an_agent_resumes_its_own_run(helpers):
    env = helpers.count_envs()
    helpers.make_agent(env).train(env, 40)
    second = helpers.make_agent(env)
    second.train(env, 60)
    second.resume(env, 80)
    assert second.run_dir == Path("runs/run-2").absolute()
    assert second.step == 80


def test_a_refused_checkpoint_changes_nothing(helpers):
    env = helpers.count_envs()
    helpers.make_agent(env).train(env, 40)
    longer = helpers.make_agent(env, max_buffer_size=60)
    with pytest.raises(ValueError, match="memory"):
        longer.resume(env, 80)
    assert (longer.step, longer.updates, longer.run_dir) == (0, 0, None)
    assert longer.state["value"].tolist() == [0.0]


def test_ctrl_c_waits_for_the_step_and_leaves_the_agent_whole(helpers):
    class Pressed(helpers.CountEnv):
        def step(self, action):
            if len(self.actions) in (10, 25):
                signal.raise_signal(signal.SIGINT)
            return super().step(action)

    env = gym.vector.SyncVectorEnv([Pressed] * 2, autoreset_mode="SameStep")
    agent = helpers.make_agent(env)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        agent.train(env, 60)
    # Both members asked at their eleventh step: the second time is not held back.
    assert agent.step == 20
    assert signal.getsignal(signal.SIGINT) is before
    agent.save()
    assert np.isfinite(float(agent.state["value"][0]))
    agent.train(helpers.count_envs((3, 5)), 20)
    assert agent.step == 40


def test_ctrl_c_alone_finishes_the_step(helpers):
    class Pressed(helpers.CountEnv):
        def step(self, action):
            if len(self.actions) == 10:
                signal.raise_signal(signal.SIGINT)
            return super().step(action)

    env = gym.vector.SyncVectorEnv([Pressed], autoreset_mode="SameStep")
    agent = helpers.make_agent(env)
    with pytest.raises(KeyboardInterrupt):
        agent.train(env, 60)
    assert agent.step == 11
    episodes = rows_of(agent.run_dir / "episodes.csv")
    assert [row["env_step"] for row in episodes] == ["3", "6", "9"]


def test_training_past_the_annealing_is_said(helpers):
    env = helpers.count_envs()
    agent = helpers.make_agent(env, n_env_steps=40, learning_rate_annealing=True)
    agent.train(env, 40)
    with pytest.warns(RuntimeWarning, match=r"ends at train_cfg\.n_env_steps = 40"):
        agent.train(env, 10)


def test_an_unfinished_checkpoint_is_not_one(helpers):
    env = helpers.count_envs()
    agent = helpers.make_agent(env)
    agent.train(env, 40)
    folder = agent.run_dir / "checkpoints"
    shutil.copytree(folder / "40", folder / ".60.tmp")
    (folder / ".60.tmp" / "manifest.json").unlink()
    other = helpers.make_agent(env)
    other.restore("runs/run")
    assert other.step == 40


def test_a_checkpoint_is_replaced_whole(helpers):
    env = helpers.count_envs()
    agent = helpers.make_agent(env)
    agent.train(env, 40)
    first = checkpoint.read(agent.run_dir).tree("state", agent.state)
    agent.state = {**agent.state, "value": agent.state["value"] + 1}
    agent.save()
    second = checkpoint.read(agent.run_dir).tree("state", agent.state)
    assert second["value"] == first["value"] + 1


@pytest.mark.parametrize(
    "name, reason",
    [
        ("", "must be a name"),
        (None, "must be a name"),
        ("..", r"must not have a part '\.\.'"),
        ("a/../b", r"must not have a part '\.\.'"),
        ("/etc", "must be a relative path"),
        ("a//b", "must not have a part ''"),
        ("a\\b", "must be a relative path"),
        ("C:runs", "must be a relative path"),
        ("a\0b", "control characters"),
        ("a\nb", "control characters"),
        ("x" * 256, "has a part of 256 bytes"),
    ],
)
def test_refuses_a_run_name_that_leaves_the_root_or_cannot_be(helpers, name, reason):
    with pytest.raises(ValueError, match=reason):
        helpers.make_agent(helpers.count_envs(), name)


@given(st.text(max_size=40))
def test_a_run_name_is_inside_the_root_or_refused(name):
    try:
        accepted = checked_run_name(name)
    except ValueError:
        return
    root = Path("/root-of-runs")
    inside = (root / accepted).resolve()
    assert inside.is_relative_to(root)
    assert inside != root
    assert unicodedata.is_normalized("NFC", accepted)
