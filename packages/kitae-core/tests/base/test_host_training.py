"""The host driver, step by step, on environments whose every number is known."""

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode, VectorEnv

from kitae.buffer import stored_rows
from kitae.config.schedule import crossed


def held_rows(agent, env_index):
    """The rows of one environment, in the order in which they were stored."""
    size = int(agent.memory.size[env_index])
    return jax.tree.map(
        lambda x: np.asarray(x)[:size, env_index], stored_rows(agent.memory)
    )


def test_every_stored_row_is_a_real_step(helpers, autoreset_mode):
    env = helpers.count_envs((3, 5), autoreset_mode)
    agent = helpers.make_agent(env, n_env_steps=60)
    history = agent.train(env, 60)

    sizes = agent.memory.size.tolist()
    # What the environments themselves counted; the first rows stay in the ring.
    assert sizes == [len(member.actions) for member in env.envs]
    assert sum(sizes) == history.env_steps == agent.step
    for index, length in enumerate((3, 5)):
        rows = held_rows(agent, index)
        np.testing.assert_array_equal(rows.next_observation, rows.observation + 1)
        np.testing.assert_array_equal(rows.reward, rows.observation[:, 0])
        np.testing.assert_array_equal(rows.action, env.envs[index].actions)
        ends = np.arange(1, sizes[index] + 1) % length == 0
        np.testing.assert_array_equal(rows.done, ends)
        assert not rows.truncated.any()
        np.testing.assert_allclose(rows.log_prob, np.log(0.5))


def test_all_modes_give_the_same_transitions(helpers):
    tables = []
    for mode in helpers.MODES:
        env = helpers.count_envs((3, 5), mode, truncate=True)
        agent = helpers.make_agent(env, n_env_steps=80)
        agent.train(env, 80)
        rows = [held_rows(agent, index) for index in range(2)]
        tables.append(
            [
                (
                    r.observation[:20],
                    r.next_observation[:20],
                    r.done[:20],
                    r.truncated[:20],
                )
                for r in rows
            ]
        )
    for other in tables[1:]:
        for mine, theirs in zip(tables[0], other, strict=True):
            for a, b in zip(mine, theirs, strict=True):
                np.testing.assert_array_equal(a, b)


def test_truncation_is_stored_apart_from_termination(helpers, autoreset_mode):
    env = helpers.count_envs((4, 4), autoreset_mode, truncate=True)
    agent = helpers.make_agent(env, n_env_steps=40)
    agent.train(env, 40)
    rows = held_rows(agent, 0)
    assert not rows.done.any()
    np.testing.assert_array_equal(rows.truncated[:8], [0, 0, 0, 1, 0, 0, 0, 1])
    # The last observation of the episode, not the first of the next.
    np.testing.assert_array_equal(
        rows.next_observation[:, 0], rows.observation[:, 0] + 1
    )


class TenSteps(gym.Env):
    """Reward 1 at each of ten steps; sees the time, or nothing."""

    action_space = Discrete(2)

    def __init__(self, truncate):
        self.truncate = truncate
        self.observation_space = Box(0.0, 10.0, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self._observation(), {}

    def step(self, action):
        self.t += 1
        end = self.t == 10
        return (
            self._observation(),
            1.0,
            end and not self.truncate,
            end and self.truncate,
            {},
        )

    def _observation(self):
        return np.array([0 if self.truncate else self.t], np.float32)


@pytest.mark.parametrize(
    "truncate, value",
    # Cut off, the sum goes on for ever: 1 / (1 - 0.9). Terminated: (1 - 0.9^10) / 0.1.
    [(True, 10.0), (False, 6.5132156)],
)
def test_bootstraps_through_truncation_alone(helpers, autoreset_mode, truncate, value):
    env = gym.vector.SyncVectorEnv(
        [lambda: TenSteps(truncate)] * 2, autoreset_mode=autoreset_mode
    )
    agent = helpers.make_agent(
        env, n_states=11, n_env_steps=1500, learning_rate=0.5, batch_size=64
    )
    agent.train(env, 1500)
    assert float(agent.state["value"][0]) == pytest.approx(value, abs=1e-3)


def test_returns_and_lengths_are_counted(helpers, autoreset_mode):
    env = helpers.count_envs((3, 5), autoreset_mode)
    agent = helpers.make_agent(env, n_env_steps=60)
    history = agent.train(env, 60)
    # By hand: environment 0 counts 0, 1, 2, then 100, 101, 102 and so on, the
    # observation that was left being the reward; environment 1 counts from 100,000.
    firsts = [
        ("short", e * 100 * 3 + 3, 3) for e in range(len(env.envs[0].actions) // 3)
    ]
    longs = [
        ("long", 5 * (100_000 + 100 * e) + 10, 5)
        for e in range(len(env.envs[1].actions) // 5)
    ]
    # Episodes go on from the count where the last one stopped.
    firsts = [(3 * (3 * e) + 3 + 300 * e, 3) for e in range(len(firsts))]
    longs = [(5 * (100_000 + 100 * e + 5 * e) + 10, 5) for e in range(len(longs))]
    counted = list(zip(history.episode_return, history.episode_length, strict=True))
    assert sorted(counted) == sorted(firsts + longs)
    assert (np.diff(history.episode_env_step) >= 0).all()
    assert history.episode_env_step[-1] <= agent.step


def test_step_counts_are_what_was_asked_for(helpers, autoreset_mode):
    env = helpers.count_envs((3, 5), autoreset_mode)
    agent = helpers.make_agent(env, n_env_steps=33)
    history = agent.train(env, 33)
    # The last vector step is taken whole.
    assert 33 <= history.env_steps < 33 + env.num_envs
    assert history.env_steps == agent.step


@pytest.mark.parametrize("batch_size", [1, 4, 6])
@pytest.mark.parametrize("start_step", [-1, 0, 7, 20])
@pytest.mark.parametrize("skip_steps", [1, 3])
@pytest.mark.parametrize("n_epochs", [1, 2])
def test_updates_are_as_many_as_the_schedule_says(
    helpers, batch_size, start_step, skip_steps, n_epochs
):
    from kitae.config import off_policy_updates

    env = helpers.count_envs((3, 5))
    agent = helpers.make_agent(
        env,
        n_env_steps=41,
        batch_size=batch_size,
        start_step=start_step,
        skip_steps=skip_steps,
        n_epochs=n_epochs,
    )
    history = agent.train(env, 41)
    # By hand: vector step i is preceded by 2 i transitions.
    due = [
        i
        for i in range(21)
        if 2 * i >= max(batch_size, start_step) and i % skip_steps == 0
    ]
    assert history.updates == len(due) * n_epochs == agent.updates
    assert int(agent.state["updates"]) == history.updates
    assert off_policy_updates(agent.config) == history.updates


def test_the_tutorials_sizes_do_update(helpers):
    """64 steps of 16 environments hold four batches of 256."""
    env = helpers.count_envs((7,) * 16)
    agent = helpers.make_agent(
        env, n_env_steps=2000, max_buffer_size=64, batch_size=256
    )
    assert agent.train(env, 2000).updates == 125 - 16
    assert stored_rows(agent.memory).reward.shape == (64, 16)
    assert int(agent.memory.size.sum()) == 1024


def test_nothing_is_traced_twice(helpers, autoreset_mode):
    env = helpers.count_envs((3, 5), autoreset_mode)
    agent = helpers.make_agent(env, n_env_steps=200, save_frequency=40)
    agent.train(env, 100)
    once = dict(agent.traces)
    assert once == {"explore": 1, "process": 1, "update": 1}
    agent.train(env, 100)
    agent.evaluate(env, 3)
    assert dict(agent.traces) == once


def test_epochs_share_one_trace(helpers):
    env = helpers.count_envs((3, 5))
    agent = helpers.make_agent(env, n_epochs=3)
    agent.train(env, 40)
    assert agent.traces["update"] == 1


def test_the_same_seed_gives_the_same_run_bit_for_bit(helpers, autoreset_mode):
    def run(seed):
        env = helpers.count_envs((3, 5), autoreset_mode)
        agent = helpers.make_agent(env, seed=seed, n_env_steps=90)
        agent.train(env, 90)
        return agent

    first, second, other = run(5), run(5), run(6)
    leaves = jax.tree.leaves((first.state, first.memory))
    for a, b in zip(
        leaves, jax.tree.leaves((second.state, second.memory)), strict=True
    ):
        np.testing.assert_array_equal(a, b)
    assert (
        stored_rows(first.memory).action.tolist()
        != stored_rows(other.memory).action.tolist()
    )


def test_environments_of_two_seeds_start_from_different_numbers(helpers):
    seeds = []
    for seed in (0, 1):
        env = helpers.count_envs((3, 5, 4))
        helpers.make_agent(env, seed=seed).train(env, 20)
        seeds += [member.seeds[0] for member in env.envs]
    assert None not in seeds
    assert len(set(seeds)) == 6


def test_a_second_training_starts_elsewhere(helpers):
    env = helpers.count_envs((3, 5))
    agent = helpers.make_agent(env)
    agent.train(env, 20)
    agent.train(env, 20)
    starts = [seed for member in env.envs for seed in member.seeds if seed is not None]
    assert len(set(starts)) == 4


def test_no_key_is_used_twice(helpers):
    with jax.debug_key_reuse(True):
        env = helpers.count_envs((3, 5))
        agent = helpers.make_agent(env, n_epochs=2)
        agent.train(env, 40)
        agent.evaluate(env, 2)


def test_training_twice_goes_on(helpers, autoreset_mode):
    env = helpers.count_envs((3, 5), autoreset_mode)
    agent = helpers.make_agent(env)
    first = agent.train(env, 30)
    held = int(agent.memory.size.sum())
    second = agent.train(env, 30)
    assert held == first.env_steps
    assert (
        int(agent.memory.size.sum()) == agent.step == first.env_steps + second.env_steps
    )
    assert second.updates >= 15  # no second warm-up
    assert (second.episode_env_step > first.env_steps).all()
    assert not any(member.closed for member in env.envs)


def test_what_was_read_before_training_is_still_there(helpers):
    env = helpers.count_envs((3, 5))
    agent = helpers.make_agent(env)
    before = agent.state["value"]
    agent.train(env, 40)
    assert before.tolist() == [0.0]
    assert float(agent.state["value"][0]) != 0.0


def test_updates_run_in_donated_buffers(helpers):
    env = helpers.count_envs((3, 5))
    agent = helpers.make_agent(env)
    agent.train(env, 40)
    value, column = agent.state["value"], jax.tree.leaves(agent.memory)[0]
    functions, training = agent.functions, agent.training_state
    empty = functions.empty_rows(training)
    functions.learn(training.keys.learn, 0, agent.state, agent.memory, *empty)
    assert value.is_deleted()
    assert column.is_deleted()


def test_leaves_that_share_memory_can_be_donated(helpers):
    class Twice(helpers.TableAgent):
        def _process_factory(self, config):
            self.state = {**self.state, "target": self.state["value"]}
            return super()._process_factory(config)

    env = helpers.count_envs((3, 5))
    agent = helpers.make_agent(env, agent_type=Twice)
    agent.train(env, 40)
    assert agent.state["target"].tolist() == [0.0]


class Recycling(VectorEnv):
    """Hands out the same arrays at every step, and writes into them at the next."""

    def __init__(self):
        self.num_envs = 2
        self.metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}
        self.single_observation_space = Box(-1.0, np.inf, (1,), np.float32)
        self.single_action_space = Discrete(2)
        self._observation = np.zeros((2, 1), np.float32)
        self._reward = np.zeros(2, np.float32)
        self._flags = np.zeros(2, bool)

    def reset(self, *, seed=None, options=None):
        self._observation[:] = [[0], [100_000]]
        return self._observation, {}

    def step(self, actions):
        self._reward[:] = self._observation[:, 0]
        self._observation += 1
        return self._observation, self._reward, self._flags, self._flags, {}


def test_an_environment_may_use_its_arrays_again(helpers):
    env = Recycling()
    agent = helpers.make_agent(env, n_env_steps=300, max_buffer_size=200)
    agent.train(env, 300)
    rows = held_rows(agent, 0)
    np.testing.assert_array_equal(rows.observation[:, 0], np.arange(150))
    np.testing.assert_array_equal(rows.next_observation[:, 0], np.arange(1, 151))
    np.testing.assert_array_equal(rows.reward, np.arange(150))


def test_a_single_environment_is_a_vector_of_one(helpers):
    env = helpers.CountEnv(4)
    config = helpers.make_config(
        gym.vector.SyncVectorEnv([lambda: helpers.CountEnv(4)])
    )
    agent = helpers.TableAgent("run", config)
    history = agent.train(env, 20)
    assert history.episode_length.tolist() == [4] * 5
    assert agent.evaluate(env, 2).shape == (2,)
    del agent
    assert not env.closed


def test_an_error_leaves_the_environment_open_and_the_agent_whole(helpers):
    class Breaks(helpers.CountEnv):
        def step(self, action):
            if len(self.actions) == 12:
                raise RuntimeError("the wheel came off")
            return super().step(action)

    env = gym.vector.SyncVectorEnv([Breaks])
    agent = helpers.make_agent(env)
    with pytest.raises(RuntimeError, match="the wheel came off"):
        agent.train(env, 50)
    assert not env.envs[0].closed
    assert agent.step == 12
    assert np.isfinite(float(agent.state["value"][0]))


@pytest.mark.parametrize(
    "before, after, period, expected",
    [
        (0, 3, 100, False),
        (99, 102, 100, True),
        (97, 100, 100, True),
        (100, 103, 100, False),
    ],
)
def test_an_interval_is_crossed_even_where_no_step_falls_on_it(
    before, after, period, expected
):
    assert crossed(before, after, period) is expected


def test_saves_when_an_interval_is_crossed(helpers):
    env = helpers.count_envs((3, 5, 4))
    agent = helpers.make_agent(env, n_env_steps=350, save_frequency=100, keep_last=-1)
    agent.train(env, 350)
    saved = sorted(int(p.name) for p in (agent.run_dir / "checkpoints").iterdir())
    # Three environments: no multiple of 100 is a multiple of 3 before 300.
    assert saved == [102, 201, 300, 351]


def test_refuses_an_environment_of_another_shape(helpers):
    env = helpers.count_envs((3, 5))
    agent = helpers.make_agent(env)
    with pytest.raises(
        ValueError, match=r"env has 3 environments, but env_cfg\.n_envs is 2"
    ):
        agent.train(helpers.count_envs((3, 5, 7)), 20)
    other = gym.make_vec("CartPole-v1", num_envs=2)
    with pytest.raises(ValueError, match="env has the observation_space Box"):
        agent.train(other, 20)
    with pytest.raises(TypeError, match=r"env must be a gymnasium\.vector\.VectorEnv"):
        agent.train("CartPole-v1", 20)
    with pytest.raises(
        ValueError, match="n_env_steps must be an int of at least 1, got 0"
    ):
        agent.train(env, 0)


def test_refuses_an_update_that_changes_the_state(helpers):
    class Widens(helpers.TableAgent):
        def _update_factory(self, config):
            def update(state, key, batch):
                state["value"] = jnp.zeros((2, 1))
                return state, {}

            return update

    env = helpers.count_envs((3, 5))
    agent = helpers.make_agent(env, agent_type=Widens)
    with pytest.raises(
        TypeError, match=r"changed state\['value'\] from float32\[1\] to"
    ):
        agent.train(env, 20)


def test_stops_at_a_loss_that_is_not_finite_and_saves_nothing(helpers):
    class Explodes(helpers.TableAgent):
        def _update_factory(self, config):
            def update(state, key, batch):
                return state, {"loss_value": jnp.float32(jnp.nan)}

            return update

    env = helpers.count_envs((3, 5))
    agent = helpers.make_agent(env, agent_type=Explodes, save_frequency=10)
    with pytest.raises(
        FloatingPointError, match="loss_value is nan at environment step"
    ):
        agent.train(env, 40)
    assert not (agent.run_dir / "checkpoints").exists()
