"""The page on custom agents, as it stands."""

import re
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
from processes import finished, start

import kitae.config as cfg
from kitae.buffer import stored_rows
from kitae.envs.pettingzoo import make_pettingzoo


def tutorial_of(root, n_env_steps="2_000"):
    """The page, and what is changed in it."""
    return root / "docs" / "custom-agents.md", [
        ("5*10**5", n_env_steps),
        ("dqn.train(", "history = dqn.train("),
    ]


@pytest.fixture
def tutorial(root, run_page):
    """Runs the page, and returns its names."""
    return lambda **changes: run_page(*tutorial_of(root, **changes))


@pytest.fixture(scope="module")
def page(root, run_page, tmp_path_factory):
    """The names of the page that has run once, for all tests that only look at them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("page"))
        return run_page(*tutorial_of(root))


# The very same class, on an environment that is a JAX function. In a process of its
# own, which compiles as users do: what is rounded otherwise is another run.
IN_ONE_PROGRAM = """
import runpy
from dataclasses import replace

from kitae.envs.functional import JaxVectorEnv

page = runpy.run_path(sys.argv[1])
env = make_vec_env("phys2d/CartPole-v1", 16)
assert isinstance(env, JaxVectorEnv)
env_cfg = cfg.EnvConfig(
    "phys2d/CartPole-v1", env.single_observation_space, env.single_action_space, 16
)
train_cfg = cfg.TrainConfig(n_env_steps=100_000)
config = replace(page["algo_config"], env_cfg=env_cfg, train_cfg=train_cfg)
history = page["DQN"]("compiled", config).train(env, 100_000)
# One update before each vector step, from the step on that has a batch to learn of.
assert history.updates == 100_000 // 16 - 256 // 16
late = history.episode_env_step > 60_000
# Far above chance, which is 22. Five seeds gave 92 to 159 with JAX 0.10, and 110 to 150
# with JAX 0.12.
assert history.episode_return[late].mean() > 60
"""


def test_trains_with_its_own_config(page):
    history, agent = page["history"], page["dqn"]
    assert 2_000 <= history.env_steps < 2_016
    # Learning begins with one batch of 256: after 16 vector steps of 16. A reset
    # takes a vector step that is no transition, so there are some more of them.
    assert history.updates >= 125 - 16
    assert stored_rows(agent.memory).reward.shape == (64, 16)
    assert agent.evaluate(page["env"], 5).shape == (5,)


def test_learns(tutorial):
    """At a fifth of its length already far above chance, which is 22."""
    page = tutorial(n_env_steps="100_000")
    returns = page["history"].episode_return
    ends = page["history"].episode_env_step
    assert returns[ends > 60_000].mean() > 60


def test_learns_in_one_compiled_program_too(root, write_page):
    program = write_page(*tutorial_of(root))
    finished(start(IN_ONE_PROGRAM, 1, program.name, cwd=program.parent))


def test_the_page_says_what_it_trains(root):
    page = (root / "docs" / "custom-agents.md").read_text()
    for number in ("learning_rate=0.0003", "max_buffer_size=64", "batch_size=256"):
        assert number in page
    assert len(re.findall(r"^def .*_factory\(", page, re.M)) == 4


def test_explores_and_selects_by_hand(page):
    agent = page["dqn"]
    observation, _ = page["env"].reset(seed=0)
    actions, log_probs = agent.explore(observation)
    assert actions.shape == log_probs.shape == (16,)
    best, _ = agent.select_action(observation)
    again, _ = agent.select_action(observation)
    assert best.tolist() == again.tolist()


def test_the_class_trains_on_other_environments(page):
    env = gym.make_vec("Acrobot-v1", num_envs=4, vectorization_mode="sync")
    config = page["algo_config"]
    env_cfg = cfg.EnvConfig(
        "Acrobot-v1", env.single_observation_space, env.single_action_space, 4
    )
    agent = page["DQN"](
        "acrobot",
        cfg.AlgoConfig(
            1, config.algo_params, config.update_cfg, config.train_cfg, env_cfg
        ),
    )
    history = agent.train(env, 1_200)
    assert history.updates == 300 - 64
    assert np.isfinite(agent.evaluate(env, 2)).all()
    env.close()


def test_the_class_trains_several_agents(page):
    """It knows nothing of them."""
    spread = pytest.importorskip("mpe2.simple_spread_v3", reason="no MPE2 installed")
    env = make_pettingzoo(spread.parallel_env, 4, N=2)
    env_cfg = cfg.EnvConfig(
        "spread", env.single_observation_space, env.single_action_space, 4, n_agents=2
    )
    agent = page["DQN"]("spread", replace(page["algo_config"], env_cfg=env_cfg))
    history = agent.train(env, 400)
    # A batch of 256 are 128 steps of two agents: 32 vector steps of 100.
    assert history.updates == 100 - 32
    assert stored_rows(agent.memory).reward.shape == (64, 8)
    assert agent.evaluate(env, 2).shape == (2,)


def test_the_same_seed_is_the_same_run(tutorial, page):
    first, second = page["history"], tutorial()["history"]
    np.testing.assert_array_equal(first.episode_return, second.episode_return)
    np.testing.assert_array_equal(first.episode_env_step, second.episode_env_step)
