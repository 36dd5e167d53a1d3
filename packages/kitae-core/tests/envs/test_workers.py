"""What a single environment may give; the same in a process of its own."""

import gymnasium as gym
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from kitae.envs import HostEnv, make_vec_env
from kitae.envs.workers import CheckedEnv

SEED = np.random.SeedSequence(0)
ZEROS = np.zeros(4, np.float32)
RIGHT = (ZEROS, 0.0, False, False, {})


class Scripted(gym.Env):
    """Gives what it is told to give."""

    observation_space = Box(-1.0, 1.0, (4,), np.float32)
    action_space = Discrete(2)

    def __init__(self, step=RIGHT, reset=(ZEROS, {})):
        self.results = step, reset

    def reset(self, *, seed=None, options=None):
        return self.results[1]

    def step(self, action):
        if isinstance(self.results[0], BaseException):
            raise self.results[0]
        return self.results[0]


def with_part(index, value):
    return tuple(value if i == index else part for i, part in enumerate(RIGHT))


def play(*members, mode=AutoresetMode.SAME_STEP):
    env = HostEnv(SyncVectorEnv([lambda m=m: m for m in members], autoreset_mode=mode))
    env.reset(SEED)
    return env.step(np.zeros(len(members), int))


BAD_FLAGS = [
    np.array([True]),
    np.array([[True]]),
    None,
    float("nan"),
    "False",
    0.0,
    2,
    [],
]


@pytest.mark.parametrize("index, name", [(2, "terminated"), (3, "truncated")])
@pytest.mark.parametrize("flag", BAD_FLAGS, ids=repr)
def test_flags_that_are_not_one_true_or_false_are_refused(index, name, flag):
    message = rf"^{name} of environment 1 must be True or False, got "
    with pytest.raises(ValueError, match=message):
        play(Scripted(), Scripted(with_part(index, flag)))


@pytest.mark.parametrize(
    "flag", [True, np.True_, 1, np.array(True), np.int64(1), jnp.array(True)], ids=repr
)
def test_flags_of_other_kinds_of_true_are_true(flag):
    step = play(Scripted(with_part(3, flag)), mode=AutoresetMode.NEXT_STEP)
    assert step.truncated.tolist() == [True]


@pytest.mark.parametrize(
    "reward", [np.array([1.0]), 1 + 2j, np.complex128(1j), "1.0", None, [], [1.0, 2]]
)
def test_rewards_that_are_not_one_number_are_refused(reward):
    message = "^reward of environment 1 must be one real number, got "
    with pytest.raises(ValueError, match=message):
        play(Scripted(), Scripted(with_part(1, reward)))


@pytest.mark.parametrize(
    "reward", [1.5, np.float32(1.5), np.array(1.5), jnp.array(1.5)]
)
def test_rewards_of_other_kinds_of_numbers_are_taken(reward):
    assert play(Scripted(with_part(1, reward))).reward.tolist() == [1.5]


@pytest.mark.parametrize(
    "step, got", [(RIGHT[:4], "4 values"), ((*RIGHT, 1), "6 values"), (None, "None")]
)
def test_a_step_of_other_than_five_values_is_refused(step, got):
    message = f"^step of environment 0 must return Gymnasium's five values .*got {got}"
    with pytest.raises(ValueError, match=message):
        play(Scripted(step))


def test_a_reset_without_an_info_is_refused():
    message = "^reset of environment 0 must return Gymnasium's two values .*got array"
    with pytest.raises(ValueError, match=message):
        play(Scripted(reset=ZEROS))


@pytest.mark.parametrize("info", [None, [("a", 1)]])
def test_infos_that_are_not_dicts_are_refused(info):
    with pytest.raises(ValueError, match=r"^info of environment 0 must be a dict"):
        play(Scripted(with_part(4, info)))
    with pytest.raises(ValueError, match=r"^info of environment 0 must be a dict"):
        play(Scripted(reset=(ZEROS, info)))


@pytest.mark.parametrize(
    "first, second",
    [
        ({"x": 1}, {"x": "one"}),
        ({"x": np.zeros(2)}, {"x": np.zeros(3)}),
        ({"x": 1.0}, {"x": {"y": 1}}),
        ({"x": {"y": 1}}, {"x": {"y": "one"}}),
        ({"x": 1}, {"x": None}),
        ({"x": 1}, {"x": [1, 2]}),
    ],
)
def test_infos_of_different_types_break_nothing(first, second, autoreset_mode):
    members = [Scripted(with_part(4, info)) for info in (first, second, first)]
    assert play(*members, mode=autoreset_mode).valid.all()


def test_infos_of_different_types_break_no_end_of_an_episode():
    members = [
        Scripted((ZEROS + 1, 0.0, True, False, {"x": value})) for value in (1, "one")
    ]
    step = play(*members)
    assert step.next_observation[:, 0].tolist() == [1, 1]
    assert step.observation[:, 0].tolist() == [0, 0]


def test_infos_that_fit_are_still_given():
    env = SyncVectorEnv([lambda: Scripted(with_part(4, {"x": 2, "y": "a"}))] * 2)
    host = HostEnv(env)
    host.reset(SEED)
    host.step(np.zeros(2, int))
    # Outside of the calls the vector is as it was.
    assert type(env)._add_info is SyncVectorEnv._add_info
    assert "_add_info" not in vars(env)
    assert not any(isinstance(member, CheckedEnv) for member in env.envs)


@pytest.mark.parametrize("code", [0, None, 3])
def test_an_environment_does_not_end_the_process(code):
    message = rf"raised SystemExit\({code}\) at vector step 0"
    with pytest.raises(RuntimeError, match=message):
        play(Scripted(SystemExit(code)))


def test_an_environment_does_not_end_the_process_while_it_is_made():
    def make():
        raise SystemExit(0)

    gym.register("KitaeExits-v0", make)
    try:
        with pytest.raises(RuntimeError, match=r"SystemExit\(0\) while it was made"):
            make_vec_env("KitaeExits-v0", 1)
    finally:
        del gym.registry["KitaeExits-v0"]
