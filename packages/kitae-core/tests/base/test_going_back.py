"""Going back to an earlier checkpoint: from then on the new branch is the run."""

import csv
import shutil
import warnings
from pathlib import Path

import gymnasium as gym
import pytest

from kitae.base.rundir import checkpoint
from kitae.base.rundir.directory import only_begun
from kitae.runs import find_runs

RUN = Path("runs/run")
CHANGES = {"n_env_steps": 200, "save_frequency": 20, "log_frequency": 10}


def make(helpers, env, **changes):
    return helpers.make_agent(env, **{**CHANGES, "keep_last": -1, **changes})


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    return tmp_path_factory.mktemp("kept") / "run"


@pytest.fixture
def env(helpers, kept):
    """Environments whose run has the checkpoints 20, 40, 60 and 80."""
    env = helpers.count_envs()
    if not kept.exists():
        make(helpers, env).train(env, 80)
        shutil.move(RUN, kept)
    shutil.copytree(kept, RUN)
    return env


def rows():
    with (RUN / "metrics.csv").open(newline="") as file:
        return [int(row["env_step"]) for row in csv.DictReader(file)]


def retired():
    names = [path.name for path in (RUN / "checkpoints").iterdir()]
    return sorted(name for name in names if name.endswith(".retired"))


def load(helpers, step):
    return helpers.TableAgent.load(RUN, params_type=helpers.TableParams, step=step)


def resume(helpers, env, until, step):
    make(helpers, env).resume(env, until, step=step)


def load_and_train(helpers, env, until, step):
    load(helpers, step).train(env, until - step)


@pytest.mark.parametrize("go", [resume, load_and_train])
def test_a_plain_resume_follows_the_branch_that_was_gone_back_to(helpers, env, go):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        go(helpers, env, 50, 40)
        make(helpers, env).resume(env, 70)
    assert rows() == [10, 20, 30, 40, 50, 60, 70]
    (found,) = [str(warning.message) for warning in caught]
    assert "back to environment step 40: " in found
    assert "of the steps 60, 80) and later rows" in found
    assert retired() == []
    assert checkpoint.steps(RUN) == [20, 40, 50, 60, 70]
    (run,) = find_runs()
    assert (run.env_steps, run.state) == (70, "interrupted")


class Killed(BaseException):
    """Ends a training as a kill does: nothing of it runs any more."""


def killed_before(monkeypatch, name, n):
    """Has the `n`-th call of a function of `checkpoint` and all later ones fail."""
    function, calls = getattr(checkpoint, name), []

    def call(*args, **kwargs):
        calls.append(args)
        if len(calls) >= n:
            raise Killed
        return function(*args, **kwargs)

    monkeypatch.setattr(checkpoint, name, call)


@pytest.mark.parametrize(
    "name, n, left",
    [
        ("move_folder", 1, [20, 40, 60, 80]),
        ("move_folder", 2, [20, 40, 60]),
        ("write", 1, [20, 40]),
        ("remove_any", 3, [20, 40]),  # before the first file of the next checkpoint
    ],
)
def test_a_kill_at_any_moment_leaves_a_run_that_continues(
    helpers, env, monkeypatch, name, n, left
):
    agent = make(helpers, env)
    with monkeypatch.context() as patched:
        killed_before(patched, name, n)
        with pytest.warns(RuntimeWarning), pytest.raises(Killed):
            agent.resume(env, 100, step=40)
    assert checkpoint.steps(RUN) == left
    assert not only_begun(RUN)
    assert find_runs()[0].state == "interrupted"
    make(helpers, env).resume(env, 120)
    assert retired() == []
    newest = left[-1]
    assert checkpoint.steps(RUN) == [*left, *range(newest + 20, 121, 20)]
    assert rows() == list(range(10, 121, 10))


def test_the_old_branch_is_kept_aside_until_the_new_one_has_a_checkpoint(
    helpers, env, monkeypatch
):
    seen = []
    write = checkpoint.write

    def watched(run_dir, step, *args):
        seen.append((step, retired()))
        return write(run_dir, step, *args)

    monkeypatch.setattr(checkpoint, "write", watched)
    with pytest.warns(RuntimeWarning):
        make(helpers, env).resume(env, 100, step=40)
    assert seen[0] == (60, [".60.retired", ".80.retired"])
    assert seen[1] == (80, [])


def test_a_resume_that_is_refused_leaves_everything(helpers, env):
    class Refused(helpers.CountEnv):
        def step(self, action):
            raise RuntimeError("refused")

    before = rows()
    wider = helpers.make_agent(env, max_buffer_size=60, **CHANGES)
    with pytest.raises(ValueError, match="memory"):
        wider.resume(env, 100, step=40)
    refusing = gym.vector.SyncVectorEnv([Refused] * 2, autoreset_mode="SameStep")
    with (
        pytest.warns(RuntimeWarning, match="goes back"),
        pytest.raises(Exception, match="refused"),
    ):
        make(helpers, env).resume(refusing, 100, step=40)
    make(helpers, env).resume(env, 40, step=40)  # nothing is left to be trained
    assert checkpoint.steps(RUN) == [20, 40, 60, 80]
    assert (retired(), rows()) == ([], before)


def test_an_agent_that_takes_over_another_runs_checkpoint_begins_a_branch(helpers, env):
    shutil.copytree(RUN, "runs/other")
    agent = load(helpers, 80)
    agent.restore("runs/other", 20)
    for step in (20, 40):
        shutil.rmtree(RUN / f"checkpoints/{step}")
    with pytest.warns(RuntimeWarning, match=r"step 20: .*of the steps 60, 80\) and"):
        agent.train(env, 10)
    # Its own directory had none to go on from: it wrote one first.
    assert checkpoint.steps(RUN) == [20, 30]
    assert rows() == [10, 20, 30]


def test_saving_alone_leaves_later_checkpoints(helpers, env):
    load(helpers, 40).save()
    assert checkpoint.steps(RUN) == [20, 40, 60, 80]
    assert retired() == []


def test_many_seeds_at_once_retire_nothing(helpers):
    from kitae.envs import make_vec_env

    env = make_vec_env("phys2d/CartPole-v1", 2)
    agent = helpers.make_agent(env, n_env_steps=8)
    agent.train_seeds(env, 8, seeds=[3])
    (run,) = agent.train_seeds(env, 8, seeds=[3])
    run.agent.save()
    assert checkpoint.steps(run.agent.run_dir) == [8]
