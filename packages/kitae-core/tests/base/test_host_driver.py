import gc
import os
import threading
import weakref
from queue import SimpleQueue
from typing import ClassVar

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kitae.base.training import host_calls, host_driver
from kitae.base.training.drivers import Drivers, n_threads
from kitae.base.training.host_driver import HostDriver
from kitae.base.training.step_by_step import StepByStep
from kitae.base.xla import hoisting, loops
from kitae.base.xla.callback import callback


@pytest.fixture
def step_by_step(monkeypatch):
    """Lets trainings in the body take one step after the other."""

    def train(agent, env, n_env_steps):
        with monkeypatch.context() as patch:
            patch.setattr(Drivers, "_can_run_programs", lambda *_: False)
            return agent.train(env, n_env_steps)

    return train


def everything(agent):
    training = agent.training_state
    return training.state, training.memory, training.pending, training.counters.rows


@pytest.mark.parametrize("skip_steps", [1, 2, 3])
@pytest.mark.parametrize("log_frequency, short", [(7, 0), (1_000, 0), (7, 1_000)])
def test_does_as_step_by_step(
    helpers, step_by_step, autoreset_mode, skip_steps, log_frequency, short, monkeypatch
):
    # A warm-up of no more steps has no program of its own.
    monkeypatch.setattr(host_driver, "SHORT", short)
    agents, histories = [], []
    for train in (helpers.TableAgent.train, step_by_step):
        env = helpers.count_envs((3, 5), autoreset_mode)
        agent = helpers.make_agent(
            env,
            skip_steps=skip_steps,
            start_step=11,
            log_frequency=log_frequency,
            n_epochs=2,
        )
        histories += [train(agent, env, 40), train(agent, env, 21)]
        agents.append(agent)
    one, other = agents
    assert one.updates == other.updates > 0
    assert (one.step, one.iteration) == (other.step, other.iteration)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6),
        everything(one),
        everything(other),
    )
    for mine, its in zip(histories[:2], histories[2:], strict=True):
        assert mine.updates == its.updates
        np.testing.assert_array_equal(mine.episode_env_step, its.episode_env_step)
        np.testing.assert_array_equal(mine.episode_return, its.episode_return)


def test_programs_end_where_there_is_time_to_look(helpers, monkeypatch, step_by_step):
    # Each program is over after one group, or one step before the first update.
    monkeypatch.setattr(host_driver, "CHUNK_SECONDS", 0.0)
    agents = []
    for train in (helpers.TableAgent.train, step_by_step):
        env = helpers.count_envs((3, 5))
        agent = helpers.make_agent(env, skip_steps=3)
        train(agent, env, 50)
        agents.append(agent)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6),
        *map(everything, agents),
    )


class Traced(gym.Wrapper):
    """Remembers which threads have stepped it."""

    threads: ClassVar = set()

    def step(self, action):
        self.threads.add(threading.current_thread())
        return super().step(action)


@pytest.mark.parametrize(
    "skip_steps, render_mode", [(1, None), (3, None), (3, "rgb_array")]
)
def test_environments_step_in_the_thread_that_trains(helpers, skip_steps, render_mode):
    class Drawn(helpers.CountEnv):
        metadata: ClassVar = {"render_modes": ["rgb_array"]}

    Drawn.render_mode = render_mode
    env = gym.vector.SyncVectorEnv([lambda: Traced(Drawn())])
    Traced.threads.clear()
    helpers.make_agent(env, skip_steps=skip_steps).train(env, 60)
    assert Traced.threads == {threading.current_thread()}


@pytest.mark.parametrize("skip_steps", [1, 3])
def test_environments_may_use_jax(helpers, skip_steps):
    double = jax.jit(lambda x: (jnp.eye(256) * x) @ jnp.eye(256) * 2)

    class Doubles(gym.RewardWrapper):
        def reward(self, reward):
            return float(double(reward).max())

    env = gym.vector.SyncVectorEnv([lambda: Doubles(helpers.CountEnv(3))])
    agent = helpers.make_agent(env, skip_steps=skip_steps)
    history = agent.train(env, 40)
    # Of three steps each; the count goes on by a hundred with each episode.
    expected = 2 * (0 + 1 + 2), 2 * (103 + 104 + 105)
    assert tuple(history.episode_return[:2]) == expected


def test_no_program_waits_for_environments_where_xla_has_one_thread(
    helpers, monkeypatch
):
    """It would hold the thread that environments that use JAX wait for."""
    env = helpers.count_envs((3, 5))
    agent = helpers.make_agent(env)
    for n, kind in (("1", StepByStep), ("2", HostDriver)):
        monkeypatch.setenv("PJRT_NPROC", n)
        driver = agent._drivers.make(env, agent.training_state, seed=0)
        assert type(driver) is kind
    monkeypatch.delenv("PJRT_NPROC")
    assert n_threads() == len(os.sched_getaffinity(0))


@pytest.mark.parametrize("skip_steps", [1, 3])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_comes_out_and_training_can_go_on(helpers, skip_steps, error):
    class Breaks(helpers.CountEnv):
        breaks = True

        def step(self, action):
            if self.breaks and len(self.actions) == 12:
                raise error("the wheel came off")
            return super().step(action)

    env = gym.vector.SyncVectorEnv([Breaks])
    agent = helpers.make_agent(env, skip_steps=skip_steps)
    with pytest.raises(error, match="the wheel came off"):
        agent.train(env, 50)
    assert agent.step == 12
    Breaks.breaks = False
    history = agent.train(env, 30)
    assert (agent.step, history.env_steps) == (42, 30)
    assert np.isfinite(np.asarray(agent.state["value"])).all()


def test_an_interrupt_while_waiting_lets_the_program_end(helpers, monkeypatch):
    main = threading.current_thread()

    class Interrupted(SimpleQueue):
        left = 5

        def get(self):
            if threading.current_thread() is main:
                self.left -= 1
                if self.left == 0:
                    raise KeyboardInterrupt
            return super().get()

    env = helpers.count_envs((3, 5))
    agent = helpers.make_agent(env)
    with monkeypatch.context() as patch:
        patch.setattr(host_calls, "SimpleQueue", Interrupted)
        with pytest.raises(KeyboardInterrupt):
            agent.train(env, 100)
    assert not [one for one in threading.enumerate() if one.name == "kitae-program"]
    agent.train(env, 20)
    assert np.isfinite(np.asarray(agent.state["value"])).all()


def test_what_others_hold_is_never_written_to(helpers):
    env = helpers.count_envs((3, 5))
    agent = helpers.make_agent(env)
    empty = agent.functions.empty_rows(agent.training_state)
    nothing = jax.tree.map(np.copy, empty)
    agent.train(env, 60)
    agent.train(env, 60)
    jax.tree.map(np.testing.assert_array_equal, empty, nothing)


@pytest.mark.parametrize("skip_steps", [1, 2])
def test_a_second_training_compiles_nothing(helpers, caplog, skip_steps):
    env = helpers.count_envs((3, 5))
    agent = helpers.make_agent(env, skip_steps=skip_steps)
    agent.train(env, 40)
    with jax.log_compiles():
        agent.train(env, 40)
        assert "Compiling" not in caplog.text
        jax.jit(lambda x: x + 1)(1)
    assert "Compiling" in caplog.text


@pytest.mark.parametrize("skip_steps", [1, 2])
def test_an_agent_that_is_dropped_is_freed(helpers, skip_steps):
    env = helpers.count_envs((3, 5))
    agent = helpers.make_agent(env, skip_steps=skip_steps)
    agent.train(env, 40)
    # Programs hold what they call, and the collector does not look into programs.
    watched = weakref.ref(agent)
    del agent
    gc.collect()
    assert watched() is None


def test_a_loop_goes_on_as_long_as_its_carry_says():
    def body(constants, carry, number):
        return carry + number.astype(jnp.int32), None

    parts = hoisting.split(body, (), jnp.int32(0), jnp.uint32(0))
    numbers = jnp.arange(10, dtype=jnp.uint32)
    values = hoisting.ahead(parts, (), numbers)
    for n, expected in ((10, 6), (3, 3)):
        carry, y = loops.loop(
            parts,
            10,
            (),
            jnp.int32(0),
            numbers,
            values,
            jnp.int32(n),
            going=lambda carry: carry < 5,
        )
        assert y is None
        assert int(carry) == expected


def test_a_program_calls_python_in_order_and_takes_what_it_gives():
    seen = []

    def tell(i, x):
        seen.append((int(i), x.copy()))
        return [x + i, np.bool_(i < 2)]

    shapes = [jax.ShapeDtypeStruct((2,), np.float32), jax.ShapeDtypeStruct((), bool)]

    @jax.jit
    def run(x):
        def body(carry):
            i, x, _ = carry
            return i + 1, *callback(tell, shapes, i, x)

        return jax.lax.while_loop(
            lambda carry: carry[2], body, (jnp.int32(0), x, jnp.bool_(True))
        )

    count, x, _ = run(jnp.ones(2))
    assert int(count) == 3
    assert np.asarray(x).tolist() == [4.0, 4.0]
    assert [i for i, _ in seen] == [0, 1, 2]
    assert [x[0] for _, x in seen] == [1.0, 1.0, 2.0]
