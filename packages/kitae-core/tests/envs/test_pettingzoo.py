import warnings

import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete

from kitae.envs import HostStep
from kitae.envs.pettingzoo import PettingZooEnvs, make_pettingzoo

pettingzoo = pytest.importorskip("pettingzoo", reason="PettingZoo is not installed")
SEED = np.random.SeedSequence(0)


def spread(n_envs=2, **kwargs):
    mpe2 = pytest.importorskip("mpe2.simple_spread_v3", reason="no MPE2 installed")
    return make_pettingzoo(mpe2.parallel_env, n_envs, **kwargs)


def adversary():
    return pytest.importorskip("mpe2.simple_adversary_v3", reason="no MPE2 installed")


def one_by_one(env, n_steps):
    """Yields what was seen and what the step gave, with the right actions."""
    seen = env.reset(SEED)
    for _ in range(n_steps):
        step = env.step((seen[:, 0] % 2).astype(int))
        yield seen[:, 0], step
        seen = step.observation


def test_the_scripted_environment_is_one_of_pettingzoo(helpers):
    with warnings.catch_warnings():
        # It imports environments in a way that it deprecates.
        warnings.simplefilter("ignore", DeprecationWarning)
        from pettingzoo.test import parallel_api_test

    parallel_api_test(helpers.count_agents().envs[0], num_cycles=20)


def test_each_row_is_as_the_script_says(helpers):
    """By hand: `b` stays for 4 steps and is cut off, `a` for 2, `late` from 1 to 3."""
    env = helpers.count_agents(n_envs=1)
    seen, steps = zip(*one_by_one(env, 8), strict=True)
    b = [0, 1, 2, 3, 104, 105, 106, 107]
    a = [1_000, 1_001, 0, 0, 1_104, 1_105, 0, 0]
    late = [0, 2_001, 2_002, 0, 0, 2_105, 2_106, 0]
    np.testing.assert_array_equal(seen, np.transpose([b, a, late]))
    valid = np.transpose([b, a, late]) > 0
    valid[0, 0] = True
    np.testing.assert_array_equal([step.valid for step in steps], valid)
    after = [step.next_observation[:, 0] for step in steps]
    np.testing.assert_array_equal(np.array(after)[valid], np.array(seen)[valid] + 1)
    reward = np.array([step.reward for step in steps])
    np.testing.assert_array_equal(reward, np.where(valid, seen, 0))
    truncated = np.array([step.truncated for step in steps])
    assert np.argwhere(truncated).tolist() == [[3, 0], [7, 0]]
    terminated = np.array([step.terminated for step in steps])
    # Who is not there, and does not come, has ended too.
    in_an_episode = [
        [False, False, False],
        [False, True, False],
        [False, True, True],
        [False, True, True],
    ]
    np.testing.assert_array_equal(terminated, in_an_episode * 2)
    assert env.envs[0].n_wrong == 0


def test_environments_are_reset_on_their_own(helpers):
    """The second one is a step ahead: each row is that of its agent and copy."""
    env = helpers.count_agents(n_envs=2, lives={"b": (0, 3, False), "a": (0, 2, True)})
    env.reset(SEED)
    ahead = env.envs[1]
    ahead.step({"b": 0, "a": 0})
    found = [env.step(np.zeros(4, int)) for _ in range(4)]
    ends = [(step.terminated | step.truncated).tolist() for step in found]
    assert ends == [
        [False, False, False, True],  # of `b` in both, of `a` in both
        [False, True, True, True],
        [True, False, True, False],
        [False, False, False, True],
    ]
    observation = [step.observation[:, 0].tolist() for step in found[:2]]
    assert observation[0] == [1, 100_002, 1_001, 0]
    assert observation[1] == [2, 100_103, 0, 101_103]
    assert [step.valid.tolist() for step in found[:2]] == [
        [True] * 4,
        [True] * 3 + [False],
    ]


def test_it_is_what_pettingzoo_steps_to():
    """Beside plain environments with the same seeds and actions."""
    env, rng = spread(2, N=2, max_cycles=7), np.random.default_rng(0)
    twins = spread(2, N=2, max_cycles=7).envs
    seeds = [int(seed) for seed in SEED.generate_state(2)]
    observation, ends = env.reset(SEED), 0
    expected = [
        twin.reset(seed=seed)[0] for twin, seed in zip(twins, seeds, strict=True)
    ]
    for _ in range(20):
        actions = rng.integers(0, 5, 4)
        step = env.step(actions)
        for row, (name, index) in enumerate(
            (name, index) for name in ("agent_0", "agent_1") for index in range(2)
        ):
            np.testing.assert_array_equal(observation[row], expected[index][name])
        for index, twin in enumerate(twins):
            own = {"agent_0": actions[index], "agent_1": actions[2 + index]}
            seen, rewards, _, truncated, _ = twin.step(own)
            for row, name in ((index, "agent_0"), (2 + index, "agent_1")):
                np.testing.assert_array_equal(step.next_observation[row], seen[name])
                assert step.reward[row] == np.float32(rewards[name])
                assert step.truncated[row] == truncated[name]
                ends += truncated[name]
            expected[index] = seen if twin.agents else twin.reset()[0]
        observation = step.observation
        assert not step.terminated.any()
        assert step.valid.all()
    assert ends == 8
    env.close()


def test_each_environment_is_seeded_on_its_own(helpers):
    env = helpers.count_agents(n_envs=3)
    env.reset(np.random.SeedSequence(3))
    env.reset(np.random.SeedSequence(3))
    env.reset(np.random.SeedSequence(4))
    seeds = [member.seeds for member in env.envs]
    assert all(first == second != third for first, second, third in seeds)
    assert len({seed for mine in seeds for seed in mine}) == 6


def test_a_step_of_whole_environments():
    """Two agents of three environments: both go on; one is left; none is."""
    no, yes = False, True
    step = HostStep(
        observation=np.zeros((6, 1)),
        next_observation=np.zeros((6, 1)),
        reward=np.array([1, 2, 3, 5, 7, 9], np.float32),
        terminated=np.array([no, no, no, no, yes, yes]),
        truncated=np.array([no, no, yes, no, no, no]),
        valid=np.array([yes, yes, yes, yes, no, yes]),
    )
    whole = step.of_envs(2)
    assert whole.reward.tolist() == [3, 1, 6]
    assert whole.terminated.tolist() == [no, no, no]
    assert whole.truncated.tolist() == [no, no, yes]
    assert whole.valid.tolist() == [yes, yes, yes]
    assert step.of_envs(1) is step


def test_agents_of_unequal_spaces_are_refused():
    message = (
        r"spaces must be equal, but the observation_space of adversary_0 is "
        r"Box\(.*\(8,\), float32\), and of agent_0 Box\(.*\(10,\), float32\)"
    )
    with pytest.raises(ValueError, match=message):
        make_pettingzoo(adversary().parallel_env, 1)


def test_what_is_no_parallel_environment_is_refused():
    with pytest.raises(TypeError, match=r"got OrderEnforc.*aec_to_parallel"):
        make_pettingzoo(adversary().env, 1)
    with pytest.raises(ValueError, match="n_envs must be an int of at least 1, got 0"):
        make_pettingzoo(adversary().parallel_env, 0)


def without(name):
    return lambda part: {key: value for key, value in part.items() if key != name}


def with_(name, value):
    return lambda part: part | {name: value}


NAN = np.full(1, np.nan, np.float32)


@pytest.mark.parametrize(
    "kind, spoilt, message",
    [
        ("observation", without("a"), r"gave no observation of \['a'\]"),
        ("reward", without("a"), r"environment 0 at vector step 0 gave no reward of"),
        ("termination", without("b"), r"gave no termination of \['b'\]"),
        ("truncation", without("b"), r"gave no truncation of \['b'\]"),
        (
            "observation",
            with_("a", np.zeros(1)),
            r"observation of a of environment 0 at vector step 0 must be float32\[1\]",
        ),
        (
            "observation",
            with_("b", NAN),
            "observation of b of environment 0 at vector step 1 is not finite",
        ),
        (
            "reward",
            with_("a", np.inf),
            "reward of environment 0 of a at vector step 0 is not finite",
        ),
        (
            "termination",
            with_("a", True),
            r"a of environment 0 at vector step 0 .*'a', 'late'\]: an agent leaves",
        ),
    ],
)
def test_what_is_not_as_it_should_be_is_refused_by_name(helpers, kind, spoilt, message):
    env = helpers.count_agents(1, **{kind: spoilt})
    env.reset(SEED)
    with pytest.raises(ValueError, match=message):
        env.step(np.zeros(3, int))


def test_who_leaves_without_an_end_is_refused(helpers):
    env = helpers.count_agents(1, termination=lambda part: dict.fromkeys(part, False))
    env.reset(SEED)
    env.step(np.zeros(3, int))
    message = (
        r"a of environment 0 at vector step 1 .*False, but agents are \['b', 'late'"
    )
    with pytest.raises(ValueError, match=message):
        env.step(np.zeros(3, int))


@pytest.mark.parametrize(
    "actions, message",
    [
        ([0, 2, 0], r"indices in \[0, 1\], got \[0, 2, 0\]"),
        ([0], r"shape \[3\], got \[1\]"),
    ],
)
def test_actions_that_the_space_does_not_have_are_refused(helpers, actions, message):
    env = helpers.count_agents(1)
    env.reset(SEED)
    with pytest.raises(ValueError, match=message):
        env.step(np.array(actions))


class Parts(pettingzoo.ParallelEnv):
    """Observations of many parts; actions from five on."""

    possible_agents = ("one", "other")
    space = Dict({"count": Discrete(9), "image": Box(0, 255, (2, 2), np.uint8)})
    actions = Discrete(2, start=5)

    def observation_space(self, agent):
        return self.space

    def action_space(self, agent):
        return self.actions

    def reset(self, seed=None, options=None):
        self.agents = list(self.possible_agents)
        return {name: self._seen(3) for name in self.agents}, {}

    def step(self, actions):
        seen = {name: self._seen(int(actions[name])) for name in self.agents}
        no = dict.fromkeys(self.agents, False)
        return seen, dict.fromkeys(self.agents, 0), no, no, {}

    def _seen(self, count):
        return {"count": count, "image": np.full((2, 2), count, np.uint8)}


def test_observations_of_many_parts_and_actions_from_another_number():
    env = make_pettingzoo(Parts, 2)
    assert isinstance(env, PettingZooEnvs)
    observation = env.reset(SEED)
    assert observation["count"].tolist() == [3] * 4
    step = env.step(np.array([0, 1, 1, 0]))
    assert step.observation["count"].tolist() == [5, 6, 6, 5]
    assert step.next_observation["image"][:, 0, 1].tolist() == [5, 6, 6, 5]
