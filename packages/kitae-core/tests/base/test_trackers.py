import csv
import json

import pytest

from kitae.base import TensorBoard, Tracker, WandB


class Notes(Tracker):
    def __init__(self):
        self.found = []

    def start(self, run_dir, config, env_step):
        self.found.append(("start", run_dir, config.seed, env_step))

    def log(self, env_step, metrics):
        self.found.append(("log", env_step, dict(metrics)))

    def close(self):
        self.found.append(("close",))


def test_a_tracker_is_told_every_row_that_the_file_has(helpers):
    env, notes = helpers.count_envs(), Notes()
    agent = helpers.make_agent(env, log_frequency=10)
    agent.train(env, 40, trackers=[notes])
    first, *rows, last = notes.found
    assert first == ("start", agent.run_dir, agent.config.seed, 0)
    assert last == ("close",)
    with (agent.run_dir / "metrics.csv").open(encoding="utf-8") as file:
        written = list(csv.DictReader(file))
    assert len(rows) == len(written) >= 4
    for (_, env_step, metrics), row in zip(rows, written, strict=True):
        assert env_step == int(row.pop("env_step"))
        filled = {name: float(value) for name, value in row.items() if value}
        assert metrics == filled


def test_a_function_is_a_tracker(helpers):
    env, steps = helpers.count_envs(), []
    agent = helpers.make_agent(env, log_frequency=20)
    agent.train(env, 40, trackers=[lambda step, metrics: steps.append(step)])
    agent.train(env, 20)  # which has none
    assert steps == [20, 40]


def test_a_resumed_run_tells_where_it_goes_on(helpers):
    env, notes = helpers.count_envs(), Notes()
    helpers.make_agent(env, "again").train(env, 40)
    again = helpers.make_agent(env, "again")
    again.resume(env, 60, trackers=[notes])
    assert notes.found[0] == ("start", again.run_dir, again.config.seed, 40)
    assert [found[1] for found in notes.found if found[0] == "log"] == [60]


def test_trackers_are_closed_when_a_training_fails(helpers):
    env, notes = helpers.count_envs(), Notes()

    def fails(env_step, metrics):
        raise ArithmeticError("disk full of hopes")

    with pytest.raises(ArithmeticError):
        helpers.make_agent(env, log_frequency=20).train(
            env, 40, trackers=[notes, fails]
        )
    assert notes.found[-1] == ("close",)


@pytest.mark.parametrize("wrong", [3, "tensorboard", Notes])
def test_refuses_what_is_no_tracker(helpers, wrong):
    env = helpers.count_envs()
    agent = helpers.make_agent(env)
    with pytest.raises(TypeError, match=r"trackers must be .* got"):
        agent.train(env, 40, trackers=[wrong])
    assert agent.run_dir is None


@pytest.mark.parametrize("by_config", [True, False])
def test_tensorboards_files_hold_the_metrics(helpers, by_config):
    env = helpers.count_envs()
    agent = helpers.make_agent(env, tensorboard=by_config, log_frequency=20)
    agent.train(env, 40, trackers=() if by_config else [TensorBoard()])
    (events,) = (agent.run_dir / "tensorboard").iterdir()
    assert events.name.startswith("events.out.tfevents")
    content = events.read_bytes()
    assert b"loss_value" in content
    assert b"episode_return" in content


def test_weights_and_biases_goes_on_with_the_same_run(helpers):
    pytest.importorskip("wandb")
    env = helpers.count_envs()
    helpers.make_agent(env, "w").train(env, 40, trackers=[WandB("p", mode="offline")])
    again = helpers.make_agent(env, "w")
    again.resume(env, 60, trackers=[WandB("p", mode="offline")])
    run_id = json.loads((again.run_dir / "wandb.json").read_text(encoding="utf-8"))[
        "id"
    ]
    folders = sorted(again.run_dir.glob("wandb/offline-run-*"))
    assert len(folders) >= 1
    assert all(folder.name.endswith(run_id) for folder in folders)
    assert any(b"loss_value" in f.read_bytes() for f in again.run_dir.rglob("*.wandb"))
