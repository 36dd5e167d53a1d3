from collections import Counter

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.envs.functional_jax_env import FunctionalJaxVectorEnv
from gymnasium.envs.phys2d.cartpole import CartPoleFunctional
from gymnasium.experimental.functional import FuncEnv
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete, Tuple
from gymnasium.vector import AutoresetMode, VectorWrapper

from kitae.buffer import stored_rows
from kitae.envs import HostEnv, HostStep, make_vec_env
from kitae.envs.functional import START, JaxVectorEnv, as_jax_env

SEED = np.random.SeedSequence(0)
TERMINATED, TRUNCATED, GOES_ON = (True, False), (False, True), (False, False)


def host_rows(env, n_steps):
    """Yields what was seen, what the step gave, and what is seen next."""
    host = HostEnv(env)
    observation = host.reset(SEED)
    for _ in range(n_steps):
        step = host.step(np.zeros(env.num_envs, np.int64))
        assert step.valid.all()
        yield observation, step, step.observation
        observation = step.observation


def pure_rows(env, n_steps):
    transition = jax.jit(env.transition)
    state = env.initial(jax.random.key(0))
    actions = jnp.zeros(env.num_envs, jnp.int32)
    for t in range(n_steps):
        before = state
        state, step = transition(state, actions, jax.random.key(t + 1))
        yield jax.device_get((before.observation, step, state.observation))


def check_rows(rows, script, limit=None):
    """Checks every number against the script; counts how the rows ended."""
    length_of, ends_of = script
    kinds, starts, t = Counter(), None, None
    seen = []
    for observation, step, after in rows:
        observation, after = observation[:, 0], after[:, 0]
        if starts is None:
            starts, t = observation.astype(int), np.zeros(len(observation), int)
            seen += starts.tolist()
        np.testing.assert_array_equal(observation, starts + t)
        np.testing.assert_array_equal(step.next_observation[:, 0], observation + 1)
        np.testing.assert_array_equal(step.reward, observation)
        assert step.reward.dtype == np.float32
        t += 1
        for env, start in enumerate(starts):
            ended = bool(t[env] == length_of(start))
            terminates, truncates = ends_of(start)
            terminated = ended and bool(terminates)
            truncated = (ended and bool(truncates)) or t[env] == limit
            truncated = bool(truncated and not terminated)
            assert (step.terminated[env], step.truncated[env]) == (
                terminated,
                truncated,
            )
            kinds[terminated, truncated] += 1
            kinds["both"] += ended and bool(terminates and truncates)
            if not (terminated or truncated):
                assert after[env] == observation[env] + 1
                continue
            assert after[env] % 100 == 0
            starts[env], t[env] = after[env], 0
            seen.append(after[env])
    assert len(set(seen)) > 0.95 * len(seen)
    return kinds


@pytest.mark.parametrize("limit", [None, 3])
def test_rows_and_ends_are_as_scripted(any_script, script, limit):
    env = any_script(4, limit)
    kinds = check_rows(host_rows(env, 60), script, limit)
    assert min(kinds[TERMINATED], kinds[TRUNCATED], kinds[GOES_ON]) > 15
    assert kinds["both"] > 5


@pytest.mark.parametrize("limit", [None, 3])
def test_the_pure_functions_give_them_too(jax_script, script, limit):
    env = jax_script(4, limit)
    with (
        jax.numpy_dtype_promotion("strict"),
        jax.numpy_rank_promotion("raise"),
    ):
        kinds = check_rows(pure_rows(env, 60), script, limit)
    assert min(kinds[TERMINATED], kinds[TRUNCATED], kinds[GOES_ON]) > 15
    assert kinds["both"] > 5


def test_statistics_have_the_scripted_lengths_and_returns(any_script, script, helpers):
    length_of, _ = script
    env = any_script(3)
    agent = helpers.make_agent(env, n_env_steps=300)
    history = agent.train(env, 300)
    lengths, returns = history.episode_length, history.episode_return
    # An episode of length n that starts at s returns s + (s + 1) + ... + (s + n - 1).
    starts = (returns - lengths * (lengths - 1) / 2) / lengths
    np.testing.assert_array_equal(starts % 100, 0)
    np.testing.assert_array_equal(lengths, length_of(starts.astype(int)))
    assert len(set(starts)) > 0.95 * len(starts)
    assert set(lengths) == {2, 3, 4}
    # Three environments; in each, one episode of at most 3 steps is unfinished.
    assert 300 - 3 * 3 <= lengths.sum() <= 300


def test_what_is_learned_from_is_as_scripted(any_script, script, helpers):
    env = any_script(3)
    agent = helpers.make_agent(env, n_env_steps=300, max_buffer_size=120)
    agent.train(env, 300)
    held = jax.tree.map(np.asarray, stored_rows(agent.memory))
    size = int(agent.memory.size.min())

    def rows():
        for t in range(size - 1):
            found = held.next_observation[t], held.reward[t]
            step = HostStep(None, *found, held.done[t], held.truncated[t], True)
            yield held.observation[t], step, held.observation[t + 1]

    kinds = check_rows(rows(), script)
    assert min(kinds[TERMINATED], kinds[TRUNCATED], kinds[GOES_ON]) > 15


def test_an_end_is_told_to_gymnasium(jax_script):
    env = jax_script(4)
    assert env.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    observation, infos = env.reset(seed=3)
    assert env.observation_space.contains(observation)
    assert infos == {}
    ends = 0
    for _ in range(12):
        before = observation
        observation, reward, terminated, truncated, infos = env.step(np.zeros(4, int))
        assert env.observation_space.contains(observation)
        assert (reward.dtype, reward.shape) == (np.float32, (4,))
        assert terminated.dtype == truncated.dtype == bool
        ended = terminated | truncated
        assert bool(infos) == ended.any()
        for i in np.flatnonzero(ended):
            assert infos["_final_obs"].tolist() == ended.tolist()
            np.testing.assert_array_equal(infos["final_obs"][i], before[i] + 1)
            ends += 1
    assert ends > 8


def test_both_interfaces_give_the_same_stream(jax_script):
    env = jax_script(3, 3)
    observation, _ = env.reset(seed=7)
    key = jax.random.key(7)
    state = env.initial(jax.random.fold_in(key, START))
    np.testing.assert_array_equal(observation, state.observation)
    transition = jax.jit(env.transition)
    for t in range(20):
        state, step = transition(state, np.zeros(3, int), jax.random.fold_in(key, t))
        found = env.step(np.zeros(3, int))[:4]
        expected = (state.observation, step.reward, step.terminated, step.truncated)
        for mine, theirs in zip(found, expected, strict=True):
            np.testing.assert_array_equal(mine, theirs)


def stream(env, seed, n_steps=15):
    first, _ = env.reset(seed=seed)
    steps = [env.step(np.zeros(env.num_envs, int))[0] for _ in range(n_steps)]
    return np.stack([first, *steps])[:, :, 0]


def test_seeds(jax_script):
    env = jax_script(8)
    one = stream(env, 1)
    assert len(set(one[0])) == 8
    np.testing.assert_array_equal(stream(env, 1), one)
    np.testing.assert_array_equal(stream(jax_script(8), 1), one)
    assert not set(stream(env, 2)[0]) & set(one[0])
    stream(env, 1)
    again = stream(env, None)
    assert not set(again[0]) & set(one[0])
    stream(env, 1)
    np.testing.assert_array_equal(stream(env, None), again)


def test_a_lazy_reset_changes_nothing(jax_script):
    np.testing.assert_array_equal(
        stream(jax_script(4, lazy_reset=True), 5), stream(jax_script(4), 5)
    )


# --- What only a `FuncEnv` of one's own can have --------------------------------------


class Parts(FuncEnv):
    """Three steps; observed as `space` says, filled with the step count."""

    action_space = Discrete(2)

    def __init__(self, space, shape=None):
        super().__init__()
        self.observation_space, self.shape = space, shape

    def initial(self, rng, params=None):
        return jnp.int32(0)

    def transition(self, state, action, rng, params=None):
        return state + 1

    def observation(self, state, rng, params=None):
        return self.filled(self.observation_space, state)

    def filled(self, space, state):
        if isinstance(space, Dict):
            return {name: self.filled(part, state) for name, part in space.items()}
        if isinstance(space, Tuple):
            return tuple(self.filled(part, state) for part in space)
        return jnp.full(self.shape or space.shape, state)

    def reward(self, state, action, next_state, rng, params=None):
        return 1.0

    def terminal(self, state, rng, params=None):
        return state == 3


def test_observations_of_many_parts(helpers):
    space = Dict(
        {
            "image": Box(0, 255, (2, 2), np.uint8),
            "place": Tuple([Discrete(9), Box(-1, 9, (1,), np.float64)]),
        }
    )
    env = JaxVectorEnv(Parts(space), 2)
    host = HostEnv(env)
    observation = host.reset(SEED)
    for t in range(7):
        assert env.observation_space.contains(observation)
        step = host.step(np.zeros(2, np.int64))
        for leaf in jax.tree.leaves(observation):
            np.testing.assert_array_equal(leaf, t % 3)
        for leaf in jax.tree.leaves(step.next_observation):
            np.testing.assert_array_equal(leaf, t % 3 + 1)
        assert step.terminated.tolist() == [t % 3 == 2] * 2
        observation = step.observation


@pytest.mark.parametrize(
    "space, on_device",
    [
        (Box(-9, 9, (2,), np.float64), np.float32),
        (Box(-9, 9, (2,), np.int64), np.int32),
        (Box(0, 9, (2,), np.uint8), np.uint8),
        (Discrete(9), np.int32),
    ],
    ids=str,
)
def test_dtypes_are_the_spaces(space, on_device):
    """On the device, where numbers of 64 bits are off, they have half of them."""
    env = JaxVectorEnv(Parts(space), 2)
    assert env.initial(jax.random.key(0)).observation.dtype == on_device
    observation, _ = env.reset(seed=0)
    for _ in range(4):
        assert observation.dtype == space.dtype
        observation, *_, infos = env.step(np.zeros(2, int))
        for final in infos.get("final_obs", []):
            assert final.dtype == space.dtype


@pytest.mark.parametrize(
    "parts, message",
    [
        (lambda n: {"a": n, "b": n}, r"a dict of \['a'\], got \['a', 'b'\]"),
        (lambda n: {}, r"observation must be a dict of \['a'\], got \[\]"),
        (lambda n: n, r"observation must be a dict of \['a'\], got "),
        (
            lambda n: {"a": jnp.stack([n, n])},
            r"observation\['a'\] must have shape \[5\]",
        ),
    ],
)
def test_refuses_observations_of_other_parts(parts, message):
    class Other(Parts):
        def observation(self, state, rng, params=None):
            return parts(state)

    with pytest.raises(ValueError, match=message):
        JaxVectorEnv(Other(Dict({"a": Discrete(9)})), 5)


class ManyActions(Parts):
    """Pays ten times the first number of the action and once the second one."""

    action_space = MultiDiscrete([3, 4], start=[1, -1])

    def __init__(self):
        super().__init__(Box(-9, 9, (1,), np.float32))

    def reward(self, state, action, next_state, rng, params=None):
        return 10 * action[0] + action[1]


def test_several_discrete_actions_count_from_their_start():
    env = JaxVectorEnv(ManyActions(), 2)
    assert env.action_space.shape == (2, 2)
    host = HostEnv(env)
    host.reset(SEED)
    # From 0 for the agent; the environment counts from 1 and from -1.
    step = host.step(np.array([[2, 3], [0, 0]]))
    assert step.reward.tolist() == [32, 9]
    with pytest.raises(ValueError, match=r"actions must be indices below \[3, 4\]"):
        host.step(np.array([[0, 4], [0, 0]]))


@pytest.mark.parametrize("wrap", [lambda env: env, VectorWrapper], ids=["jax", "host"])
@pytest.mark.parametrize("second", [3, 4])
def test_an_agent_acts_by_several_numbers(helpers, wrap, second):
    class Fixed(helpers.TableAgent):
        def _explore_factory(self, config):
            def explore(state, key, observations, exploration):
                actions = jnp.tile(jnp.array([2, second]), (len(observations), 1))
                return actions, jnp.zeros(len(observations))

            return explore

    env = wrap(JaxVectorEnv(ManyActions(), 2))
    agent = helpers.make_agent(env, agent_type=Fixed)
    if second == 4:
        with pytest.raises(ValueError, match="action"):
            agent.train(env, 60)
        return
    history = agent.train(env, 60)
    assert set(history.episode_return) == {3 * 32}
    size = int(agent.memory.size.min())
    held = np.asarray(stored_rows(agent.memory).action)[:size]
    assert held.reshape(-1, 2).tolist() == [[2, 3]] * (size * 2)


@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 1)])
def test_refuses_observations_of_another_shape(shape):
    func_env = Parts(Box(-9, 9, (2,), np.float32), shape or (1, 2))
    with pytest.raises(ValueError, match=r"must have shape \[5, 2\] as Box"):
        JaxVectorEnv(func_env, 5)


@pytest.mark.parametrize(
    "arguments, kind, message",
    [
        ({"func_env": CartPoleFunctional}, TypeError, "func_env must be .*, got type"),
        ({"n_envs": 0}, ValueError, "n_envs must be an int of at least 1"),
        ({"max_episode_steps": 0}, ValueError, "max_episode_steps must be an int"),
    ],
)
def test_refuses_bad_arguments(arguments, kind, message):
    with pytest.raises(kind, match=message):
        JaxVectorEnv(**{"func_env": CartPoleFunctional(), "n_envs": 1} | arguments)


def test_a_step_needs_a_reset():
    with pytest.raises(ValueError, match="call reset before the first step"):
        JaxVectorEnv(CartPoleFunctional(), 2).step(np.zeros(2, int))


# --- Gymnasium's own ------------------------------------------------------------------


def test_gymnasiums_forms_are_taken(jax_script):
    theirs = FunctionalJaxVectorEnv(CartPoleFunctional(), 3, max_episode_steps=7)
    mine = as_jax_env(theirs, 1)
    assert (mine.num_envs, mine.max_episode_steps) == (3, 7)
    endless = as_jax_env(FunctionalJaxVectorEnv(CartPoleFunctional(), 3), 1)
    assert endless.max_episode_steps is None
    single = as_jax_env(CartPoleFunctional(), 4)
    assert (single.num_envs, single.max_episode_steps) == (4, None)
    assert as_jax_env(mine, 9) is mine
    script = jax_script(2)
    assert as_jax_env(script.func_env, 5).num_envs == 5
    assert as_jax_env(gym.make_vec("CartPole-v1", 2), 2) is None


def test_a_vectorised_func_env_is_stepped_as_it_is(jax_script, script):
    """Gymnasium's vector turns the methods of its `FuncEnv` into vectorised ones."""
    func_env = jax_script(4).func_env
    mine = as_jax_env(FunctionalJaxVectorEnv(func_env, 4, max_episode_steps=3), 1)
    kinds = check_rows(pure_rows(mine, 40), script, limit=3)
    assert min(kinds[TERMINATED], kinds[TRUNCATED]) > 10


def test_cartpole_of_the_registry_is_gymnasiums():
    env = make_vec_env("phys2d/CartPole-v1", 3)
    assert isinstance(env, JaxVectorEnv)
    assert env.max_episode_steps == 500
    physics = CartPoleFunctional()
    state = env.initial(jax.random.key(0))
    rng = np.random.default_rng(0)
    unused, ended = jax.random.key(0), 0
    transition = jax.jit(env.transition)
    for t in range(70):
        actions = rng.integers(0, 2, 3)
        moved, step = transition(state, actions, jax.random.key(t))
        for i in range(3):
            next_state = physics.transition(state.inner[i], actions[i], unused)
            expected = physics.observation(next_state, unused)
            np.testing.assert_allclose(step.next_observation[i], expected, 1e-5, 1e-6)
            assert step.terminated[i] == physics.terminal(next_state, unused)
            assert step.reward[i] == 1.0
            length = 0 if step.terminated[i] else state.length[i] + 1
            assert moved.length[i] == length
            ended += length == 0
        state = moved
    assert ended > 2
