"""The same agents, on environments that are JAX functions."""

import warnings
from dataclasses import fields, replace
from pathlib import Path

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.experimental.functional import FuncEnv
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import VectorWrapper

from kitae.base import OnPolicyAgent
from kitae.base.rundir import checkpoint
from kitae.base.training.seeds import batch_of_seeds
from kitae.envs.functional import JaxVectorEnv


class Walk(FuncEnv):
    """A walk on a line that starts somewhere near 0 and ends past 3, with noise.

    The state is a pair: where it is, and how long it went on. All places are eighths,
    so that the order of additions, which is XLA's to choose, makes no difference.
    """

    observation_space = Box(-np.inf, np.inf, (1,), np.float32)
    action_space = Discrete(2)

    def initial(self, rng, params=None):
        return jax.random.randint(rng, (1,), -8, 8) / 8.0, jnp.int32(0)

    def transition(self, state, action, rng, params=None):
        where, t = state
        noise = jax.random.randint(rng, (1,), -3, 4) / 8.0
        return where + jnp.where(action == 1, 1.0, -0.5) + noise, t + 1

    def observation(self, state, rng, params=None):
        return state[0]

    def reward(self, state, action, next_state, rng, params=None):
        return state[0][0] * 0.5

    def terminal(self, state, rng, params=None):
        return jnp.abs(state[0][0]) > 3.0


def walks(n_envs=3, limit=7):
    return JaxVectorEnv(Walk(), n_envs, limit)


def leaves(tree):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def assert_same(mine, theirs):
    """Alike up to the rounding of sums, which XLA orders as it likes."""
    for a, b in zip(leaves(mine), leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def assert_same_history(mine, theirs):
    for field in fields(mine):
        mine_too, theirs_too = getattr(mine, field.name), getattr(theirs, field.name)
        assert np.array_equal(mine_too, theirs_too), field.name


def walk_agent(helpers, env, run_name="run", **changes):
    """A `helpers.TableAgent` whose actions depend on its value, step and key."""

    class Curious(helpers.TableAgent):
        def explore(self, observation):
            key = self.interact_keys(observation)
            value = self.state["value"][0]
            n_envs = observation.shape[0]
            chance = jax.nn.sigmoid(value + 0.01 * self.step) * jnp.ones(n_envs)
            coin = jax.random.bernoulli(key, chance)
            return coin.astype(jnp.int32), jnp.log(chance)

    return helpers.make_agent(env, run_name, Curious, **changes)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"skip_steps": 3},
        {"skip_steps": 9, "n_epochs": 2},
        {"start_step": 41},
        {"skip_steps": 4, "start_step": 20, "max_buffer_size": 6},
        {"log_frequency": 7, "save_frequency": 25},
    ],
    ids=str,
)
def test_both_drivers_do_the_same(helpers, changes):
    """Also across a second training that ends within a group of `skip_steps`."""
    env = walks()
    compiled = walk_agent(helpers, env, "compiled", n_env_steps=400, **changes)
    hosted = walk_agent(helpers, env, "hosted", n_env_steps=400, **changes)
    for n_env_steps in (150, 85):
        mine = compiled.train(env, n_env_steps)
        theirs = hosted.train(VectorWrapper(env), n_env_steps)
        assert len(mine.episode_return) > 5
        assert_same_history(mine, theirs)
        assert compiled.step == hosted.step
        assert compiled.iteration == hosted.iteration
        assert compiled.updates == hosted.updates == int(compiled.state["updates"])
        assert_same(compiled.state, hosted.state)
        assert_same(compiled.memory, hosted.memory)


def on_policy_agent(env, run_name, helpers):
    class Sums(OnPolicyAgent):
        def __init__(self, run_name, config):
            super().__init__(
                run_name,
                config,
                lambda key, config, **_: {"sum": jnp.float32(0), "updates": 0},
                lambda config: None,
                lambda config: self._process,
                lambda config: self._update,
            )

        def _process(self, state, key, experience):
            noise = jax.random.normal(key, experience.reward.shape)
            return experience.reward + 0.1 * noise, experience.observation[..., 0]

        def _update(self, state, key, batch):
            reward, where = batch
            total = 0.5 * state["sum"] + jnp.sum(reward * where)
            state = {"sum": total, "updates": state["updates"] + 1}
            return state, {"sum": total}

        def explore(self, observation):
            key = self.interact_keys(observation)
            n_envs = observation.shape[0]
            chance = jax.nn.sigmoid(self.state["sum"]) * jnp.ones(n_envs)
            return jax.random.bernoulli(key, chance).astype(jnp.int32), chance

        select_action = explore

    config = helpers.make_config(
        env, n_env_steps=400, max_buffer_size=8, batch_size=6, n_epochs=2
    )
    return Sums(run_name, config)


@pytest.mark.slow
def test_on_policy_too(helpers):
    env = walks()
    compiled = on_policy_agent(env, "compiled", helpers)
    hosted = on_policy_agent(env, "hosted", helpers)
    for n_env_steps in (200, 48):
        mine = compiled.train(env, n_env_steps)
        theirs = hosted.train(VectorWrapper(env), n_env_steps)
        assert_same_history(mine, theirs)
        assert compiled.updates == hosted.updates == int(compiled.state["updates"])
        assert compiled.updates > 0
        assert_same(compiled.state, hosted.state)


def test_the_same_seed_gives_the_same_run_and_another_seed_another(helpers):
    env = walks()
    states = []
    for seed in (0, 0, 1):
        agent = walk_agent(helpers, env)
        agent = type(agent)("run", replace(agent.config, seed=seed))
        agent.train(env, 100)
        states.append(float(agent.state["value"][0]))
    assert states[0] == states[1] != states[2]


@pytest.mark.slow
def test_nothing_is_traced_twice(helpers):
    env = walks()
    agent = helpers.make_agent(
        env, n_env_steps=600, save_frequency=50, log_frequency=20
    )
    agent.train(env, 150)
    agent.evaluate(env, 3)
    once = dict(agent.traces)
    agent.train(env, 150)
    agent.train(env, 99)
    agent.evaluate(env, 3)
    assert agent.traces == once


def test_what_is_written_is_what_the_host_driver_writes(helpers):
    import csv

    def rows(agent, name):
        with (agent.run_dir / name).open(newline="") as file:
            timed = ("seconds", "steps_per_second")
            return [
                {key: row[key] for key in row if key not in timed}
                for row in csv.DictReader(file)
            ]

    env = walks()
    changes = {"n_env_steps": 200, "log_frequency": 30, "save_frequency": 60}
    compiled = walk_agent(helpers, env, "compiled", **changes)
    compiled.train(env, 200)
    hosted = walk_agent(helpers, env, "hosted", **changes)
    hosted.train(VectorWrapper(env), 200)
    for name in ("metrics.csv", "episodes.csv"):
        mine, theirs = rows(compiled, name), rows(hosted, name)
        assert len(mine) == len(theirs) > 3
        for a, b in zip(mine, theirs, strict=True):
            assert a.keys() == b.keys()
            for key in a:
                assert float(a[key] or 0) == pytest.approx(float(b[key] or 0)), key
    saved = sorted(int(p.name) for p in (compiled.run_dir / "checkpoints").iterdir())
    assert saved == sorted(
        int(p.name) for p in (hosted.run_dir / "checkpoints").iterdir()
    )


# At 99 steps, 33 iterations, the second is within a group.
@pytest.mark.slow
@pytest.mark.parametrize("skip_steps", [1, 4])
def test_a_resumed_run_is_the_one_that_was_not_interrupted(helpers, skip_steps):
    env, changes = walks(), {"n_env_steps": 200, "skip_steps": skip_steps}
    walk_agent(helpers, env, **changes).train(env, 99)
    again = walk_agent(helpers, env, **changes)
    history = again.resume(env, 150)
    assert (history.env_steps, again.step) == (51, 150)

    through = walk_agent(helpers, env, "through", **changes)
    whole = through.train(env, 150)
    for a, b in zip(
        leaves((again.state, again.memory)),
        leaves((through.state, through.memory)),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)
    # Where nothing is left to do, nothing is changed.
    before = checkpoint.read(again.run_dir)
    done = walk_agent(helpers, env, **changes)
    assert done.resume(env, 150).env_steps == 0
    done.save()
    assert checkpoint.read(again.run_dir)._parts == before._parts
    # The episodes that were running at the checkpoint are counted whole.
    late = whole.episode_env_step > 99
    np.testing.assert_array_equal(history.episode_length, whole.episode_length[late])
    episodes = [Path("runs", name, "episodes.csv") for name in ("run", "through")]
    assert episodes[0].read_text() == episodes[1].read_text()


@pytest.mark.slow
def test_gymnasiums_own_forms_of_an_environment_are_taken(helpers):
    single = Walk()
    agent = walk_agent(helpers, walks())
    agent.train(single, 60)
    assert agent.step == 60

    made = gym.make_vec("phys2d/CartPole-v1", num_envs=2)
    agent = helpers.make_agent(made)
    agent.train(made, 60)
    assert agent.step == 60


def test_a_method_that_cannot_be_traced_is_told_by_its_line(helpers):
    class Branches(helpers.TableAgent):
        def explore(self, observation):
            if observation[0, 0] > 0:  # a branch on a value
                return jnp.zeros(3, jnp.int32), jnp.zeros(3)
            return jnp.ones(3, jnp.int32), jnp.zeros(3)

    class Converts(helpers.TableAgent):
        def explore(self, observation):
            where = np.asarray(observation)
            return jnp.zeros(3, jnp.int32), jnp.asarray(where[:, 0])

    env = walks()
    for kind, line in (
        (Branches, "if observation[0, 0] > 0:"),
        (Converts, "where = np.asarray(observation)"),
    ):
        agent = helpers.make_agent(env, agent_type=kind)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(TypeError) as caught:
                agent.train(env, 50)
        message = str(caught.value)
        assert f"{kind.__name__}.explore cannot be compiled at {__file__}" in message
        assert line in message
        assert "jnp.where" in message
    assert not Path("runs").exists()


def test_an_update_that_cannot_be_traced_is_told_by_its_line(helpers):
    class Branches(helpers.TableAgent):
        def _update_factory(self, config):
            def update(state, key, batch):
                if batch[1].sum() > 0:
                    return state, {"loss_value": jnp.float32(0)}
                return state, {"loss_value": jnp.float32(1)}

            return update

    env = walks()
    agent = helpers.make_agent(env, agent_type=Branches)
    with pytest.raises(TypeError, match=r"line \d+: `if batch\[1\].sum\(\) > 0:`"):
        agent.train(env, 50)


def test_refuses_another_number_of_environments_or_other_spaces(helpers):
    agent = walk_agent(helpers, walks(3))
    with pytest.raises(ValueError, match=r"4 environments, but env_cfg.n_envs is 3"):
        agent.train(walks(4), 50)

    class Wider(Walk):
        action_space = Discrete(3)

    with pytest.raises(ValueError, match="env has the action_space"):
        agent.train(JaxVectorEnv(Wider(), 3, 7), 50)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["reward", "observation", "action", "loss"])
def test_what_is_not_finite_or_not_allowed_stops_the_run(helpers, what):
    class Bad(Walk):
        def reward(self, state, action, next_state, rng, params=None):
            usual = super().reward(state, action, next_state, rng)
            return jnp.where((what == "reward") & (next_state[1] == 4), jnp.nan, usual)

        def observation(self, state, rng, params=None):
            bad = (what == "observation") & (state[1] == 4)
            return jnp.where(bad, jnp.inf, state[0])

    class Agent(helpers.TableAgent):
        def explore(self, observation):
            actions, log_probs = super().explore(observation)
            bad = (what == "action") & (self.step >= 30)
            return jnp.where(bad, -1, actions), log_probs

        def _update_factory(self, config):
            update = super()._update_factory(config)

            def changed(state, key, batch):
                state, _ = update(state, key, batch)
                bad = (what == "loss") & (state["updates"] == 20)
                return state, {"loss_value": jnp.where(bad, jnp.nan, 1.0)}

            return changed

    env = JaxVectorEnv(Bad(), 3, 7)
    agent = helpers.make_agent(env, agent_type=Agent, n_env_steps=200)
    kind = FloatingPointError if what == "loss" else ValueError
    with pytest.raises(kind) as caught:
        agent.train(env, 200)
    found = {
        "reward": "reward is not finite",
        "observation": "observation is not finite",
        "action": "environment 0, at environment step 33: its action is outside",
        "loss": "loss_value is nan",
    }
    assert found[what] in str(caught.value)
    assert not list(agent.run_dir.glob("checkpoints/*"))
    assert all(np.isfinite(leaf).all() for leaf in leaves(agent.memory))


@pytest.mark.slow
def test_each_of_many_seeds_is_as_if_trained_alone(helpers):
    env = walks()
    changes = {"n_env_steps": 200, "skip_steps": 2, "log_frequency": 30}
    agent = walk_agent(helpers, env, "many", **changes)
    before = leaves(agent.state)
    # Three seeds are three batches on two cores; see `batch_of_seeds`.
    runs = agent.train_seeds(env, 149, seeds=[3, 0, 2**32 - 1])
    assert [run.seed for run in runs] == [3, 0, 2**32 - 1]
    assert_same(agent.state, before)
    assert agent.step == 0
    for run in runs:
        alone = type(agent)("alone", replace(agent.config, seed=run.seed))
        history = alone.train(env, 149)
        assert_same_history(run.history, history)
        run.agent.save()
        assert run.agent.run_dir.name == f"many-seed{run.seed}"
        assert_same(run.agent.state, alone.state)
        assert_same(run.agent.memory, alone.memory)
        mine = (run.agent.run_dir / "episodes.csv").read_text()
        assert mine == (alone.run_dir / "episodes.csv").read_text()
        # Both go on alike.
        assert_same_history(run.agent.train(env, 60), alone.train(env, 60))
    returns = [float(run.history.episode_return.sum()) for run in runs]
    assert len(set(returns)) == 3


@pytest.mark.slow
def test_many_seeds_of_an_on_policy_agent(helpers):
    env = walks()
    agent = on_policy_agent(env, "many", helpers)
    for run in agent.train_seeds(env, 100, seeds=range(2)):
        alone = type(agent)("alone", replace(agent.config, seed=run.seed))
        assert_same_history(run.history, alone.train(env, 100))
        assert_same(run.agent.state, alone.state)


def test_seeds_are_checked(helpers):
    env = walks()
    agent = walk_agent(helpers, env)
    for seeds, message in (
        ([], "at least one"),
        ([1, 1], "different"),
        ([-1], r"seeds must be .* -1"),
    ):
        with pytest.raises(ValueError, match=message):
            agent.train_seeds(env, 50, seeds)
    hosted = helpers.count_envs()
    with pytest.raises(TypeError, match=r"JAX functions.*_?SyncVectorEnv"):
        helpers.make_agent(hosted).train_seeds(hosted, 50, [0])


def test_devices_are_checked(helpers):
    env = walks()
    agent = walk_agent(helpers, env)
    device = jax.devices()[0]
    with pytest.raises(ValueError, match=r"n_envs = 3 must be a multiple of the 2"):
        agent.train(env, 50, devices=[device, device])
    on_policy = on_policy_agent(env, "rollouts", helpers)
    with pytest.raises(ValueError, match="rollout of an on-policy agent"):
        on_policy.train(env, 50, devices=[device])
    hosted = helpers.count_envs()
    with pytest.raises(TypeError, match="devices are for environments that are JAX"):
        helpers.make_agent(hosted).train(hosted, 50, devices=[device])


def test_batches_of_seeds_divide_their_number_and_fit_the_cache(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    small, large = jnp.zeros(10), jnp.zeros(2**20)
    assert [batch_of_seeds(small, n) for n in (1, 2, 3, 4, 12, 16)] == [
        1,
        1,
        1,
        2,
        6,
        8,
    ]
    assert batch_of_seeds(large, 16) == 1
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert batch_of_seeds(large, 15) == 15


@pytest.mark.slow
def test_batches_of_several_seeds_do_as_each_alone(helpers, monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    env = walks()
    agent = walk_agent(helpers, env, "many", n_env_steps=200)
    for run in agent.train_seeds(env, 100, seeds=range(4)):
        alone = type(agent)("alone", replace(agent.config, seed=run.seed))
        assert_same_history(run.history, alone.train(env, 100))
        assert_same(run.agent.state, alone.state)
