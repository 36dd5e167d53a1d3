"""What an author's functions may do beyond the plain contract, in both drivers."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.experimental.functional import FuncEnv
from gymnasium.spaces import Box
from gymnasium.vector import VectorWrapper

from kitae.base import OffPolicyAgent, OnPolicyAgent
from kitae.buffer import stored_rows
from kitae.envs.functional import JaxVectorEnv


class Push(FuncEnv):
    """Pays the action itself, and shows the time; an episode is five steps."""

    observation_space = Box(-np.inf, np.inf, (1,), np.float32)
    action_space = Box(-1.0, 1.0, (1,), np.float32)

    def initial(self, rng, params=None):
        return jnp.float32(0)

    def transition(self, state, action, rng, params=None):
        return state + 1

    def observation(self, state, rng, params=None):
        return state[None]

    def reward(self, state, action, next_state, rng, params=None):
        return action[0]

    def terminal(self, state, rng, params=None):
        return state >= 5


N_ENVS = 4
DRIVERS = pytest.mark.parametrize("driver", ["compiled", "host"])


def pushes(driver):
    env = JaxVectorEnv(Push(), N_ENVS)
    return env if driver == "compiled" else VectorWrapper(env)


class Stored(NamedTuple):
    observation: Any
    action: Any
    reward: Any
    extras: Any


class Wide:
    """Draws actions three times as wide as the space, and knows a value of each."""

    def explore(self, observation):
        key = self.interact_keys(observation)
        actions = 3.0 * jax.random.normal(key, observation.shape)
        return actions, jnp.zeros(len(actions)), {"value": 2 * observation[:, 0]}

    def select_action(self, observation):
        return jnp.full(observation.shape, 7.0), jnp.zeros(len(observation))


class Clips(Wide):
    def env_action(self, actions):
        space = self.config.env_cfg.action_space
        return jnp.clip(actions, space.low, space.high)


def make(helpers, env, base, *mixins, process=None, update=None, state=None, **changes):
    """An agent of some mixins; its functions count what they are given."""
    kwargs = changes.pop("kwargs", {})

    def default_update(state, key, batch):
        return {**state, "updates": state["updates"] + 1}, {"loss": jnp.float32(0)}

    agent_type = type("Hooked", (*mixins, base), {})
    start = {"updates": jnp.int32(0), **(state or {})}
    return agent_type(
        "run",
        helpers.make_config(env, **changes),
        lambda key, config, **_: start,
        lambda config: None,
        lambda config: process or (lambda state, key, seen: (seen.reward,)),
        lambda config: update or default_update,
        **kwargs,
    )


OFF = {"max_buffer_size": 40, "batch_size": 8, "n_env_steps": 120}
ON = {"max_buffer_size": 6, "batch_size": 8, "n_env_steps": 120}


# --- What the environments are sent, and what is stored ---------------------------


@DRIVERS
@pytest.mark.parametrize("base", [OffPolicyAgent, OnPolicyAgent])
def test_the_environment_is_sent_one_action_and_another_is_stored(
    helpers, driver, base
):
    env = pushes(driver)
    changes = OFF if base is OffPolicyAgent else {**ON, "n_env_steps": 20}
    if base is OnPolicyAgent:
        changes = {**changes, "max_buffer_size": 5, "batch_size": 20}
    seen = []

    def process(state, key, experience):
        jax.debug.callback(
            lambda *x: seen.append(x), experience.action, experience.reward
        )
        return (experience.reward,)

    agent = make(
        helpers, env, base, Clips, process=process,
        kwargs={"experience_type": Stored}, **changes,
    )  # fmt: skip
    agent.train(env, changes["n_env_steps"])
    jax.effects_barrier()
    actions, rewards = (
        np.concatenate([np.ravel(x) for x in part]) for part in zip(*seen, strict=True)
    )
    assert np.abs(actions).max() > 3.0
    np.testing.assert_array_equal(rewards, actions.clip(-1, 1))


@DRIVERS
def test_without_the_hook_an_action_outside_is_refused(helpers, driver):
    env = pushes(driver)
    agent = make(helpers, env, OffPolicyAgent, Wide, **OFF)
    with pytest.raises(ValueError, match=r"action"):
        agent.train(env, 120)


@DRIVERS
def test_evaluation_sends_what_the_hook_makes(helpers, driver):
    env = pushes(driver)
    agent = make(helpers, env, OffPolicyAgent, Clips, **OFF)
    assert agent.evaluate(env, 5).tolist() == [5.0] * 5


@DRIVERS
def test_what_acting_computed_is_stored(helpers, driver):
    env = pushes(driver)
    agent = make(
        helpers, env, OffPolicyAgent, Clips, kwargs={"experience_type": Stored}, **OFF
    )
    agent.train(env, 100)
    rows = stored_rows(agent.memory)
    assert rows.extras["value"].shape[1:] == (N_ENVS,)
    np.testing.assert_array_equal(rows.extras["value"], 2 * rows.observation[..., 0])
    assert rows.extras["value"].max() == 8.0


def test_several_agents_store_what_they_computed_too(helpers):
    env = helpers.count_agents()

    class ByName:
        def explore(self, observation):
            zeros = {name: jnp.zeros(2, int) for name in observation}
            values = {name: seen[:, 0] + 0.5 for name, seen in observation.items()}
            return zeros, zeros, values

        select_action = explore

    agent = make(
        helpers, env, OffPolicyAgent, ByName, kwargs={"experience_type": Stored}, **OFF
    )
    agent.train(env, 30)
    rows, size = stored_rows(agent.memory), np.array(agent.memory.size)
    for row, n in enumerate(np.broadcast_to(size, rows.extras.shape[1])):
        mine = rows.extras[:n, row], rows.observation[:n, row, 0] + 0.5
        np.testing.assert_array_equal(*mine)


class NoExtras(NamedTuple):
    observation: Any
    action: Any
    reward: Any


def returning(*parts):
    class Acts(Clips):
        def explore(self, observation):
            actions, log_probs, extras = super().explore(observation)
            known = {"actions": actions, "log_probs": log_probs, "extras": extras}
            chosen = tuple(
                known[part] if isinstance(part, str) else part for part in parts
            )
            return chosen if len(chosen) > 1 else chosen[0]

    return Acts


def sending(function):
    class Sends(Clips):
        def env_action(self, actions):
            return function(actions)

    return Sends


@DRIVERS
@pytest.mark.parametrize(
    "acts, stored, message",
    [
        (returning("actions"), Stored, r"^explore must return \(actions, log_probs\)"),
        (returning("actions", "log_probs"), Stored, "Stored stores extras; got no"),
        (returning("actions", "log_probs", "extras"), NoExtras, "NoExtras has no f"),
        (
            returning("actions", "log_probs", {"v": np.zeros(3)}),
            Stored,
            r"^extras\['v'\] of explore must have the shape \[4, \.\.\.\], got \[3\]",
        ),
        (
            sending(lambda actions: actions[:, 0]),
            Stored,
            r"^env_action must return actions of shape \[4, 1\], as Box.* got \[4\]",
        ),
    ],
)
def test_what_a_hook_gets_wrong_is_named(helpers, driver, acts, stored, message):
    env = pushes(driver)
    agent = make(
        helpers, env, OffPolicyAgent, acts, kwargs={"experience_type": stored}, **OFF
    )
    with pytest.raises(TypeError, match=message):
        agent.train(env, 100)


# --- What an update may do ----------------------------------------------------------


def counting(state, key, experience):
    """Counts rows in the state, once each."""
    new = {**state, "rows": state["rows"] + experience.reward.size}
    return new, (experience.reward,)


@DRIVERS
@pytest.mark.parametrize(
    "base, changes", [(OffPolicyAgent, OFF), (OnPolicyAgent, ON)], ids=["off", "on"]
)
def test_processing_may_update_the_state(helpers, driver, base, changes):
    env = pushes(driver)
    agent = make(
        helpers, env, base, Clips, process=counting,
        state={"rows": jnp.int32(0)}, n_epochs=3, **changes,
    )  # fmt: skip
    agent.train(env, 120)
    # Off-policy each batch once; on-policy each rollout once, whatever the epochs.
    rows = 8 * agent.updates if base is OffPolicyAgent else 120 // 24 * 24
    assert int(agent.state["rows"]) == rows > 0
    assert int(agent.state["updates"]) == agent.updates


def test_a_state_that_processing_spoils_is_named(helpers):
    env = pushes("host")

    def spoils(state, key, experience):
        return {**state, "rows": state["rows"] + 0.5}, (experience.reward,)

    agent = make(
        helpers, env, OffPolicyAgent, Clips, process=spoils,
        state={"rows": jnp.int32(0)}, **OFF,
    )  # fmt: skip
    with pytest.raises(TypeError, match=r"process_experience changed state\['rows'\]"):
        agent.train(env, 100)


@DRIVERS
@pytest.mark.parametrize(
    "base, changes", [(OffPolicyAgent, OFF), (OnPolicyAgent, ON)], ids=["off", "on"]
)
def test_an_update_may_end_those_that_are_left(helpers, driver, base, changes):
    env = pushes(driver)

    def starts(state, key, experience):
        return {**state, "made": jnp.int32(0)}, (experience.reward,)

    def update(state, key, batch):
        # The third one says stop.
        made = state["made"] + 1
        new = {**state, "made": made, "updates": state["updates"] + 1}
        return new, {"made": made.astype(float), "stop": made == 3}

    def off_update(state, key, batch):
        made = state["updates"] % 3 + 1
        new = {**state, "updates": state["updates"] + 1}
        return new, {"made": made.astype(float), "stop": made == 3}

    off = base is OffPolicyAgent
    agent = make(
        helpers, env, base, Clips,
        process=None if off else starts, update=off_update if off else update,
        state={"made": jnp.int32(0)}, n_epochs=5, **changes,
    )  # fmt: skip
    rows = []
    agent.train(env, 120, trackers=[lambda step, row: rows.append(row)])
    due = agent.updates // (5 if off else 15)
    assert due > 1
    assert int(agent.state["updates"]) == 3 * due
    assert "stop" not in rows[-1]
    assert rows[-1]["made"] == 2.0  # the mean of 1, 2 and 3


@pytest.mark.parametrize("stop", [1.0, np.zeros(2, bool)])
def test_a_stop_that_is_no_bool_is_refused(helpers, stop):
    env = pushes("host")

    def update(state, key, batch):
        return state, {"loss": jnp.float32(0), "stop": jnp.asarray(stop)}

    agent = make(helpers, env, OffPolicyAgent, Clips, update=update, n_epochs=2, **OFF)
    with pytest.raises(TypeError, match=r"info\['stop'\] as one bool, got"):
        agent.train(env, 100)


@DRIVERS
def test_whole_sequences_are_shuffled(helpers, driver):
    env, seen = pushes(driver), []

    class Remembers(Clips):
        def initial_hidden_state(self, n_envs):
            return jnp.zeros(n_envs)

        def explore(self, observation):
            self.hidden_state = self.hidden_state + 1
            actions, log_probs, _ = super().explore(observation)
            return actions, log_probs

        def select_action(self, observation):
            self.hidden_state = self.hidden_state + 1
            return super().select_action(observation)

    def process(state, key, experience):
        where = jnp.broadcast_to(jnp.arange(N_ENVS), experience.reward.shape)
        return where, experience.observation[..., 0], experience.hidden_state

    def update(state, key, batch):
        jax.debug.callback(lambda *x: seen.append(x), *batch)
        return {**state, "updates": state["updates"] + 1}, {"loss": jnp.float32(0)}

    agent = make(
        helpers, env, OnPolicyAgent, Remembers, process=process, update=update,
        n_epochs=4, **{**ON, "batch_size": 12}, kwargs={"whole_sequences": True},
    )  # fmt: skip
    agent.train(env, 48)
    jax.effects_barrier()
    assert len(seen) == agent.updates == 16
    for envs, times, remembered in (map(np.asarray, x) for x in seen):
        assert envs.shape == times.shape == (6, 2)
        assert (envs == envs[0]).all()
        assert ((np.diff(times, axis=0) == 1) | (times[1:] == 0)).all()
        # What was remembered is the steps since the episode began.
        np.testing.assert_array_equal(remembered, times)
    assert len({tuple(envs[0].tolist()) for envs, *_ in seen}) > 2


def test_sequences_must_divide_a_batch(helpers):
    env = pushes("host")
    with pytest.raises(ValueError, match=r"batch_size = 8 must be a multiple of max_b"):
        make(helpers, env, OnPolicyAgent, Clips, kwargs={"whole_sequences": True}, **ON)
