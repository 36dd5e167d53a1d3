import sys
from collections import Counter
from importlib import metadata

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, VectorEnv

from kitae.base.recording.statistics import EpisodeStatistics
from kitae.envs import HostEnv, make_vec_env
from kitae.envs.atari import AtariVector, make_atari

ale_py = pytest.importorskip("ale_py", reason="ale-py is not installed")
roms = pytest.importorskip("ale_py.roms")

SEED = np.random.SeedSequence(0)
LIMIT = 165


def breakout(n_envs=3, **kwargs):
    kwargs = {"num_threads": 1} | kwargs  # others test beside this one
    return make_vec_env("ALE/Breakout-v5", n_envs, **kwargs)


def rows(env, n_steps, seed=SEED):
    """Yields what was seen and what the step gave.

    An environment's action is that of its own clock, which stands still while it
    resets: so it acts the same in every autoreset mode.
    """
    host = HostEnv(env)
    clock = np.zeros(env.num_envs, int)
    script = np.random.default_rng(0).integers(
        0, env.single_action_space.n, (n_steps, env.num_envs)
    )
    observation = host.reset(seed)
    for _ in range(n_steps):
        step = host.step(script[clock, np.arange(env.num_envs)])
        clock += step.valid
        yield observation, step
        observation = step.observation


@pytest.mark.parametrize("lives", [{}, {"episodic_life": True}], ids=str)
def test_stacks_hold_together_and_begin_with_black(lives):
    """A stack is that before it, moved on by a frame, up to the end of an episode."""
    limit = LIMIT if not lives else 27_000
    env = breakout(max_episode_steps=limit, **lives)
    assert isinstance(env, AtariVector)
    kinds, length = Counter(), np.zeros(3, int)
    for t, (observation, step) in enumerate(rows(env, 400)):
        if t == 0:
            assert not observation[:, :3].any()
            assert observation[:, 3].any(axis=(1, 2)).all()
        np.testing.assert_array_equal(step.next_observation[:, :3], observation[:, 1:])
        assert step.valid.all()
        length += 1
        for i in range(3):
            ended = step.terminated[i] or step.truncated[i]
            kinds[step.terminated[i], step.truncated[i]] += 1
            assert step.truncated[i] == (length[i] == limit and not step.terminated[i])
            after = step.observation[i]
            if ended:
                length[i] = 0
                assert not after[:3].any()
                assert after[3].any()
            else:
                np.testing.assert_array_equal(after, step.next_observation[i])
    assert kinds[True, False] >= 2
    assert kinds[False, True] >= 2 or lives


def test_both_modes_give_the_same_transitions():
    """In `NEXT_STEP` mode the final observation is nothing but what a step gives."""
    found = {}
    for mode in (AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP):
        found[mode] = [[], []]
        env = breakout(2, max_episode_steps=40, autoreset_mode=mode)
        ends = 0
        for observation, step in rows(env, 250):
            for i in np.flatnonzero(step.valid):
                ends += step.terminated[i] or step.truncated[i]
                found[mode][i].append(
                    (
                        observation[i].tobytes(),
                        step.next_observation[i].tobytes(),
                        float(step.reward[i]),
                        bool(step.terminated[i]),
                        bool(step.truncated[i]),
                    )
                )
        assert ends > 10
    for mine, theirs in zip(*found.values(), strict=True):
        n = min(len(mine), len(theirs))
        assert n > 240
        assert mine[:n] == theirs[:n]


def scores(game, actions, n_steps):
    """Plays on ale-py's plain interface; yields rewards and ends."""
    ale = ale_py.ALEInterface()
    ale.setLoggerMode(ale_py.LoggerMode.Error)
    ale.setFloat("repeat_action_probability", 0.0)
    ale.loadROM(roms.get_rom_path(game))
    ale.reset_game()
    legal = ale.getMinimalActionSet()
    for _, action in zip(range(n_steps), actions, strict=False):
        reward = sum(ale.act(legal[action]) for _ in range(4))
        yield reward, ale.game_over()
        if ale.game_over():
            ale.reset_game()


@pytest.mark.parametrize("clipping", [False, True])
def test_rewards_and_statistics_are_the_games(clipping):
    plain = {"repeat_action_probability": 0.0, "noop_max": 0, "use_fire_reset": False}
    env = make_atari("ALE/SpaceInvaders-v5", 1, reward_clipping=clipping, **plain)
    host, statistics = HostEnv(env), EpisodeStatistics(1)
    host.reset(SEED)
    actions = np.random.default_rng(1).integers(0, 6, 400)
    expected_returns, expected_lengths, so_far = [], [], []
    twin = scores("space_invaders", actions, 400)
    for action, (reward, over) in zip(actions, twin, strict=True):
        step = host.step(np.array([action]))
        reward = np.sign(reward) if clipping else reward
        assert (step.reward[0], step.terminated[0]) == (reward, over)
        assert step.reward.dtype == np.float32
        statistics.record(step, 0)
        so_far.append(reward)
        if over:
            expected_returns.append(sum(so_far))
            expected_lengths.append(len(so_far))
            so_far = []
    assert len(expected_returns) >= 1
    assert max(expected_returns) > (1 if clipping else 30)
    assert statistics.returns == expected_returns
    assert statistics.lengths == expected_lengths


def starts(env, seed):
    """Frames of idling, and what is seen after some steps with sticky actions."""
    _, infos = env.reset(seed=seed)
    seen = [env.step(np.full(3, t % 4))[0] for t in range(10)]
    return infos["episode_frame_number"].tolist(), np.stack(seen)


def test_seeds():
    env = breakout()
    frames, seen = starts(env, 1)
    again, seen_again = starts(breakout(), 1)
    assert again == frames
    np.testing.assert_array_equal(seen_again, seen)
    others, seen_others = starts(env, 2)
    assert (seen_others != seen).any()
    # Consecutive seeds would be the same ones, moved by one environment.
    assert others[:2] != frames[1:]
    one_each, seen = starts(env, [5, 5, 2**31 - 1])
    assert one_each[0] == one_each[1] != one_each[2]
    np.testing.assert_array_equal(seen[:, 0], seen[:, 1])
    observation, _ = env.reset()
    assert observation.shape == (3, 4, 84, 84)


def test_any_seed_of_a_training_is_taken():
    """Half of them are more than ale-py takes."""
    env = HostEnv(breakout(1))
    words = [np.random.SeedSequence(entropy) for entropy in range(4)]
    assert max(word.generate_state(1)[0] for word in words) > 2**31
    frames = {env.reset(word).tobytes() for word in words}
    assert len(frames) > 1


def test_what_ale_py_offers_is_passed_on():
    env = breakout(
        2, full_action_space=True, grayscale=False, stack_num=2, img_height=42
    )
    assert env.single_action_space.n == 18
    assert env.single_observation_space.shape == (2, 42, 84, 3)
    assert breakout(1).unwrapped.spec.kwargs["repeat_action_probability"] == 0.25


@pytest.mark.parametrize("frameskip", [None, 2])
def test_the_limit_counts_steps(frameskip):
    skip = {} if frameskip is None else {"frameskip": frameskip}
    env = breakout(2, max_episode_steps=7, **skip)
    cut = [step.truncated.tolist() for _, step in rows(env, 14)]
    assert cut == ([[False] * 2] * 6 + [[True] * 2]) * 2


def test_ale_pys_mode_stays_its_own():
    """ale-py writes its mode into the dictionary of `VectorEnv` itself."""
    before = dict(VectorEnv.metadata)
    same = breakout(1)
    following = breakout(1, autoreset_mode=AutoresetMode.NEXT_STEP)
    assert VectorEnv.metadata == before
    assert same.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    assert following.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP


def test_single_environments_show_raw_frames():
    env = make_vec_env("ALE/Breakout-v5", 1, vectorization_mode="sync")
    assert env.single_observation_space.shape == (210, 160, 3)
    env.close()


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"n_envs": 0}, "n_envs must be an int of at least 1"),
        ({"reward_clipping": 1}, "reward_clipping must be True or False, got 1"),
        ({"max_episode_steps": 0}, "max_episode_steps must be an int of at least 1"),
        ({"life_loss_info": True}, "life_loss_info reports ends where no episode"),
        (
            {"max_episode_steps": 9, "max_num_frames_per_episode": 9},
            "are the same limit, in steps and in frames",
        ),
        ({"batch_size": 1}, "batch_size must be 0 or n_envs=2, got 1"),
        (
            {"capture_video": True, "run_name": "x"},
            "ask for these by vectorization_mode='sync'",
        ),
    ],
)
def test_refuses_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        breakout(**{"n_envs": 2} | arguments)


def test_an_unknown_game_is_named():
    with pytest.raises(gym.error.Error, match="Breakin"):
        make_vec_env("ALE/Breakin-v5", 2)


def test_ale_py_missing_is_told(monkeypatch):
    def find(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", find)
    monkeypatch.delitem(sys.modules, "ale_py", raising=False)
    message = r'ale_py is not installed: pip install "kitae-core\[atari\]"'
    with pytest.raises(ImportError, match=message):
        make_vec_env("ALE/Breakout-v5", 2)
    with pytest.raises(ImportError, match=message):
        make_atari("ALE/Breakout-v5", 2)
