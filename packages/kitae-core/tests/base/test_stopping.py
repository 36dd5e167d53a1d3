"""How a training ends: by an error, a tracker or a signal; and what is saved then."""

import os
import signal
import threading
from pathlib import Path

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.experimental.functional import FuncEnv
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import SyncVectorEnv

from kitae.base import StopTraining
from kitae.base.common.interrupts import held_back
from kitae.base.rundir import checkpoint
from kitae.envs.functional import JaxVectorEnv


class Walk(FuncEnv):
    observation_space = Box(-np.inf, np.inf, (1,), np.float32)
    action_space = Discrete(2)

    def initial(self, rng, params=None):
        return jnp.float32(0)

    def transition(self, state, action, rng, params=None):
        return state + 1

    def observation(self, state, rng, params=None):
        return state[None]

    def reward(self, state, action, next_state, rng, params=None):
        return jnp.float32(1)

    def terminal(self, state, rng, params=None):
        return state >= 5


@pytest.fixture(params=["host", "compiled"])
def env(request, helpers):
    """The same in both drivers: two environments, in which every step counts."""
    if request.param == "host":
        return helpers.count_envs()
    return JaxVectorEnv(Walk(), 2)


def leaves(agent):
    return [np.asarray(leaf) for leaf in jax.tree.leaves((agent.state, agent.memory))]


def at(step, then):
    def tracker(env_step, metrics):
        if env_step == step:
            then()

    return tracker


def raising(error):
    def then():
        raise error

    return then


def agent_of(helpers, env, **changes):
    return helpers.make_agent(env, log_frequency=10, n_env_steps=100, **changes)


@pytest.mark.parametrize("kind", [RuntimeError, SystemExit])
def test_a_tracker_that_raises_costs_nothing(helpers, env, kind):
    agent = agent_of(helpers, env)
    with pytest.raises(kind) as caught:
        agent.train(env, 100, trackers=[at(40, raising(kind("a tracker")))])
    assert caught.value.__notes__ == [
        "run was saved at environment step 40 in runs/run: resume continues from there"
    ]
    again = agent_of(helpers, env)
    again.restore("runs/run")
    assert again.step == 40
    for mine, theirs in zip(leaves(again), leaves(agent), strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("traced", [True, False])
def test_an_environment_that_raises_costs_nothing(helpers, traced):
    class Raises(helpers.CountEnv):
        def step(self, action):
            if len(self.actions) == 21:
                raise LookupError("no more")
            return super().step(action)

    class Untraced(helpers.TableAgent):
        def explore(self, observation):
            np.asarray(observation)
            return super().explore(observation)

    env = SyncVectorEnv([Raises, Raises], autoreset_mode="SameStep")
    agent = agent_of(
        helpers, env, agent_type=helpers.TableAgent if traced else Untraced
    )
    if not traced:
        with pytest.warns(RuntimeWarning, match="cannot be compiled"):
            agent.functions.empty_rows(agent.training_state)
    with pytest.raises(LookupError, match="no more") as caught:
        agent.train(env, 100)
    assert "saved at environment step 42 in runs/run" in caught.value.__notes__[0]
    assert checkpoint.steps(agent.run_dir) == [42]
    assert int(agent.memory.size.sum()) == 42


def test_an_environment_that_exits_is_an_error(helpers):
    class Exits(helpers.CountEnv):
        def step(self, action):
            if len(self.actions) == 9:
                raise SystemExit(0)
            return super().step(action)

    env = SyncVectorEnv([helpers.CountEnv, Exits], autoreset_mode="SameStep")
    agent = agent_of(helpers, env)
    with pytest.raises(RuntimeError, match=r"raised SystemExit\(0\) at vector step 9"):
        agent.train(env, 100)
    assert checkpoint.steps(agent.run_dir) == [18]


def test_a_bad_row_is_not_stored_and_what_came_before_it_is_saved(helpers):
    class Bad(helpers.CountEnv):
        def step(self, action):
            observation, reward, *rest = super().step(action)
            return observation, np.nan if len(self.actions) == 15 else reward, *rest

    env = SyncVectorEnv([Bad, helpers.CountEnv], autoreset_mode="SameStep")
    agent = agent_of(helpers, env)
    with pytest.raises(ValueError, match="reward of environment 0 at vector step 14"):
        agent.train(env, 100)
    assert checkpoint.steps(agent.run_dir) == [28]
    again = agent_of(helpers, env)
    healthy = helpers.count_envs()
    again.resume(healthy, 60)
    assert again.step == 60


def test_a_state_that_is_spoilt_is_not_saved(helpers, env):
    class Spoils(helpers.TableAgent):
        def _update_factory(self, config):
            update = super()._update_factory(config)

            def spoil(state, key, batch):
                state, _ = update(state, key, batch)
                bad = state["updates"] == 5
                state["value"] = jnp.where(bad, jnp.nan, state["value"])
                return state, {"loss_value": jnp.where(bad, jnp.nan, 1.0)}

            return spoil

    agent = agent_of(helpers, env, agent_type=Spoils)
    with pytest.raises(FloatingPointError) as caught:
        agent.train(env, 100)
    assert "was not saved at environment step" in caught.value.__notes__[0]
    assert checkpoint.steps(agent.run_dir) == []


def test_an_error_before_the_first_step_saves_nothing(helpers):
    class Never(helpers.CountEnv):
        def step(self, action):
            raise LookupError

    env = SyncVectorEnv([Never, Never], autoreset_mode="SameStep")
    agent = agent_of(helpers, env)
    with pytest.raises(LookupError) as caught:
        agent.train(env, 100)
    assert not hasattr(caught.value, "__notes__")
    assert checkpoint.steps(agent.run_dir) == []


def test_a_tracker_may_stop_a_training(helpers, env):
    agent, rows = agent_of(helpers, env), []

    def tracker(env_step, metrics):
        rows.append(env_step)
        if env_step >= 30:
            raise StopTraining

    after = []
    history = agent.train(env, 100, trackers=[tracker, lambda s, m: after.append(s)])
    assert (agent.step, history.env_steps) == (30, 30)
    assert rows == after == [10, 20, 30]
    assert checkpoint.steps(agent.run_dir) == [30]
    # Another call continues as if there had been one.
    assert agent.train(env, 20).env_steps == 20


def test_a_tracker_may_save_and_evaluate(helpers, env):
    agent, returned = agent_of(helpers, env), []

    def look():
        returned.append((agent.save(), agent.evaluate(env_of(env, helpers), 2).shape))

    history = agent.train(env, 100, trackers=[at(30, look)])
    path, shape = returned[0]
    assert path == Path("runs/run/checkpoints/30").absolute()
    assert shape == (2,)
    assert checkpoint.steps(agent.run_dir) == [30, 100]
    assert history.env_steps == 100
    quiet = helpers.make_agent(env_of(env, helpers), "quiet", n_env_steps=100)
    quiet.train(env_of(env, helpers), 100)
    for mine, theirs in zip(leaves(agent), leaves(quiet), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def env_of(env, helpers):
    return helpers.count_envs() if isinstance(env, SyncVectorEnv) else env


def test_what_a_tracker_saved_resumes_exactly(helpers):
    env = JaxVectorEnv(Walk(), 2)
    agent = agent_of(helpers, env)
    agent.train(env, 100, trackers=[at(30, agent.save)])
    again = agent_of(helpers, env)
    with pytest.warns(RuntimeWarning, match="goes back to environment step 30"):
        again.resume(env, 100, step=30)
    for mine, theirs in zip(leaves(again), leaves(agent), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_saving_from_another_thread_is_refused(helpers, env):
    agent, caught = agent_of(helpers, env), []

    def save():
        try:
            agent.save()
        except RuntimeError as error:
            caught.append(str(error))

    def in_a_thread():
        thread = threading.Thread(target=save)
        thread.start()
        thread.join()

    agent.train(env, 40, trackers=[at(20, in_a_thread)])
    assert len(caught) == 1
    assert "another thread trains this agent" in caught[0]
    agent.save()


SIGNALS = [signal.SIGTERM, signal.SIGHUP, signal.SIGINT]


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_saves_and_ends_the_training(helpers, env, number):
    agent = agent_of(helpers, env)
    ends = KeyboardInterrupt if number == signal.SIGINT else SystemExit
    with pytest.raises(ends) as caught:
        agent.train(env, 100, trackers=[at(30, lambda: os.kill(os.getpid(), number))])
    assert checkpoint.steps(agent.run_dir) == [agent.step] == [30]
    if ends is SystemExit:
        assert caught.value.code == 128 + number


def test_a_signal_that_comes_twice_does_not_break_the_saving(helpers, env):
    """`timeout` sends SIGTERM to the process, and to its group."""
    agent = agent_of(helpers, env)

    def twice():
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(SystemExit):
        agent.train(env, 100, trackers=[at(30, twice)])
    assert checkpoint.steps(agent.run_dir) == [30]


def test_a_second_ctrl_c_is_raised_at_once():
    with held_back() as interrupt:
        os.kill(os.getpid(), signal.SIGTERM)
        assert interrupt.signal is signal.SIGTERM
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_that_is_ignored_stays_ignored(number):
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with held_back() as interrupt:
            os.kill(os.getpid(), number)
            assert interrupt.signal is None
        assert signal.getsignal(number) is signal.SIG_IGN
    finally:
        signal.signal(number, before)


def test_an_environment_that_changes_the_directory_loses_no_run(helpers, tmp_path):
    class Moves(helpers.CountEnv):
        def reset(self, **kwargs):
            os.makedirs("elsewhere", exist_ok=True)
            os.chdir("elsewhere")
            return super().reset(**kwargs)

    def envs():
        return SyncVectorEnv([Moves, Moves], autoreset_mode="SameStep")

    agent = agent_of(helpers, envs(), save_frequency=20)
    agent.train(envs(), 60)
    os.chdir(tmp_path)
    assert agent.run_dir == tmp_path / "runs/run"
    assert checkpoint.steps(agent.run_dir) == [20, 40, 60]
    assert not list(tmp_path.glob("**/elsewhere/runs"))
    loaded = helpers.TableAgent.load("runs/run", params_type=helpers.TableParams)
    (tmp_path / "other").mkdir()
    os.chdir("other")
    loaded.resume(envs(), 80)
    assert checkpoint.steps(agent.run_dir)[-1] == 80


class Endless(gym.Env):
    """Never ends by itself."""

    observation_space = Box(-np.inf, np.inf, (1,), np.float32)
    action_space = Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.t += 1
        return np.array([self.t], np.float32), float(self.t), False, False, {}


def endless(mode):
    return SyncVectorEnv([Endless, Endless], autoreset_mode=mode)


def test_an_episode_that_never_ends_can_be_cut_off(helpers, autoreset_mode):
    env = endless(autoreset_mode)
    agent = helpers.make_agent(env)
    # 1 + 2 + 3 + 4, in each of five episodes, three of them in the first environment.
    returns = agent.evaluate(env, 5, max_episode_steps=4)
    assert returns.tolist() == [10.0] * 5
    with pytest.raises(ValueError, match="max_episode_steps must be an int"):
        agent.evaluate(env, 5, max_episode_steps=0)


def test_only_episodes_that_are_too_long_are_cut_off(helpers, autoreset_mode):
    """Lengths 3 and 5, rewards 0, 1, 2, ... from 100 on at each new episode."""
    env = helpers.count_envs((3, 5), autoreset_mode)
    agent = helpers.make_agent(env)
    free = agent.evaluate(helpers.count_envs((3, 5), autoreset_mode), 2)
    assert free.tolist() == [0 + 1 + 2, sum(range(100_000, 100_005))]
    cut = agent.evaluate(env, 2, max_episode_steps=4)
    assert cut.tolist() == [0 + 1 + 2, sum(range(100_000, 100_004))]


def test_ctrl_c_ends_an_evaluation(helpers):
    env = endless("SameStep")
    agent = helpers.make_agent(env)
    agent.evaluate(env, 1, max_episode_steps=1)  # compiled by now
    timer = threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        agent.evaluate(env, 1)
