"""Which runs there are, and in what state, also where their files are bad."""

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from gymnasium.vector import SyncVectorEnv

from kitae.base.rundir.directory import locked
from kitae.envs import make_vec_env
from kitae.runs import find_runs, read_config, read_run
from kitae.runs.listing import algorithm_of, read_system

DEEP = b'{"x":' * 100_000


def trained(helpers, name="run", steps=60, **changes):
    env = helpers.count_envs((3, 5))
    agent = helpers.make_agent(env, name, **{"n_env_steps": 60, **changes})
    history = agent.train(env, steps)
    return agent, history


def test_a_run_that_was_trained_is_told_as_it_was(helpers):
    agent, history = trained(helpers, seed=7, log_frequency=20)
    before = datetime.now(UTC)
    run = read_run(agent.run_dir)
    assert (run.run_dir, run.name) == (Path("runs/run").absolute(), "run")
    assert (run.algorithm, run.task, run.seed) == ("TableAgent", "Count", 7)
    assert (run.env_steps, run.wanted_steps) == (60, 60)
    assert run.episodes == len(history.episode_return)
    assert run.last_return == pytest.approx(history.episode_return.mean())
    assert run.best_return == run.last_return
    assert (run.state, run.problem) == ("finished", "")
    assert run.seconds > 0
    assert before - timedelta(minutes=10) < run.modified <= before


def test_returns_are_of_a_hundred_episodes(write_run):
    returns = [0.0] * 50 + [10.0] * 100 + [4.0] * 50
    run = read_run(write_run(episodes=[(i, r, 1) for i, r in enumerate(returns)]))
    assert run.last_return == pytest.approx(7.0)
    assert run.best_return == pytest.approx(10.0)


def test_the_best_is_not_of_fewer_episodes(write_run):
    returns = [1_000.0] + [1.0] * 199
    run = read_run(write_run(episodes=[(i, r, 1) for i, r in enumerate(returns)]))
    assert run.best_return == pytest.approx((1_000 + 99) / 100)
    assert run.last_return == pytest.approx(1.0)


def test_a_run_is_interrupted_if_it_can_go_on(helpers):
    agent, _ = trained(helpers, steps=40)
    run = read_run(agent.run_dir)
    assert (run.state, run.env_steps) == ("interrupted", 40)


def test_a_checkpoint_counts_that_no_row_tells_of(helpers):
    agent, _ = trained(helpers, steps=41, log_frequency=1_000)
    for name in ("metrics.csv", "episodes.csv"):
        (agent.run_dir / name).unlink()
    run = read_run(agent.run_dir)
    assert (run.state, run.env_steps, run.episodes) == ("interrupted", 42, 0)
    assert run.last_return is run.best_return is None


def test_a_run_before_its_first_checkpoint_is_only_begun(helpers):
    agent, _ = trained(helpers, steps=40, log_frequency=20)
    shutil.rmtree(agent.run_dir / "checkpoints")
    run = read_run(agent.run_dir)
    assert (run.state, run.env_steps) == ("only begun", 40)


def test_many_seeds_at_once_have_no_checkpoints_and_finish(helpers):
    env = make_vec_env("phys2d/CartPole-v1", 2)
    helpers.make_agent(env, n_env_steps=8).train_seeds(env, 8, seeds=[3, 4])
    runs = find_runs()
    assert [(run.name, run.seed) for run in runs] == [
        ("run-seed3", 3),
        ("run-seed4", 4),
    ]
    assert {run.state for run in runs} == {"finished"}
    assert {run.algorithm for run in runs} == {"TableAgent"}


def test_a_run_is_running_while_its_lock_is_held(helpers):
    agent, _ = trained(helpers)
    with locked(agent.run_dir):
        # As that of a checkpoint which is being removed.
        (agent.run_dir / "checkpoints/60/manifest.json").unlink()
        assert read_run(agent.run_dir).state == "running"
    assert read_run(agent.run_dir).state == "damaged"


def test_it_can_be_asked_while_it_trains(helpers):
    seen = []

    class Asking(helpers.CountEnv):
        def step(self, action):
            seen.append(find_runs()[0])
            return super().step(action)

    env = SyncVectorEnv([Asking], autoreset_mode="SameStep")
    agent = helpers.make_agent(env, n_env_steps=20, save_frequency=2, keep_last=1)
    agent.train(env, 20)
    assert {run.state for run in seen} == {"running"}
    assert seen[-1].episodes > 0
    assert find_runs()[0].state == "finished"


def test_runs_in_folders_of_their_own_are_found(write_run):
    for name in ("b", "sweep/1", "sweep/2", "a/deep/er", "b/inner"):
        write_run(name)
    Path("runs/notes").mkdir()
    Path("runs/notes/readme.txt").write_text("no run")
    names = [run.name for run in find_runs()]
    assert names == ["a/deep/er", "b", "b/inner", "sweep/1", "sweep/2"]
    assert [run.name for run in find_runs(Path("runs/sweep"))] == ["1", "2"]
    assert [run.name for run in find_runs("runs/a/deep/er")] == ["er"]
    assert find_runs("elsewhere") == []


@pytest.mark.parametrize("name", ["config.json", "metrics.csv", "episodes.csv"])
@pytest.mark.parametrize(
    "content", [b"", b"\0\xff", b"[]", b"{}", b'{"seed": NaN}', DEEP], ids=repr
)
def test_a_damaged_file_damages_its_run_alone(write_run, name, content):
    write_run("good")
    (write_run("bad", episodes=[(3, 1.0, 3)]) / name).write_bytes(content)
    bad, good = find_runs()
    assert (bad.state, good.state) == ("damaged", "only begun")
    assert f"runs/bad/{name}" in bad.problem
    if name == "config.json":
        assert (bad.task, bad.seed, bad.wanted_steps) == ("unknown", -1, 0)
        assert (bad.episodes, bad.last_return) == (1, 1.0)
    else:
        assert (bad.task, bad.seed, bad.wanted_steps) == ("Count-v1", 0, 100)


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": -1},
        {"seed": True},
        {"seed": "0"},
        {"n_env_steps": 0.5},
        {"task_name": None},
        {"train_cfg": []},
        {"env_cfg": "CartPole-v1"},
    ],
)
def test_a_config_with_values_that_cannot_be_is_damaged(write_run, changes):
    assert read_run(write_run(**changes)).state == "damaged"


def test_a_damaged_checkpoint_damages_its_run(helpers):
    agent, _ = trained(helpers)
    manifest = agent.run_dir / "checkpoints/60/manifest.json"
    manifest.write_bytes(manifest.read_bytes()[:-10])
    run = read_run(agent.run_dir)
    assert run.state == "damaged"
    assert str(manifest) in run.problem
    assert (run.task, run.env_steps) == ("Count", 60)


def test_without_its_config_a_run_is_damaged(write_run):
    (write_run() / "config.json").unlink()
    (run,) = find_runs()
    assert run.state == "damaged"
    assert "config.json" in run.problem


def test_a_folder_in_the_place_of_a_file_is_damage(write_run):
    run_dir = write_run()
    (run_dir / "metrics.csv").unlink()
    (run_dir / "metrics.csv").mkdir()
    assert read_run(run_dir).state == "damaged"


def test_the_algorithm_is_named_by_the_files(helpers, write_run):
    agent, _ = trained(helpers)
    (agent.run_dir / "system.json").unlink()  # as runs of before it have none
    assert algorithm_of(agent.run_dir) == "TableAgent"
    assert algorithm_of(write_run("newer", agent="IQN")) == "IQN"
    assert algorithm_of(write_run("unnamed", agent=None)) == "unknown"
    assert algorithm_of(write_run("odd", agent=["IQN"])) == "unknown"
    assert algorithm_of("nowhere") == "unknown"


@pytest.mark.parametrize("content", ["", "[]", "{}", "[1]", '[{"agent": 1}]'])
def test_a_damaged_system_names_no_algorithm(write_run, content):
    run_dir = write_run()
    (run_dir / "system.json").write_text(content)
    assert algorithm_of(run_dir) == "unknown"


def test_looking_changes_nothing(helpers):
    agent, _ = trained(helpers)
    before = written(agent.run_dir)
    find_runs()
    assert written(agent.run_dir) == before


def written(run_dir):
    """All that is in a run's files; a lock has no content, only its being held."""
    return {
        path: (path.read_bytes(), path.name == ".lock" or path.stat().st_mtime_ns)
        for path in run_dir.rglob("*")
        if path.is_file()
    }


def test_what_is_not_there_says_so():
    with pytest.raises(FileNotFoundError, match="there is no run in nowhere"):
        read_run("nowhere")
    with pytest.raises(FileNotFoundError, match=r"nowhere/config\.json"):
        read_config("nowhere")
    with pytest.raises(FileNotFoundError, match=r"nowhere/system\.json"):
        read_system("nowhere")


def test_a_config_is_read_strictly(write_run):
    run_dir = write_run()
    assert read_config(run_dir)["algo_params"]["hidden_sizes"] == [120, 84]
    (run_dir / "config.json").write_text('{"seed": 1, "seed": 2}')
    with pytest.raises(ValueError, match=r"config\.json is damaged: .*'seed' is there"):
        read_config(run_dir)
    (run_dir / "config.json").write_text("[]")
    with pytest.raises(ValueError, match="holds no dict"):
        read_config(run_dir)


def test_nothing_that_a_file_names_is_imported(write_run, monkeypatch, tmp_path):
    (tmp_path / "planted.py").write_text("import os; os.mkdir('sung')")
    monkeypatch.syspath_prepend(tmp_path)
    write_run(agent="planted", task_name="planted:Env-v0")
    (run,) = find_runs()
    assert (run.algorithm, run.task) == ("planted", "planted:Env-v0")
    assert not Path("sung").exists()
