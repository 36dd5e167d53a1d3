import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, Tuple

from kitae.envs import HostEnv, make_vec_env
from kitae.envs.functional import JaxVectorEnv
from kitae.envs.gymnax import GymnaxFuncEnv, as_space, make_gymnax

gymnax = pytest.importorskip("gymnax", reason="gymnax is not installed")
spaces = gymnax.environments.spaces


def cartpole(n_envs=4, **kwargs):
    return make_vec_env("CartPole-v1", n_envs, backend="gymnax", **kwargs)


def test_its_limit_truncates_and_a_fall_terminates():
    """Pushing to one side makes a pole fall within 8 to 11 steps."""
    for limit, kind in ((5, "truncated"), (50, "terminated")):
        env = cartpole(max_episode_steps=limit)
        host = HostEnv(env)
        host.reset(np.random.SeedSequence(0))
        lengths, t = [], np.zeros(4, int)
        for _ in range(40):
            step = host.step(np.ones(4, np.int64))
            t += 1
            ended = step.terminated | step.truncated
            np.testing.assert_array_equal(ended, getattr(step, kind))
            if kind == "terminated":
                angle = np.abs(step.next_observation[:, 2])
                np.testing.assert_array_equal(ended, angle > 12 * 2 * np.pi / 360)
            assert np.abs(step.observation[ended]).max(initial=0) <= 0.05
            lengths += t[ended].tolist()
            t[ended] = 0
        expected = {5} if kind == "truncated" else {8, 9, 10, 11}
        assert set(lengths) <= expected
        assert len(lengths) > 10


def test_rows_are_what_gymnax_steps_to():
    env, params = gymnax.make("CartPole-v1")
    mine = cartpole(2)
    state = mine.initial(jax.random.key(0))
    transition = jax.jit(mine.transition)
    rng = np.random.default_rng(0)
    for t in range(12):
        actions = rng.integers(0, 2, 2)
        moved, step = transition(state, actions, jax.random.key(t))
        for i in range(2):
            inner = jax.tree.map(lambda leaf, i=i: leaf[i], state.inner.inner)
            expected, _, reward, terminated, _ = env.step_env(
                jax.random.key(0), inner, actions[i], params
            )
            np.testing.assert_allclose(step.next_observation[i], expected, 1e-5, 1e-6)
            assert step.reward[i] == reward == 1.0
            assert step.terminated[i] == terminated
        state = moved


def test_parameters_are_the_environments():
    default = cartpole().func_env.params
    assert default.max_steps_in_episode == 500
    changed = cartpole(params={"gravity": 5.0}, max_episode_steps=7).func_env.params
    assert (changed.gravity, changed.max_steps_in_episode) == (5.0, 7)
    assert changed.length == default.length
    deep = make_gymnax("DeepSea-bsuite", 2, size=5)
    assert deep.single_observation_space.shape == (5, 5)
    assert deep.func_env.params.max_steps_in_episode == 5


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"params": {"gravitas": 1}}, r"params must name .*'gravity'.*\['gravitas'\]"),
        ({"max_episode_steps": 0}, "max_episode_steps must be an int of at least 1"),
        ({"n_envs": 0}, "n_envs must be an int of at least 1"),
        ({"env_id": "CartPool-v1"}, "CartPool-v1 is not in registered gymnax"),
    ],
)
def test_refuses_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_gymnax(**{"env_id": "CartPole-v1", "n_envs": 2} | arguments)


def test_refuses_wrappers_and_other_things():
    from gymnax.wrappers.purerl import FlattenObservationWrapper

    for env in (FlattenObservationWrapper(gymnax.make("Catch-bsuite")[0]), "Catch"):
        with pytest.raises(TypeError, match=r"env must be a gymnax\..*, got"):
            GymnaxFuncEnv(env)


@pytest.mark.parametrize(
    "theirs, mine",
    [
        (spaces.Discrete(3), Discrete(3)),
        (spaces.Box(0, 1, (2, 3), jnp.int32), Box(0, 1, (2, 3), np.int32)),
        (spaces.Box(0, 255, (2,), jnp.uint8), Box(0, 255, (2,), np.uint8)),
        (spaces.Box(-0.1, jnp.inf, ()), Box(-0.1, np.inf, (), np.float32)),
        (
            spaces.Box(-1.0, jnp.array([2.0, 3.0]), (2,)),
            Box(np.array([-1, -1], np.float32), np.array([2, 3], np.float32)),
        ),
        (
            spaces.Dict({"a": spaces.Discrete(2), "b": spaces.Box(0, 1, (1,))}),
            Dict({"a": Discrete(2), "b": Box(0, 1, (1,))}),
        ),
        (spaces.Tuple([spaces.Discrete(2)]), Tuple([Discrete(2)])),
    ],
    ids=str,
)
def test_spaces_are_converted_exactly(theirs, mine):
    converted = as_space(theirs)
    assert converted == mine
    assert converted.dtype == mine.dtype


@pytest.mark.parametrize(
    "space",
    [
        spaces.Space(),
        spaces.Box(0, 1, (2,), jnp.bfloat16),
        spaces.Box(0, 300, (2,), jnp.uint8),
        spaces.Box(jnp.zeros(3), jnp.ones(3), (2,)),
        spaces.Dict({"a": spaces.Space()}),
    ],
    ids=lambda space: type(space).__name__,
)
def test_refuses_spaces_without_a_counterpart(space):
    with pytest.raises(ValueError, match="no Gymnasium space is as"):
        as_space(space)


def test_an_agent_trains_on_it(helpers):
    env = cartpole(max_episode_steps=6)
    assert isinstance(env, JaxVectorEnv)
    agent = helpers.make_agent(env, n_env_steps=240)
    history = agent.train(env, 240)
    assert set(history.episode_length) == {6}
    np.testing.assert_array_equal(history.episode_return, 6.0)
    assert len(history.episode_length) == 40
    np.testing.assert_array_equal(agent.evaluate(env, 3), [6.0] * 3)
