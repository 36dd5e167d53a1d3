from functools import cached_property
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete

from kitae.envs import HostEnv, make_vec_env
from kitae.envs.functional import JaxVectorEnv
from kitae.envs.jumanji import JumanjiFuncEnv, as_space, make_jumanji

jumanji = pytest.importorskip("jumanji", reason="jumanji is not installed")
specs = pytest.importorskip("jumanji.specs")
types = pytest.importorskip("jumanji.types")
wrappers = pytest.importorskip("jumanji.wrappers")


def snake(n_envs=4, **kwargs):
    kwargs = {"num_rows": 4, "num_cols": 4} | kwargs
    return make_vec_env("Snake-v1", n_envs, backend="jumanji", **kwargs)


def test_leaving_the_board_terminates_and_the_limit_truncates():
    """Up and up leaves a board of four rows within four steps."""
    for limit, kind in ((1, "truncated"), (None, "terminated")):
        env = snake(observation="grid", max_episode_steps=limit)
        host = HostEnv(env)
        observation = host.reset(np.random.SeedSequence(0))
        ends = 0
        for _ in range(12):
            row = observation[..., 1].max(axis=2).argmax(axis=1)  # of the head
            step = host.step(np.zeros(4, np.int64))
            assert not (step.terminated & step.truncated).any()
            np.testing.assert_array_equal(step.terminated, row == 0)
            if limit:
                np.testing.assert_array_equal(step.truncated, row > 0)
            ends += getattr(step, kind).sum()
            observation = step.observation
        assert ends > 8


def test_its_own_time_limit_is_what_jumanji_says():
    """Snake says that its limit terminates: it shows the step count."""
    env = snake(time_limit=1)
    observation, _ = env.reset(seed=0)
    assert observation["step_count"].tolist() == [0] * 4
    _, _, terminated, truncated, infos = env.step(np.zeros(4, int))
    assert terminated.all()
    assert not truncated.any()
    assert [final["step_count"] for final in infos["final_obs"]] == [1] * 4


def test_a_field_is_seen_alone():
    both = snake()
    assert list(both.single_observation_space) == ["action_mask", "grid", "step_count"]
    alone = snake(observation="grid")
    assert alone.single_observation_space == both.single_observation_space["grid"]
    whole, _ = both.reset(seed=1)
    grid, _ = alone.reset(seed=1)
    np.testing.assert_array_equal(grid, whole["grid"])
    maze = make_jumanji("Maze-v0", 2)  # a field of fields
    assert maze.observation_space.contains(maze.reset(seed=0)[0])
    position = make_jumanji("Maze-v0", 2, observation="agent_position")
    assert list(position.single_observation_space) == ["col", "row"]


def test_masks_are_seen_when_asked():
    """A snake's mask forbids what leaves the board or bites."""
    alone = snake(observation="grid", action_mask=True)
    assert list(alone.single_observation_space) == ["action_mask", "observation"]
    whole = snake(action_mask=True)
    parts = ["action_mask", "grid", "step_count"]
    assert list(whole.single_observation_space) == parts
    for env in (alone, whole):
        space = env.single_observation_space["action_mask"]
        assert space == Box(0, 1, (4,), np.int8)
        host = HostEnv(env)
        observation = host.reset(np.random.SeedSequence(1))
        for _ in range(10):
            grid = observation.get("observation", observation.get("grid"))
            row = grid[..., 1].max(axis=2).argmax(axis=1)  # of the head
            mask = observation["action_mask"]
            assert not mask[row == 0, 0].any()
            step = host.step(mask.argmax(axis=1))
            assert not (step.terminated & (mask.sum(axis=1) > 0)).any()
            observation = step.observation


@pytest.mark.parametrize(
    "arguments, message",
    [
        (
            {"env_id": "Minesweeper-v0", "action_mask": True},
            r"one entry for each action of MultiDiscrete.*shape is \[10, 10\]",
        ),
        (
            {"env_id": "RubiksCube-v0", "action_mask": True},
            "one entry for each action of MultiDiscrete.*but there is none",
        ),
        (
            {"observation": "picture"},
            r"one of \['action_mask', 'grid', 'step_count'\], got 'picture'",
        ),
        ({"max_episode_steps": 0}, "max_episode_steps must be an int of at least 1"),
        ({"n_envs": 0}, "n_envs must be an int of at least 1"),
        ({"env_id": "Snail-v1"}, "Unregistered environment Snail-v1"),
    ],
)
def test_refuses_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_jumanji(**{"env_id": "Snake-v1", "n_envs": 2} | arguments)


def test_refuses_what_resets_or_batches_itself():
    env = jumanji.make("Snake-v1")
    for wrapped in (
        wrappers.AutoResetWrapper(env),
        wrappers.VmapWrapper(env),
        wrappers.VmapAutoResetWrapper(env),
    ):
        with pytest.raises(TypeError, match=r"env must be without .*Wrapper"):
            JumanjiFuncEnv(wrapped)
    with pytest.raises(TypeError, match=r"env must be a jumanji\.env\."):
        JumanjiFuncEnv("Snake-v1")


class Pair(NamedTuple):
    a: jax.Array
    b: jax.Array


@pytest.mark.parametrize(
    "spec, space",
    [
        (specs.DiscreteArray(3), Discrete(3)),
        (specs.MultiDiscreteArray(jnp.array([2, 3])), MultiDiscrete([2, 3])),
        (specs.BoundedArray((2,), jnp.int8, 0, 5), Box(0, 5, (2,), np.int8)),
        (specs.BoundedArray((2,), bool, False, True), Box(0, 1, (2,), np.bool_)),
        (
            specs.BoundedArray((2,), float, [0.1, 0.2], jnp.inf),
            Box(np.array([0.1, 0.2], np.float32), np.full(2, np.inf, np.float32)),
        ),
        (specs.Array((), jnp.float32), Box(-np.inf, np.inf, (), np.float32)),
        (specs.Array((1,), jnp.uint8), Box(0, 255, (1,), np.uint8)),
        (specs.Array((1,), bool), Box(0, 1, (1,), np.bool_)),
        (
            specs.Spec(Pair, "", a=specs.DiscreteArray(2), b=specs.Array((1,), float)),
            Dict({"a": Discrete(2), "b": Box(-np.inf, np.inf, (1,))}),
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_specs_are_converted_exactly(spec, space):
    converted = as_space(spec)
    assert converted == space
    assert converted.dtype == space.dtype


@pytest.mark.parametrize(
    "spec", [specs.Array((2,), jnp.bfloat16), specs.Spec(Pair, "empty"), "(2,)"]
)
def test_refuses_specs_without_a_counterpart(spec):
    with pytest.raises(ValueError, match="no Gymnasium space is as"):
        as_space(spec)


class Ends(jumanji.env.Environment):
    """Each of four actions gives a discount; the last two end the episode."""

    def reset(self, key):
        return jnp.int32(0), types.restart(jnp.zeros(1))

    def step(self, state, action):
        last, mid = types.StepType.LAST, types.StepType.MID
        return state + 1, types.TimeStep(
            step_type=jnp.where(action >= 2, last, mid),
            reward=jnp.float32(1),
            discount=jnp.array([1.0, 0.0, 0.5, 0.0])[action],
            observation=jnp.zeros(1),
        )

    @cached_property
    def observation_spec(self):
        return specs.Array((1,), float)

    @cached_property
    def action_spec(self):
        return specs.DiscreteArray(4)


class Two(Ends):
    """Two agents with a reward and a discount each; its second step truncates."""

    reward_spec = specs.Array((2,), float)
    discount_spec = specs.BoundedArray((2,), float, 0.0, 1.0)

    def reset(self, key):
        return jnp.int32(0), types.restart(jnp.zeros(1), shape=2)

    def step(self, state, action):
        reward, found = jnp.array([1.0, 2.0]), jnp.zeros(1)
        kinds = [types.transition, types.truncation]
        kinds = [lambda kind=kind: kind(reward, found, shape=2) for kind in kinds]
        return state + 1, jax.lax.switch(state, kinds)


def test_a_last_step_truncates_unless_its_discount_is_zero():
    env = JaxVectorEnv(JumanjiFuncEnv(Ends()), 4)
    env.reset(seed=0)
    _, _, terminated, truncated, _ = env.step(np.arange(4))
    assert terminated.tolist() == [False, False, False, True]
    assert truncated.tolist() == [False, False, True, False]


def test_many_agents_are_taken_as_one():
    with pytest.raises(ValueError, match=r"one reward and one discount.*\[2\], \[2\]"):
        JumanjiFuncEnv(Two())
    env = JaxVectorEnv(JumanjiFuncEnv(wrappers.MultiToSingleWrapper(Two())), 3)
    env.reset(seed=0)
    for t in range(4):
        _, reward, terminated, truncated, _ = env.step(np.zeros(3, int))
        assert reward.tolist() == [3.0] * 3
        assert terminated.tolist() == [False] * 3
        assert truncated.tolist() == [t % 2 == 1] * 3


def test_an_agent_trains_on_it(helpers):
    """A sliding puzzle goes on: only the limit ends it."""
    env = make_vec_env(
        "SlidingTilePuzzle-v0",
        4,
        backend="jumanji",
        observation="puzzle",
        max_episode_steps=6,
        lazy_reset=True,
    )

    class Flat(helpers.TableAgent):
        def _process_factory(self, config):
            process = super()._process_factory(config)

            def flat(state, key, experience):
                rows = experience.observation, experience.next_observation
                first, then = (row.reshape(row.shape[0], -1) for row in rows)
                return process(
                    state,
                    key,
                    experience._replace(observation=first, next_observation=then),
                )

            return flat

    agent = helpers.make_agent(env, agent_type=Flat, n_env_steps=240)
    history = agent.train(env, 240)
    assert set(history.episode_length) == {6}
    assert len(history.episode_length) == 40
    assert agent.evaluate(env, 3).shape == (3,)
