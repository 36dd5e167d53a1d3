"""Evaluation by itself and inside of training, in both drivers."""

import csv
from pathlib import Path

import jax
import numpy as np
import pytest
from gymnasium.experimental.functional import FuncEnv
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import VectorWrapper

from kitae.base.rundir import checkpoint
from kitae.envs.functional import JaxVectorEnv
from kitae.runs.curves import read_curve


class Drift(FuncEnv):
    """A walk of eighths, with noise, from near 0 until it is past 3."""

    observation_space = Box(-np.inf, np.inf, (1,), np.float32)
    action_space = Discrete(2)

    def initial(self, rng, params=None):
        return jax.random.randint(rng, (1,), -8, 8) / 8.0

    def transition(self, state, action, rng, params=None):
        return state + jax.random.randint(rng, (1,), -3, 5) / 8.0

    def observation(self, state, rng, params=None):
        return state

    def reward(self, state, action, next_state, rng, params=None):
        return state[0] * 0.5

    def terminal(self, state, rng, params=None):
        return abs(state[0]) > 3.0


def drifts(n_envs=3, limit=40):
    return JaxVectorEnv(Drift(), n_envs, limit)


DRIVERS = pytest.mark.parametrize("driver", ["compiled", "host"])


def envs(driver):
    """Environments of a training, and others to evaluate in."""
    if driver == "compiled":
        return drifts(), None
    return VectorWrapper(drifts()), VectorWrapper(drifts(5))


def leaves(agent):
    return [np.asarray(x) for x in jax.tree.leaves((agent.state, agent.memory))]


def rows_of(agent):
    with (agent.run_dir / "evaluations.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("n_episodes", [1, 3, 10, 200])
@pytest.mark.parametrize("options", [{}, {"seed": 7}, {"max_episode_steps": 4}])
def test_one_program_plays_what_the_host_plays(helpers, n_episodes, options):
    env = drifts()
    agent = helpers.make_agent(env)
    mine = agent.evaluate(env, n_episodes, **options)
    # Wrapped, it is a vector environment like any other, stepped by the host.
    theirs = agent.evaluate(VectorWrapper(drifts()), n_episodes, **options)
    assert mine.shape == (n_episodes,)
    np.testing.assert_array_equal(mine, theirs)
    if n_episodes > 1:
        assert len(set(mine.tolist())) > 1


def test_one_program_refuses_what_the_environment_must_not_give(helpers):
    class Broken(Drift):
        def reward(self, state, action, next_state, rng, params=None):
            return state[0] / 0.0

    env = JaxVectorEnv(Broken(), 3, 40)
    with pytest.raises(ValueError, match="its reward is not finite"):
        helpers.make_agent(env).evaluate(env, 3)


def test_one_program_knows_what_the_agent_remembers(helpers):
    class Remembers(helpers.TableAgent):
        def initial_hidden_state(self, n_envs):
            return jax.numpy.zeros(n_envs)

        def select_action(self, observation):
            self.hidden_state = self.hidden_state + 1
            return (self.hidden_state % 2).astype(int), self.hidden_state

    class Alternates(Drift):
        def initial(self, rng, params=None):
            return jax.numpy.zeros(1)

        def transition(self, state, action, rng, params=None):
            return state + 0.5

        def reward(self, state, action, next_state, rng, params=None):
            return action.astype(float)

    env = JaxVectorEnv(Alternates(), 2)
    agent = helpers.make_agent(env, agent_type=Remembers)
    # Seven steps of 1, 0, 1, 0, 1, 0, 1: anew in each episode.
    assert agent.evaluate(env, 6).tolist() == [4.0] * 6


def test_what_cannot_be_compiled_is_evaluated_all_the_same(helpers):
    class Plain(helpers.TableAgent):
        def select_action(self, observation):
            n = len(np.asarray(observation))
            return np.zeros(n, np.int32), np.zeros(n)

    env = drifts()
    agent = helpers.make_agent(env, agent_type=Plain)
    with pytest.warns(RuntimeWarning, match="select_action cannot be compiled"):
        mine = agent.evaluate(env, 5)
    np.testing.assert_array_equal(mine, helpers.make_agent(env).evaluate(env, 5))


# --- While an agent trains ------------------------------------------------------------

OFTEN = {"eval_frequency": 50, "n_eval_episodes": 7, "log_frequency": 60}


@DRIVERS
@pytest.mark.parametrize("skip_steps", [1, 4])
def test_evaluations_leave_the_training_as_it_is(helpers, driver, skip_steps):
    env, eval_env = envs(driver)
    changes = {"n_env_steps": 300, "log_frequency": 60, "skip_steps": skip_steps}
    alone = helpers.make_agent(env, "alone", **changes)
    alone_history = alone.train(env, 300)
    agent = helpers.make_agent(env, "evaluated", **{**changes, **OFTEN})
    history = agent.train(env, 300, eval_env=eval_env)
    for mine, theirs in zip(leaves(agent), leaves(alone), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    np.testing.assert_array_equal(history.episode_return, alone_history.episode_return)
    rows = rows_of(agent)
    assert [int(row["env_step"]) // 50 for row in rows] == [1, 2, 3, 4, 5, 6]
    assert not (alone.run_dir / "evaluations.csv").exists()


@DRIVERS
def test_a_row_is_what_evaluate_gives_at_that_step(helpers, driver):
    env, eval_env = envs(driver)
    agent = helpers.make_agent(env, n_env_steps=100, **{**OFTEN, "eval_frequency": 99})
    agent.train(env, 99, eval_env=eval_env)
    (row,) = rows_of(agent)
    returns = agent.evaluate(eval_env or env, 7)
    assert int(row["env_step"]) == agent.step
    assert int(row["updates"]) == agent.updates
    assert int(row["episodes"]) == 7
    found = [float(row[f"return_{name}"]) for name in ("mean", "std", "min", "max")]
    known = [returns.mean(), returns.std(), returns.min(), returns.max()]
    np.testing.assert_array_equal(found, known)


@DRIVERS
def test_a_resumed_run_has_the_evaluations_of_the_whole(helpers, driver):
    env, eval_env = envs(driver)
    changes = {**OFTEN, "n_env_steps": 300, "save_frequency": 75}
    changes |= {"reset_on_save": True, "keep_last": -1}
    whole = helpers.make_agent(env, "whole", **changes)
    whole.train(env, 300, eval_env=eval_env)
    halves = helpers.make_agent(env, "halves", **changes)
    halves.train(env, 200, eval_env=eval_env)
    again = helpers.make_agent(env, "halves", **changes)
    step = checkpoint.steps(halves.run_dir)[1]
    with pytest.warns(RuntimeWarning, match="goes back to environment step"):
        again.resume(env, 300, step=step, eval_env=eval_env)
    for mine, theirs in zip(leaves(again), leaves(whole), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    mine, theirs = rows_of(again), rows_of(whole)
    for row in (*mine, *theirs):
        del row["seconds"]
    assert mine == theirs


class Improves:
    """Returns of evaluations, in place of those that were played."""

    def __init__(self, means):
        self.means = iter(means)

    def __call__(self, *_):
        return np.full(3, next(self.means))


def test_the_best_checkpoint_is_that_of_the_best_evaluation(helpers, monkeypatch):
    env = drifts()
    agent = helpers.make_agent(
        env, n_env_steps=300, eval_frequency=60, save_frequency=60, keep_last=1
    )
    means = Improves([1.0, 5.0, 2.0, 3.0, 4.0])
    monkeypatch.setattr("kitae.base.training.drivers.Drivers.evaluate", means)
    agent.train(env, 300)
    assert checkpoint.steps(agent.run_dir) == [120, 300]
    assert checkpoint.read(agent.run_dir, 120).facts["score"] == 5.0


def test_trackers_and_the_curve_have_the_evaluations(helpers):
    env, rows = drifts(), []
    agent = helpers.make_agent(env, n_env_steps=150, **OFTEN)
    agent.train(env, 150, trackers=[lambda step, row: rows.append((step, row))])
    evaluations = [(step, row) for step, row in rows if "eval_return" in row]
    curve = read_curve(agent.run_dir, "eval_return")
    assert [step for step, _ in evaluations] == curve.x.tolist() == [51, 102, 150]
    assert [row["eval_return"] for _, row in evaluations] == curve.y.tolist()


def test_seeds_side_by_side_are_not_evaluated(helpers):
    agent = helpers.make_agent(drifts(), n_env_steps=100, **OFTEN)
    with pytest.raises(ValueError, match="eval_frequency must be -1, got 50"):
        agent.train_seeds(drifts(), 100, seeds=[0, 1])


def test_environments_to_evaluate_in_must_be_others(helpers):
    host = VectorWrapper(drifts())
    agent = helpers.make_agent(host, n_env_steps=100, **OFTEN)
    for eval_env in (None, host):
        with pytest.raises(ValueError, match="eval_env must be environments of their"):
            agent.train(host, 100, eval_env=eval_env)
    agent = helpers.make_agent(host, n_env_steps=100)
    with pytest.raises(ValueError, match=r"train_cfg\.eval_frequency is -1"):
        agent.train(host, 100, eval_env=VectorWrapper(drifts()))
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    "field, value", [("eval_frequency", 0), ("n_eval_episodes", 0)]
)
def test_the_config_refuses_what_is_no_number_of_steps(helpers, field, value):
    with pytest.raises(ValueError, match=f"^{field} must be"):
        helpers.make_agent(drifts(), **{field: value})
