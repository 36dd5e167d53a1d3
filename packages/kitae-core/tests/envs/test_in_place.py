"""Environments that change one array in place, and return it at each step."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv

from kitae.envs import HostEnv, as_vector_env, make_vec_env
from kitae.envs.guards import checked_workers
from kitae.envs.workers import checked_worker

SEED = np.random.SeedSequence(0)
SAME_STEP = AutoresetMode.SAME_STEP


def in_place(shared=None):
    """Makes a class in a function, since workers cannot import this file."""

    class InPlace(gym.Env):
        """Counts to 3 in one array, which the reset sets to 0."""

        observation_space, action_space = Box(0, 9, (1,), np.float32), Discrete(2)

        def __init__(self, render_mode=None):
            self.render_mode = render_mode
            self.a = np.zeros(1, np.float32) if shared is None else shared

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            self.a[:] = 0
            return self.a, {}

        def step(self, action):
            self.a += 1
            return self.a, 1.0, False, bool(self.a[0] == 3), {}

    return InPlace


def transitions(env, n_steps=7):
    observation, rows = env.reset(SEED), []
    for _ in range(n_steps):
        step = env.step(np.zeros(env.n_envs, int))
        rows += [
            (int(before[0]), int(after[0]))
            for before, after, valid in zip(
                observation, step.next_observation, step.valid, strict=True
            )
            if valid
        ]
        observation = step.observation
    return set(rows)


RIGHT = {(0, 1), (1, 2), (2, 3)}


@pytest.mark.parametrize("wrap", [False, True])
def test_a_vector_of_the_users_gives_the_final_observation(autoreset_mode, wrap):
    vector = SyncVectorEnv([in_place()] * 2, autoreset_mode=autoreset_mode)
    members = list(vector.envs)
    env = gym.wrappers.vector.RecordEpisodeStatistics(vector) if wrap else vector
    assert transitions(HostEnv(env)) == RIGHT
    assert vector.envs == tuple(members) or list(vector.envs) == members


def test_a_single_environment_gives_the_final_observation():
    assert transitions(HostEnv(as_vector_env(in_place()()))) == RIGHT


# Gymnasium advises against it, too.
@pytest.mark.filterwarnings("ignore:.*share an object:UserWarning")
@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_registered_environment_gives_the_final_observation(mode):
    gym.register("KitaeInPlace-v0", in_place())
    try:
        env = make_vec_env("KitaeInPlace-v0", 2, vectorization_mode=mode)
        assert transitions(HostEnv(env)) == RIGHT
        env.close()
    finally:
        del gym.registry["KitaeInPlace-v0"]


def test_environments_that_share_an_array_do_not_overwrite_each_other():
    shared = np.zeros(1, np.float32)
    first, second = in_place(shared), in_place(shared)
    vector = SyncVectorEnv([first, second], autoreset_mode=SAME_STEP)
    env = HostEnv(vector)
    env.reset(SEED)
    # Both add one to the same array, one after the other.
    assert env.step(np.zeros(2, int)).observation[:, 0].tolist() == [1, 2]


def test_parts_of_a_dict_are_copied_too():
    class Parts(in_place()):
        observation_space = Dict({"a": Box(0, 9, (1,), np.float32)})

        def reset(self, **kwargs):
            return {"a": super().reset(**kwargs)[0]}, {}

        def step(self, action):
            observation, *rest = super().step(action)
            return {"a": observation}, *rest

    env = HostEnv(SyncVectorEnv([Parts], autoreset_mode=SAME_STEP))
    env.reset(SEED)
    steps = [env.step(np.zeros(1, int)) for _ in range(3)]
    assert [float(step.next_observation["a"][0, 0]) for step in steps] == [1, 2, 3]
    assert float(steps[-1].observation["a"][0, 0]) == 0


def test_agents_of_pettingzoo_give_their_final_observations():
    pettingzoo = pytest.importorskip("pettingzoo")
    from kitae.envs.pettingzoo import make_pettingzoo

    class InPlaceAgents(pettingzoo.ParallelEnv):
        possible_agents = ("a", "b")
        metadata = {"name": "in_place"}  # noqa: RUF012

        def __init__(self):
            self.array = np.zeros(1, np.float32)

        def observation_space(self, agent):
            return Box(0, 9, (1,), np.float32)

        def action_space(self, agent):
            return Discrete(2)

        def seen(self):
            return dict.fromkeys(("a", "b"), self.array)

        def reset(self, seed=None, options=None):
            self.agents = ["a", "b"]
            self.array[:] = 0
            return self.seen(), {}

        def step(self, actions):
            self.array += 1
            ended = bool(self.array[0] == 3)
            self.agents = [] if ended else self.agents
            both = dict.fromkeys(("a", "b"))
            return (
                self.seen(),
                dict.fromkeys(both, 1.0),
                dict.fromkeys(both, False),
                dict.fromkeys(both, ended),
                {},
            )

    env = make_pettingzoo(InPlaceAgents, 1)
    env.reset(SEED)
    steps = [env.step(np.zeros(2, int)) for _ in range(3)]
    assert steps[-1].next_observation[:, 0].tolist() == [3, 3]
    assert steps[-1].observation[:, 0].tolist() == [0, 0]


def test_the_values_of_a_ring_are_right_where_episodes_are_cut_by_a_coin():
    """Leaving state 3 of four pays 1; γ 0.9, so V(3) = 1 / (1 - 0.9⁴) = 2.91."""

    class Ring(gym.Env):
        observation_space, action_space = Box(0, 3, (1,), np.float32), Discrete(2)

        def __init__(self):
            self.a = np.zeros(1, np.float32)

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            self.a[0] = self.np_random.integers(4)
            return self.a, {}

        def step(self, action):
            reward = float(self.a[0] == 3)
            self.a[0] = (self.a[0] + 1) % 4
            return self.a, reward, False, bool(self.np_random.random() < 0.5), {}

    env = HostEnv(SyncVectorEnv([Ring] * 4, autoreset_mode=SAME_STEP))
    observation = env.reset(SEED)
    following, reward = np.zeros((4, 4)), np.zeros(4)
    for _ in range(300):
        step = env.step(np.zeros(4, int))
        at, to = observation[:, 0].astype(int), step.next_observation[:, 0].astype(int)
        np.add.at(following, (at, to), 1.0)
        np.add.at(reward, at, step.reward)
        observation = step.observation
    count = following.sum(axis=1)
    # Solves V = r + γ P V with what was seen.
    values = np.linalg.solve(
        np.eye(4) - 0.9 * following / count[:, None], reward / count
    )
    np.testing.assert_allclose(values, [2.12, 2.36, 2.62, 2.91], atol=0.005)


class FinalIsTheObservation(VectorEnv):
    """A vector that resets in place before it copied the final observation."""

    def __init__(self):
        self.num_envs = 2
        self.metadata = {"autoreset_mode": SAME_STEP}
        self.single_observation_space = Box(0, 9, (1,), np.float32)
        self.single_action_space = Discrete(2)
        self.seen = np.zeros((2, 1), np.float32)

    def reset(self, *, seed=None, options=None):
        self.seen[:] = 0
        return self.seen, {}

    def step(self, actions):
        self.seen += 1
        final, ended = self.seen, np.ones(2, bool)
        self.seen[:] = 0
        infos = {"final_obs": final, "_final_obs": ended}
        return self.seen, np.ones(2), np.zeros(2, bool), ended, infos


def test_a_vector_whose_final_observation_is_overwritten_is_refused():
    env = HostEnv(FinalIsTheObservation())
    env.reset(SEED)
    with pytest.raises(ValueError, match=r"FinalIsTheObservation .*copy final obs"):
        env.step(np.zeros(2, int))


def test_an_async_vector_with_gymnasiums_worker_is_warned_of():
    """Its workers send the final observation after the reset."""
    vector = AsyncVectorEnv(
        [in_place()] * 2, context="forkserver", autoreset_mode=SAME_STEP
    )
    env = HostEnv(vector)
    env.reset(SEED)
    env.step(np.zeros(2, int))
    env.step(np.zeros(2, int))
    with pytest.warns(RuntimeWarning, match="change one array in place, they are lost"):
        env.step(np.zeros(2, int))
    vector.close()


def test_an_async_vector_with_our_worker_gives_the_final_observation():
    vector = AsyncVectorEnv(
        [in_place()] * 2,
        context="forkserver",
        worker=checked_worker,
        autoreset_mode=SAME_STEP,
    )
    checked_workers(vector)
    assert transitions(HostEnv(vector)) == RIGHT
    vector.close()
