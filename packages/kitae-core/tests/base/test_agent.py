import copy
import pickle
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete

import kitae.base
from kitae.base import AlgoType, IActor, IAgent, IBuffer
from kitae.buffer import Experience, OffPolicyBuffer, OnPolicyBuffer, stored_rows
from kitae.envs.functional import JaxVectorEnv
from kitae.envs.probes import ObservationProbe


def test_public_names():
    assert sorted(kitae.base.__all__) == [
        "AlgoType",
        "BaseAgent",
        "History",
        "IActor",
        "IAgent",
        "IBuffer",
        "OffPolicyAgent",
        "OnPolicyAgent",
        "SeedRun",
        "StopTraining",
        "TensorBoard",
        "Tracker",
        "WandB",
    ]


def test_an_agent_is_an_actor_and_says_what_it_learns_from(helpers):
    agent = helpers.make_agent(helpers.count_envs())
    assert isinstance(agent, IAgent)
    assert isinstance(agent, IActor)
    assert agent.algo_type is AlgoType.OFF_POLICY


def test_both_buffers_have_the_face_of_a_buffer():
    assert isinstance(OffPolicyBuffer({"x": 0}, 1, 1, 1), IBuffer)
    assert isinstance(OnPolicyBuffer({"x": 0}, 1, 1), IBuffer)


def test_the_constructor_writes_nothing(helpers, tmp_path):
    helpers.make_agent(helpers.count_envs())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("taken", [pickle.dumps, copy.deepcopy])
def test_an_agent_is_not_pickled_or_deeply_copied(helpers, taken):
    agent = helpers.make_agent(helpers.count_envs())
    with pytest.raises(TypeError, match=r"agent\.save\(\), and TableAgent\.load\("):
        taken(agent)
    with pytest.raises(TypeError, match="a TableAgent holds compiled programs"):
        taken({"agents": [agent]})


def test_a_shallow_copy_shares_all_that_an_agent_holds(helpers):
    agent = helpers.make_agent(helpers.count_envs())
    copied = copy.copy(agent)
    assert type(copied) is helpers.TableAgent
    assert vars(copied) == vars(agent)
    copied.step = 7
    assert agent.step == 0


def relu(x):
    return max(x, 0.0)


@pytest.mark.parametrize(
    "annotation, value, message",
    [
        (Callable, relu, "cannot be read from JSON, being annotated as .*Callable"),
        (
            Any,
            1,
            "cannot be read from JSON, being annotated as typing.Any: allowed",
        ),
        (dict, {"a": 1}, "being annotated as <class 'dict'>: allowed are bool, int, "),
        (type, int, "cannot be read from JSON, being annotated as <class 'type'>"),
        (float, np.zeros(2), "must be a number, got"),
        (int, 0.5, "must be an int, got 0.5"),
        ("Unknown", 1, "name 'Unknown' is not defined"),
    ],
    ids=["callable", "any", "dict", "type", "array", "int", "unknown"],
)
def test_parameters_that_cannot_be_read_back_are_refused(
    helpers, annotation, value, message
):
    @dataclass(frozen=True)
    class Params(helpers.TableParams):
        extra: annotation = None

    config = helpers.make_config(helpers.count_envs(), algo_params=Params(extra=value))
    with pytest.raises(TypeError, match=message) as error:
        helpers.TableAgent("run", config)
    assert str(error.value).startswith(("algo_params.extra ", "name 'Unknown'"))


def test_the_config_that_an_agent_takes_is_read_back_by_load(helpers):
    @dataclass(frozen=True)
    class Params(helpers.TableParams):
        sizes: tuple[int, ...] | None = (2, 3)
        scale: float = float("inf")
        activation: Callable | None = None

    env = helpers.count_envs()
    agent = helpers.make_agent(env, algo_params=Params())
    agent.train(env, 20)
    loaded = helpers.TableAgent.load("runs/run", params_type=Params)
    assert loaded.config == agent.config


@pytest.fixture
def disable_jit():
    """Has nothing compiled in any thread, as JAX_DISABLE_JIT does."""
    yield lambda: jax.config.update("jax_disable_jit", True)
    jax.config.update("jax_disable_jit", False)


@pytest.mark.parametrize("on_host", [True, False])
def test_without_compiling_a_training_is_the_same(helpers, disable_jit, on_host):
    def trained(run_name):
        env = helpers.count_envs() if on_host else JaxVectorEnv(ObservationProbe(), 2)
        agent = helpers.make_agent(env, run_name=run_name, n_env_steps=24)
        agent.train(env, 24)
        return agent.step, agent.updates, agent.state["value"].item()

    compiled = trained("compiled")
    disable_jit()
    assert trained("called") == pytest.approx(compiled, rel=1e-5)


def test_a_batch_larger_than_the_replay_is_refused_at_once(helpers):
    with pytest.raises(
        ValueError, match=r"batch_size = 9 can never be filled.*4 \* 2 = 8"
    ):
        helpers.make_agent(helpers.count_envs(), max_buffer_size=4, batch_size=9)


@pytest.mark.parametrize(
    "change", [{"start_step": 100}, {"batch_size": 100}, {"skip_steps": 50}]
)
def test_a_run_that_ends_before_its_first_update_is_refused_at_once(helpers, change):
    with pytest.raises(
        ValueError, match="n_env_steps = 100 ends before the first update"
    ):
        helpers.make_agent(helpers.count_envs(), n_env_steps=100, **change)


def test_skip_steps_of_zero_is_refused_at_once(helpers):
    with pytest.raises(
        ValueError, match="skip_steps must be an int of at least 1, got 0"
    ):
        helpers.make_agent(helpers.count_envs(), skip_steps=0)


def test_exploring_by_hand_draws_new_keys(helpers):
    agent = helpers.make_agent(helpers.count_envs((3,) * 64))
    observation = jnp.zeros((64, 1))
    first, log_prob = agent.explore(observation)
    second, _ = agent.explore(observation)
    assert first.shape == log_prob.shape == (64,)
    assert first.tolist() != second.tolist()


def test_an_explore_that_needs_values_is_called_as_it_is_after_one_warning(helpers):
    class Branches(helpers.TableAgent):
        def explore(self, observation):
            if self.step < 10:
                return np.zeros(2, np.int32), np.zeros(2, np.float32)
            return super().explore(np.asarray(observation))

    env = helpers.count_envs()
    agent = helpers.make_agent(env, agent_type=Branches)
    with pytest.warns(
        RuntimeWarning, match=r"Branches\.explore cannot be compiled"
    ) as seen:
        agent.train(env, 30)
    assert len(seen) == 1
    assert stored_rows(agent.memory).action[:5].tolist() == [[0, 0]] * 5
    assert agent.updates == 13
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        agent.train(env, 10)


def test_an_explore_that_follows_the_step_is_compiled(helpers):
    class Fades(helpers.TableAgent):
        def explore(self, observation):
            key = self.interact_keys(observation)
            fade = jnp.where(self.step < 20, 1.0, 0.0)
            return self.explore_fn(self.state, key, observation, exploration=fade)

    env = helpers.count_envs()
    agent = helpers.make_agent(env, agent_type=Fades)
    agent.train(env, 40)
    assert (
        stored_rows(agent.memory).action[:20].tolist() == [[1, 1]] * 10 + [[0, 0]] * 10
    )
    assert agent.traces["explore"] == 1


def test_stores_the_fields_that_the_experience_type_names(helpers):
    from typing import Any, NamedTuple

    class Brief(NamedTuple):
        observation: Any
        reward: Any
        done: Any
        next_observation: Any

    env = helpers.count_envs()
    config = helpers.make_config(env)
    agent = helpers.TableAgent("run", config, experience_type=Brief)
    agent.train(env, 20)
    assert type(stored_rows(agent.memory)) is Brief

    class Odd(NamedTuple):
        observation: Any
        weather: Any

    with pytest.raises(TypeError, match=r"asks for \['weather'\]"):
        helpers.TableAgent("run", config, experience_type=Odd)
    with pytest.raises(TypeError, match="must be a NamedTuple class"):
        helpers.TableAgent("run", config, experience_type=dict)


def test_the_factories_are_given_what_the_user_passed(helpers):
    seen = {}

    class Asks(helpers.TableAgent):
        pass

    def train_state(key, config, *, preprocess_fn, tabulate):
        seen.update(preprocess_fn=preprocess_fn, tabulate=tabulate)
        return helpers.table_train_state(key, config)

    from kitae.base import OffPolicyAgent

    config = helpers.make_config(helpers.count_envs())

    def nothing(config):
        return None

    OffPolicyAgent.__abstractmethods__ = frozenset()
    OffPolicyAgent(
        "run",
        config,
        train_state,
        nothing,
        nothing,
        nothing,
        preprocess_fn=abs,
        tabulate=True,
    )
    assert seen == {"preprocess_fn": abs, "tabulate": True}


def test_evaluation_gives_each_environment_its_share(helpers, autoreset_mode):
    env = helpers.count_envs((3, 5), autoreset_mode)
    agent = helpers.make_agent(env)
    returns = agent.evaluate(env, 5)
    # Three short episodes, then two long ones, however soon they end.
    assert returns.tolist() == [3, 312, 621, 500_010, 500_535]


def test_evaluation_does_not_touch_the_training(helpers):
    def run(evaluated):
        env = helpers.count_envs()
        agent = helpers.make_agent(env, n_env_steps=60)
        agent.train(env, 30)
        if evaluated:
            first = agent.evaluate(helpers.count_envs(), 3)
            assert first.tolist() == agent.evaluate(helpers.count_envs(), 3).tolist()
        agent.train(env, 30)
        return agent

    with_it, without = run(True), run(False)
    assert (
        stored_rows(with_it.memory).action.tolist()
        == stored_rows(without.memory).action.tolist()
    )
    assert with_it.state["value"].tolist() == without.state["value"].tolist()


def test_evaluation_has_seeds_of_its_own(helpers):
    env = helpers.count_envs()
    agent = helpers.make_agent(env)
    agent.train(env, 20)
    agent.evaluate(env, 2)
    agent.evaluate(env, 2, seed=7)
    seeds = [s for member in env.envs for s in member.seeds if s is not None]
    assert len(seeds) == len(set(seeds)) == 6
    with pytest.raises(ValueError, match=r"seed must be an int in \[0, 4294967295\]"):
        agent.evaluate(env, 2, seed=-1)
    with pytest.raises(ValueError, match="n_episodes must be an int of at least 1"):
        agent.evaluate(env, 0)


def test_dict_observations_are_stored_part_by_part(helpers):
    class TwoParts(helpers.CountEnv):
        observation_space = Dict(
            {"count": Box(-1, np.inf, (1,), np.float32), "kind": Discrete(3)}
        )

        def _observation(self):
            return {"count": super()._observation(), "kind": self.count % 3}

    class Agent(helpers.TableAgent):
        def _process_factory(self, config):
            process = super()._process_factory(config)

            def of_count(state, key, experience):
                return process(
                    state,
                    key,
                    Experience(
                        experience.observation["count"],
                        *experience[1:4],
                        experience.next_observation["count"],
                        *experience[5:],
                    ),
                )

            return of_count

        def explore(self, observation):
            return super().explore(observation["count"])

    import gymnasium as gym
    from gymnasium.vector import AutoresetMode

    env = gym.vector.SyncVectorEnv(
        [TwoParts] * 2, autoreset_mode=AutoresetMode.SAME_STEP
    )
    agent = helpers.make_agent(env, agent_type=Agent)
    agent.train(env, 40)
    data = jax.tree.map(lambda x: np.asarray(x)[:20, 0], stored_rows(agent.memory))
    count, after = data.observation["count"], data.next_observation
    np.testing.assert_array_equal(after["count"], count + 1)
    np.testing.assert_array_equal(after["kind"], (count[:, 0] + 1) % 3)
