import gymnasium as gym
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.spaces import (
    Box,
    Dict,
    Discrete,
    MultiBinary,
    MultiDiscrete,
    Sequence,
    Tuple,
)
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

from kitae.envs import HostEnv

SEED = np.random.SeedSequence(0)


class Scripted(VectorEnv):
    """Gives what it is told to give."""

    def __init__(self, observation, reward, **infos):
        self.num_envs = 2
        self.metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}
        self.single_observation_space = Box(-1.0, 1.0, (4,), np.float32)
        self.single_action_space = Discrete(2)
        self.observation, self.reward, self.infos = observation, reward, infos
        self.ended = np.zeros(2, bool)

    def reset(self, *, seed=None, options=None):
        return np.zeros((2, 4), np.float32), {}

    def step(self, actions):
        never = np.zeros(2, bool)
        return self.observation, self.reward, self.ended, never, self.infos


def good(dtype=np.float32):
    return np.zeros((2, 4), dtype)


def step(observation, reward=None, actions=(0, 1)):
    env = HostEnv(Scripted(observation, np.zeros(2) if reward is None else reward))
    env.reset(SEED)
    return env.step(np.array(actions))


def test_a_step_gives_arrays_of_the_promised_kinds():
    result = step(good(), np.array([1, 2], np.float64))
    assert result.reward.dtype == np.float32
    assert (
        result.terminated.dtype == result.truncated.dtype == result.valid.dtype == bool
    )
    assert result.observation.dtype == np.float32


@pytest.mark.parametrize(
    "observation, message",
    [
        (
            np.zeros((2, 1), np.float32),
            r"observation must be float32\[2, 4\].*\[2, 1\]",
        ),
        (good(np.float64), "got float64"),
        (good(np.int32), "got int32"),
        (np.zeros((3, 4), np.float32), r"\[2, 4\].*got float32\[3, 4\]"),
    ],
)
def test_refuses_observations_that_are_not_as_the_space_says(observation, message):
    with pytest.raises(ValueError, match=message):
        step(observation)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_not_finite_stops_before_the_replay(bad):
    observation = good()
    observation[1, 2] = bad
    with pytest.raises(
        ValueError, match="observation of environment 1 at vector step 1"
    ):
        step(observation)
    with pytest.raises(
        ValueError, match="reward of environment 0 at vector step 0 is not"
    ):
        step(good(), np.array([bad, 0.0]))


def test_a_reward_too_large_for_float32_is_refused():
    with pytest.raises(ValueError, match=r"reward of environment 1 .* is not finite"):
        step(good(), np.array([0.0, 1e300]))


def test_refuses_rewards_of_another_shape():
    with pytest.raises(ValueError, match=r"reward must have shape \[2\], got \[2, 1\]"):
        step(good(), np.zeros((2, 1)))


@pytest.mark.parametrize(
    "actions, message",
    [
        ((0, 2), r"actions must be indices in \[0, 1\], got \[0, 2\]"),
        ((-1, 0), r"got \[-1, 0\] at vector step 0; -1 often comes of Q-values"),
        ((0,), r"actions must have shape \[2\], got \[1\]"),
        ((0.0, 1.0), "actions must be integers, got float64"),
    ],
)
def test_refuses_actions_that_the_space_does_not_have(actions, message):
    with pytest.raises(ValueError, match=message):
        step(good(), actions=actions)


def test_discrete_actions_are_shifted_by_start(helpers):
    class FromFive(helpers.CountEnv):
        action_space = Discrete(2, start=5)

    env = HostEnv(SyncVectorEnv([FromFive] * 2, autoreset_mode=AutoresetMode.SAME_STEP))
    env.reset(SEED)
    env.step(np.array([0, 1]))
    assert [member.actions for member in env.env.envs] == [[5], [6]]


def test_several_discrete_actions_are_shifted_and_checked(helpers):
    class Many(helpers.CountEnv):
        action_space = MultiDiscrete([3, 4], start=[1, -1])

    env = HostEnv(SyncVectorEnv([Many] * 2))
    env.reset(SEED)
    env.step(np.array([[2, 3], [0, 1]], np.int32))
    assert env.env.envs[0].actions[0].tolist() == [3, 2]
    with pytest.raises(ValueError, match=r"actions must be indices below \[3, 4\]"):
        env.step(np.array([[2, 4], [0, 1]], np.int32))
    with pytest.raises(
        ValueError, match=r"actions must have shape \[2, 2\], got \[2\]"
    ):
        env.step(np.array([2, 3]))
    with pytest.raises(ValueError, match="actions must be integers, got float64"):
        env.step(np.array([[0.5, 1.0], [0.0, 1.0]]))


def test_an_environment_may_write_into_its_actions(helpers):
    class Writes(helpers.CountEnv):
        action_space = Box(-1, 1, (2,), np.float32)

        def step(self, action):
            action *= 2
            return super().step(action)

    env = HostEnv(SyncVectorEnv([Writes]))
    env.reset(SEED)
    env.step(np.asarray(jnp.ones((1, 2))))
    assert env.env.envs[0].actions[0].tolist() == [2, 2]


def test_other_spaces_take_actions_as_they_are(helpers):
    class Many(helpers.CountEnv):
        action_space = MultiDiscrete([3, 4])

    class Continuous(helpers.CountEnv):
        action_space = Box(-1, 1, (2,), np.float32)

    env = HostEnv(SyncVectorEnv([Many] * 2))
    env.reset(SEED)
    env.step(np.array([[2, 3], [0, 1]], np.int32))
    assert env.env.envs[0].actions[0].tolist() == [2, 3]
    env = HostEnv(SyncVectorEnv([Continuous] * 2))
    env.reset(SEED)
    with pytest.raises(ValueError, match="actions must be finite"):
        env.step(np.full((2, 2), np.nan, np.float32))


PARTS = Dict(
    {
        "image": Box(0, 255, (2, 2), np.uint8),
        "place": Tuple(
            [
                Discrete(2**40, start=-1),
                Dict({"count": Box(-1.0, np.inf, (1,), np.float32)}),
                MultiDiscrete([2, 2**40]),
            ]
        ),
    }
)


@pytest.fixture
def parts(helpers):
    class Parts(helpers.CountEnv):
        """The count in each of many parts; the next one in the last number."""

        observation_space = PARTS

        def _observation(self):
            count = super()._observation()
            image = np.full((2, 2), self.count % 256, np.uint8)
            pair = np.array([self.count % 2, self.count + 1])
            return {"image": image, "place": (self.count, {"count": count}, pair)}

    return Parts


def count_in(observation):
    """The count of each environment, `[n_envs]`, if all parts agree on it."""
    number, inner, pair = observation["place"]
    n_envs = len(number)
    np.testing.assert_array_equal(inner["count"], number[:, None])
    np.testing.assert_array_equal(pair, np.stack([number % 2, number + 1], 1))
    image = np.broadcast_to((number % 256)[:, None, None], (n_envs, 2, 2))
    np.testing.assert_array_equal(observation["image"], image)
    assert observation["image"].dtype == np.uint8
    assert (number.dtype, inner["count"].dtype) == (np.int64, np.float32)
    return number


@pytest.mark.parametrize("truncate", [False, True])
def test_observations_of_many_parts_are_right_in_every_mode(
    parts, autoreset_mode, truncate
):
    lengths = (2, 3, 5)
    makers = [lambda n=n: parts(n, truncate, first=1_000 * n) for n in lengths]
    env = HostEnv(SyncVectorEnv(makers, autoreset_mode=autoreset_mode))
    observation = env.reset(SEED)
    rows = [[], [], []]
    for _ in range(30):
        count = count_in(observation)
        step = env.step(np.zeros(3, np.int64))
        following = count_in(step.next_observation)
        for i in np.flatnonzero(step.valid):
            ended = bool(step.truncated[i] if truncate else step.terminated[i])
            assert not (step.terminated[i] if truncate else step.truncated[i])
            rows[i].append((int(count[i]), int(following[i]), ended))
        observation = step.observation
    for n, mine in zip(lengths, rows, strict=True):
        # Each episode adds n by its steps, and a reset a hundred.
        starts = [1_000 * n + (100 + n) * k + t for k in range(20) for t in range(n)]
        ended = [t == n - 1 for _ in range(20) for t in range(n)]
        expected = [(s, s + 1, e) for s, e in zip(starts, ended, strict=True)]
        assert len(mine) >= 20
        assert mine == expected[: len(mine)]


def test_observations_of_many_parts_are_copies(parts):
    """A vector that writes each step into the same arrays changes no earlier one."""
    env = HostEnv(SyncVectorEnv([parts] * 2, copy=False))
    first = env.reset(SEED)
    env.step(np.zeros(2, np.int64))
    assert count_in(first).tolist() == [0, 0]


@pytest.mark.parametrize(
    "change, message",
    [
        (
            {"image": np.zeros((2, 3, 2), np.uint8)},
            r"\['image'\] must be uint8\[2, 2, 2",
        ),
        ({"image": np.zeros((2, 2, 2))}, r"\['image'\] must be .*, got float64"),
        ({"image": None, "more": 1}, r"a dict of \['image', 'place'\], got .*'more'"),
        ({"place": ()}, r"observation\['place'\] must be a tuple of 2, got 0"),
        ({"place": 3}, r"observation\['place'\] must be a tuple of 2, got int"),
        ({"place": (np.zeros(2, int), 1)}, r"\['place'\]\[1\] must be float32\[2, 1\]"),
        (
            {"place": (np.zeros(2, int), np.array([[0], [np.nan]], np.float32))},
            r"observation\['place'\]\[1\] of environment 1 at vector step 1 is not",
        ),
    ],
)
def test_the_part_that_is_wrong_is_named(change, message):
    right = {
        "image": np.zeros((2, 2, 2), np.uint8),
        "place": (np.zeros(2, int), np.zeros((2, 1), np.float32)),
    }
    scripted = Scripted(right, np.zeros(2))
    place = Tuple([Discrete(9), Box(-1, 1, (1,), np.float32)])
    scripted.single_observation_space = Dict({"image": PARTS["image"], "place": place})
    env = HostEnv(scripted)
    env.step(np.zeros(2, int))
    scripted.observation = right | change
    env._steps = 0
    with pytest.raises(ValueError, match=message):
        env.step(np.zeros(2, int))
    scripted.observation = [0]
    with pytest.raises(ValueError, match=r"must be a dict of .*, got list"):
        env.step(np.zeros(2, int))


def test_refuses_observations_of_no_fixed_size():
    scripted = Scripted(good(), np.zeros(2))
    scripted.single_observation_space = Dict({"list": Sequence(Discrete(2))})
    message = r"observation\['list'\] must be an array of one shape, which Sequence is"
    with pytest.raises(ValueError, match=message):
        HostEnv(scripted)


@pytest.mark.parametrize("found", [None, "whenever", 7])
def test_refuses_an_environment_that_does_not_say_how_it_resets(found):
    env = Scripted(good(), np.zeros(2))
    env.metadata = {"autoreset_mode": found}
    with pytest.raises(
        ValueError, match=r"metadata\['autoreset_mode'\] must say.*SAME_STEP"
    ):
        HostEnv(env)


def test_refuses_a_same_step_reset_without_the_final_observation():
    scripted = Scripted(good(), np.zeros(2))
    env = HostEnv(scripted)
    env.reset(SEED)
    scripted.ended = np.array([True, False])
    with pytest.raises(ValueError, match=r"infos\['final_obs'\] does not hold"):
        env.step(np.zeros(2, np.int64))


def test_next_step_mode_marks_the_reset_rows(helpers):
    env = HostEnv(helpers.count_envs((2, 3), AutoresetMode.NEXT_STEP))
    env.reset(SEED)
    valid = [env.step(np.zeros(2, np.int64)).valid.tolist() for _ in range(6)]
    assert valid == [
        [True, True],
        [True, True],
        [False, True],
        [True, False],
        [True, True],
        [False, True],
    ]


def test_each_environment_is_seeded_on_its_own(helpers):
    env = HostEnv(helpers.count_envs((2, 3, 4)))
    env.reset(np.random.SeedSequence(3))
    seeds = [member.seeds[0] for member in env.env.envs]
    assert len(set(seeds)) == 3
    again = HostEnv(helpers.count_envs((2, 3, 4)))
    again.reset(np.random.SeedSequence(3))
    assert seeds == [member.seeds[0] for member in again.env.envs]


def test_an_environment_with_one_generator_is_seeded_too():
    def first(seed):
        env = gym.make_vec("CartPole-v1", num_envs=3)
        return HostEnv(env).reset(np.random.SeedSequence(seed))

    np.testing.assert_array_equal(first(0), first(0))
    starts = np.concatenate([first(0), first(1)])
    assert len(np.unique(starts[:, 0])) == 6


def test_a_cartpole_row_is_dropped_exactly_when_it_is_a_reset():
    """Gymnasium's own vectorised CartPole: its physics tells which step is real."""
    env = HostEnv(gym.make_vec("CartPole-v1", num_envs=8))
    observation = env.reset(SEED)
    rng = np.random.default_rng(0)
    dropped = 0
    for _ in range(300):
        actions = rng.integers(0, 2, 8)
        result = env.step(actions)
        # Position moves by 0.02 times the velocity: x' = x + tau * v.
        moved = observation[:, 0] + 0.02 * observation[:, 1]
        real = np.isclose(result.next_observation[:, 0], moved, atol=1e-6)
        np.testing.assert_array_equal(real, result.valid)
        dropped += (~result.valid).sum()
        observation = result.observation
    assert dropped > 50


@pytest.mark.parametrize("name", ["terminated", "truncated"])
@pytest.mark.parametrize(
    "flags",
    [
        np.zeros((2, 1), bool),
        np.zeros(()),
        np.zeros(3, bool),
        None,
        np.array([np.nan, 0.0]),
        np.array(["False", "False"]),
        np.zeros(2),
        np.array([0, 2]),
        [[True], [True, False]],
    ],
    ids=repr,
)
def test_refuses_flags_that_are_not_one_bool_of_each_environment(name, flags):
    scripted = Scripted(good(), np.zeros(2))
    right = scripted.step(None)
    at = 2 if name == "terminated" else 3
    scripted.step = lambda actions: (*right[:at], flags, *right[at + 1 :])
    env = HostEnv(scripted)
    with pytest.raises(ValueError, match=rf"{name} must be bool\[2\], got .* step 0"):
        env.step(np.zeros(2, int))


@pytest.mark.parametrize(
    "reward, message",
    [
        (np.array([1j, 0]), "reward must be real numbers, got complex128 at vector"),
        (np.array(["1", "2"]), "reward must be real numbers, got <U1"),
        ([[1.0], [1.0, 2.0]], r"reward must be real numbers, got object"),
        (None, r"reward must have shape \[2\], got \[\]"),
    ],
)
def test_refuses_rewards_that_are_not_real_numbers(reward, message):
    with pytest.raises(ValueError, match=message):
        step(good(), reward if reward is not None else np.array(None))


def test_refuses_a_vector_step_of_four_values():
    scripted = Scripted(good(), np.zeros(2))
    four = scripted.step(None)[:4]
    scripted.step = lambda actions: four
    message = "step of Scripted must return Gymnasium's five values .* got 4 values"
    with pytest.raises(ValueError, match=message):
        HostEnv(scripted).step(np.zeros(2, int))


def test_a_final_observation_is_named_by_its_environment(helpers):
    class Spoils(helpers.CountEnv):
        def _observation(self):
            ends = self.t == self.length and self.length == 3
            return np.array([np.nan if ends else self.count], np.float32)

    makers = [lambda n=n: Spoils(n) for n in (5, 4, 3)]
    env = HostEnv(SyncVectorEnv(makers, autoreset_mode=AutoresetMode.SAME_STEP))
    env.reset(SEED)
    env.step(np.zeros(3, int))
    env.step(np.zeros(3, int))
    with pytest.raises(ValueError, match=r"environment 2 .* not finite"):
        env.step(np.zeros(3, int))


def box_env(helpers, space, seen=None):
    class Continuous(helpers.CountEnv):
        action_space = space

    env = HostEnv(SyncVectorEnv([Continuous] * 2))
    env.reset(SEED)
    return env


@pytest.mark.parametrize(
    "space, actions, message",
    [
        (Box(-0.1, 0.1, (1,)), [[0.0], [2.87]], r"environment 1 .* Box\(-0.1, .*2.87"),
        (
            Box(0.0, np.inf, (1,)),
            [[-0.5], [1.0]],
            "environment 0 at vector step 0 .*-0",
        ),
        (Box(0.0, np.inf, (1,)), [[np.inf], [1.0]], "actions must be finite"),
        (Box(0, 9, (1,), np.int64), [[0.5], [1.0]], "environment 0 .*Box.* got 0.5"),
        (Box(0, 9, (1,), np.int64), [[0.0], [10.0]], "environment 1 .* got 10.0"),
    ],
)
def test_refuses_box_actions_outside_the_space(helpers, space, actions, message):
    env = box_env(helpers, space)
    with pytest.raises(ValueError, match=message):
        env.step(np.array(actions, np.float32))
    assert env.env.envs[0].actions == []


def test_a_bound_that_float32_rounds_up_is_sent_as_the_bound(helpers):
    bound = 0.1  # float32 has 0.10000000149
    assert float(np.float32(bound)) > bound
    env = box_env(helpers, Box(-bound, bound, (1,), np.float64))
    env.step(np.array([[bound], [-bound]], np.float32))
    sent = [member.actions[0][0] for member in env.env.envs]
    assert sent == [bound, -bound]


def test_refuses_binary_actions_of_other_numbers(helpers):
    env = box_env(helpers, MultiBinary(2))
    env.step(np.array([[0, 1], [1, 1]]))
    with pytest.raises(ValueError, match="actions must be 0 or 1"):
        env.step(np.array([[0, 2], [1, 1]]))
