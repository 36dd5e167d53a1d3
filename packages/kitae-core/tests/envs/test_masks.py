"""Masks, of an environment whose count tells what its mask must be."""

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.envs.functional_jax_env import FunctionalJaxVectorEnv
from gymnasium.envs.phys2d.cartpole import CartPoleFunctional
from gymnasium.experimental.functional import FuncEnv
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete, Tuple
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.vector.utils import batch_space

from kitae.buffer import stored_rows
from kitae.envs import ActionMask, HostEnv, make_vec_env
from kitae.envs.functional import JaxVectorEnv, as_jax_env
from kitae.envs.masks import masked_space, n_actions

SEED = np.random.SeedSequence(0)
COUNT = Box(0, np.inf, (1,), np.float32)


def mask_of(count):
    """The three bits of a number from 1 to 7: at least one action is allowed."""
    number = 1 + np.asarray(count, int) % 7
    return np.stack([number // 1 % 2, number // 2 % 2, number // 4 % 2], -1)


class Masked(gym.Env):
    """Counts up by one; starts at some hundred. Ends after `length` steps."""

    action_space = Discrete(3)

    def __init__(self, length=3, observation_space=COUNT, truncates=False):
        self.observation_space, self.length = observation_space, length
        self.truncates = truncates

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count, self.t = 100 * int(self.np_random.integers(1_000)), 0
        return self._seen(), self._info()

    def step(self, action):
        self.count, self.t = self.count + 1, self.t + 1
        ended = self.t == self.length
        cut = ended and self.truncates
        return self._seen(), 1.0, ended and not cut, cut, self._info()

    def _seen(self):
        count = np.array([self.count], np.float32)
        if isinstance(self.observation_space, Dict):
            return {"count": count, "twice": 2 * count}
        return (count, 2 * count) if self.observation_space != COUNT else count

    def _info(self):
        return {"action_mask": mask_of(self.count).astype(np.int8), "count": self.count}


def count_in(observation):
    """The count in an observation of any of the kinds, once their parts are checked."""
    if "count" in observation:
        np.testing.assert_array_equal(observation["twice"], 2 * observation["count"])
        return observation["count"][:, 0]
    inner = observation["observation"]
    if isinstance(inner, tuple):
        np.testing.assert_array_equal(inner[1], 2 * inner[0])
        return inner[0][:, 0]
    return inner[:, 0]


def transitions(env, n_steps):
    """The rows of each environment, all of their masks checked."""
    host, rows = HostEnv(env), [[] for _ in range(env.num_envs)]
    observation = host.reset(SEED)
    for _ in range(n_steps):
        assert env.observation_space.contains(observation)
        count = count_in(observation)
        np.testing.assert_array_equal(observation["action_mask"], mask_of(count))
        step = host.step(np.zeros(env.num_envs, int))
        after = count_in(step.next_observation)
        mask = step.next_observation["action_mask"]
        np.testing.assert_array_equal(mask, mask_of(after))
        assert mask.dtype == np.int8
        for i in np.flatnonzero(step.valid):
            assert after[i] == count[i] + 1
            end = bool(step.terminated[i]), bool(step.truncated[i])
            rows[i].append((float(count[i]), float(after[i]), *end))
        observation = step.observation
    return rows


KINDS = {
    "plain": COUNT,
    "dict": Dict({"count": COUNT, "twice": COUNT}),
    "tuple": Tuple([COUNT, COUNT]),
}


def makers(kind):
    space = KINDS[kind]
    lengths = ((2, False), (3, True), (5, False))
    return [lambda n=n, cut=cut: Masked(n, space, cut) for n, cut in lengths]


def expected(kind, n_steps):
    """Single environments, stepped by hand with the seeds that a `HostEnv` gives."""
    rows = []
    for make, seed in zip(makers(kind), SEED.generate_state(3), strict=True):
        env = make()
        env.reset(seed=int(seed))
        rows.append([])
        for _ in range(n_steps):
            before = env.count
            *_, terminated, truncated, info = env.step(0)
            rows[-1].append((before, info["count"], terminated, truncated))
            if terminated or truncated:
                env.reset()
    return rows


@pytest.mark.parametrize("kind", KINDS)
def test_masks_and_transitions_are_right_in_every_mode(kind, autoreset_mode):
    env = ActionMask(SyncVectorEnv(makers(kind), autoreset_mode=autoreset_mode))
    for mine, theirs in zip(transitions(env, 40), expected(kind, 40), strict=True):
        assert len(mine) >= 26
        assert mine == theirs[: len(mine)]


def test_masks_are_right_between_processes_too(autoreset_mode):
    """Taxi's masks are a function of the place; every fourth step ends an episode."""
    env = gym.make_vec(
        "Taxi-v4",
        num_envs=2,
        vectorization_mode="async",
        vector_kwargs={"autoreset_mode": autoreset_mode, "context": "forkserver"},
        max_episode_steps=4,
    )
    host = HostEnv(ActionMask(env))
    member, ends = gym.make("Taxi-v4").unwrapped, 0
    observation = host.reset(SEED)
    for _ in range(14):
        step = host.step(np.zeros(2, int))
        ends += step.truncated.sum()
        for seen in (observation, step.next_observation):
            expected = [member.action_mask(place) for place in seen["observation"]]
            np.testing.assert_array_equal(seen["action_mask"], expected)
        observation = step.observation
    assert ends >= 4
    env.close()


def test_the_mask_is_named_in_the_space():
    mask = Box(0, 1, (3,), np.int8)
    both = masked_space(COUNT, Discrete(3, start=5))
    assert both == Dict({"observation": COUNT, "action_mask": mask})
    beside = masked_space(KINDS["dict"], Discrete(3))
    assert beside == Dict({"count": COUNT, "twice": COUNT, "action_mask": mask})
    assert n_actions(MultiDiscrete([[2, 3], [4, 5]])) == 14
    with pytest.raises(ValueError, match=r"Discrete or MultiDiscrete space, got Box"):
        masked_space(COUNT, COUNT)
    with pytest.raises(ValueError, match="a part 'action_mask' already"):
        masked_space(both, Discrete(3))


def test_registered_environments_get_masks_when_asked():
    env = make_vec_env("Taxi-v4", 2, action_mask=True)
    host = HostEnv(env)
    observation = host.reset(SEED)
    member = env.unwrapped.envs[0].unwrapped
    for _ in range(30):
        allowed = observation["action_mask"]
        np.testing.assert_array_equal(
            allowed[0], member.action_mask(observation["observation"][0])
        )
        step = host.step(allowed.argmax(axis=1))
        # Taxi's masks leave out what changes nothing.
        moved = step.next_observation["observation"] != observation["observation"]
        assert moved.all()
        observation = step.observation


class Told(VectorEnv):
    """Ends at once, and tells what it is told to."""

    num_envs = 2
    single_observation_space, single_action_space = COUNT, Discrete(2)
    observation_space = batch_space(COUNT, 2)

    def __init__(self, first, then):
        self.metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}
        self.first, self.then = first, then

    def reset(self, *, seed=None, options=None):
        return np.zeros((2, 1), np.float32), self.first

    def step(self, actions):
        rows = np.zeros((2, 1), np.float32)
        ended = np.array([False, True])
        final = {"final_obs": rows + 1, "_final_obs": ended}
        return rows, np.zeros(2), ended, np.zeros(2, bool), self.then | final


GOOD = {"action_mask": np.array([[1, 0], [0, 1]], bool)}
SECOND = {"action_mask": np.array([[0, 0], [1, 1]]), "_action_mask": [False, True]}
HALF = {"action_mask": np.ones((2, 2)), "_action_mask": np.array([True, False])}


def test_a_vector_of_its_own_need_not_say_who_has_a_mask():
    env = HostEnv(ActionMask(Told(GOOD, GOOD | {"final_info": GOOD})))
    assert env.reset(SEED)["action_mask"].tolist() == [[1, 0], [0, 1]]
    final = {"final_info": SECOND | {"_action_mask": np.array([False, True])}}
    env = HostEnv(ActionMask(Told(GOOD, GOOD | final)))
    env.reset(SEED)
    step = env.step(np.zeros(2, int))
    assert step.observation["action_mask"].tolist() == [[1, 0], [0, 1]]
    assert step.next_observation["action_mask"].tolist() == [[1, 0], [1, 1]]
    assert step.next_observation["observation"].tolist() == [[0], [1]]


@pytest.mark.parametrize(
    "first, then, message",
    [
        ({}, {}, r"infos\['action_mask'\] of every .*; Told gives none of .* 0"),
        (HALF, {}, r"infos\['action_mask'\] of every .*; Told gives none of .* 1"),
        (GOOD, {}, r"infos\['action_mask'\] of every .*; Told gives none of .* 0"),
        (GOOD, GOOD, r"infos\['final_info'\]\['action_mask'\] of .* none of .* 1"),
        (
            GOOD,
            GOOD | {"final_info": HALF},
            r"infos\['final_info'\]\['action_mask'\] of .* none of .* 1",
        ),
        ({"action_mask": np.ones((2, 3))}, {}, r"2 for each environment as Disc"),
        ({"action_mask": np.ones(2)}, {}, r"zeros and ones, 2 for each"),
        ({"action_mask": np.full((2, 2), 2)}, {}, r"got \[\[2, 2\], \[2, 2\]\] in in"),
    ],
)
def test_an_environment_without_masks_is_told(first, then, message):
    env = HostEnv(ActionMask(Told(first, then)))
    with pytest.raises(ValueError, match=message):  # noqa: PT012, either may
        env.reset(SEED)
        env.step(np.zeros(2, int))


# --- Environments that are JAX functions ----------------------------------------------


class MaskedFunctions(FuncEnv):
    """The same count; four steps an episode; a forbidden action costs a thousand."""

    observation_space, action_space = COUNT, Discrete(3)

    def initial(self, rng, params=None):
        return 100 * jax.random.randint(rng, (), 0, 1_000)

    def transition(self, state, action, rng, params=None):
        return state + 1

    def observation(self, state, rng, params=None):
        return state[None].astype(jnp.float32)

    def action_mask(self, state, rng):
        return (1 + state % 7) >> jnp.arange(3) & 1 == 1

    def reward(self, state, action, next_state, rng, params=None):
        return jnp.where(self.action_mask(state, rng)[action], 1.0, -1_000.0)

    def terminal(self, state, rng, params=None):
        return state % 100 == 4


class NestedFunctions(MaskedFunctions):
    observation_space = KINDS["dict"]

    def observation(self, state, rng, params=None):
        count = state[None].astype(jnp.float32)
        return {"count": count, "twice": 2 * count}


@pytest.mark.parametrize("kind", [MaskedFunctions, NestedFunctions])
def test_jax_environments_have_them_too(kind):
    env = JaxVectorEnv(kind(), 3, action_mask=True)
    assert env.single_observation_space == masked_space(
        kind.observation_space, Discrete(3)
    )
    for rows in transitions(env, 12):
        assert [row[2] for row in rows] == [False, False, False, True] * 3


def test_gymnasiums_vector_of_functions_has_them_too():
    theirs = FunctionalJaxVectorEnv(MaskedFunctions(), 3)
    env = as_jax_env(theirs, 3)
    transitions(JaxVectorEnv(env.func_env, 3, action_mask=True), 12)


def test_without_asking_there_is_no_mask():
    env = JaxVectorEnv(MaskedFunctions(), 2)
    assert env.single_observation_space == COUNT
    assert env.reset(seed=0)[0].shape == (2, 1)


@pytest.fixture(params=["compiled", "host"])
def driver(request):
    """Takes an environment of JAX functions to one of the two training loops."""
    wrap = gym.vector.VectorWrapper
    return {"compiled": lambda env: env, "host": wrap}[request.param]


@pytest.mark.slow
def test_an_agent_that_heeds_masks_is_never_fined(helpers, driver):
    class Heeds(helpers.TableAgent):
        def _explore_factory(self, config):
            def explore(state, key, observations, exploration):
                allowed = observations["action_mask"]
                luck = jax.random.uniform(key, allowed.shape) + 0.1
                return jnp.argmax(allowed * luck, axis=1), jnp.zeros(len(allowed))

            return explore

        def _process_factory(self, config):
            def process(state, key, experience):
                return jnp.zeros(experience.reward.shape, jnp.int32), experience.reward

            return process

    env = driver(JaxVectorEnv(MaskedFunctions(), 3, action_mask=True))
    agent = helpers.make_agent(env, agent_type=Heeds, max_buffer_size=90)
    history = agent.train(env, 300)
    assert set(history.episode_return) == {4.0}
    held = jax.tree.map(np.asarray, stored_rows(agent.memory))
    for part, moved in ((held.observation, 0), (held.next_observation, 1)):
        assert sorted(part) == ["action_mask", "observation"]
        assert part["action_mask"].dtype == np.int8
        count = part["observation"][..., 0][: int(agent.memory.size.min())]
        mask = part["action_mask"][: len(count)]
        np.testing.assert_array_equal(mask, mask_of(count))
        assert set((count % 100).ravel()) == {moved + k for k in range(4)}


@pytest.mark.parametrize(
    "make, message",
    [
        (
            lambda: JaxVectorEnv(CartPoleFunctional(), 2, action_mask=True),
            r"needs a method action_mask\(state, rng\), which CartPoleFunctional",
        ),
        (
            lambda: make_vec_env("phys2d/CartPole-v1", 2, action_mask=True),
            r"needs a method action_mask\(state, rng\), which CartPoleFunctional",
        ),
        (
            lambda: make_vec_env("CartPole-v1", 2, action_mask=True).reset(seed=0),
            r"CartPoleVectorEnv gives none of environment 0",
        ),
        (
            lambda: make_vec_env("Pendulum-v1", 2, action_mask=True),
            "needs a Discrete or MultiDiscrete space, got Box",
        ),
        (
            lambda: make_vec_env("X", 2, backend="gymnax", action_mask=True),
            "action_mask: environments of 'gymnax' have no masks",
        ),
        (
            lambda: make_vec_env("CartPole-v1", 2, action_mask=1),
            "action_mask must be True or False, got 1",
        ),
        (
            lambda: JaxVectorEnv(MaskedFunctions(), 2, action_mask=None),
            "action_mask must be True or False, got None",
        ),
    ],
)
def test_refuses_masks_where_there_are_none(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_refuses_masks_of_another_shape():
    class Short(MaskedFunctions):
        def action_mask(self, state, rng):
            return jnp.ones(2)

    message = r"observation\['action_mask'\] must have shape \[4, 3\] as Box"
    with pytest.raises(ValueError, match=message):
        JaxVectorEnv(Short(), 4, action_mask=True)
