"""The page on PPO, as it stands: it learns in both drivers."""

import pytest
from gymnasium.vector import VectorWrapper

# The best that can be: the mean of what is left of the way after each step.
BEST = -0.875


@pytest.fixture(scope="module")
def page(root, run_page, tmp_path_factory):
    """The names of the page, which has run once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("page"))
        yield run_page(root / "docs" / "ppo.md")


def test_learns_in_one_program(page):
    agent, env = page["agent"], page["env"]
    assert agent.evaluate(env, 400).mean() > BEST - 0.4


def test_learns_on_the_host(page):
    env = VectorWrapper(page["JaxVectorEnv"](page["Middle"](), 16, 20))
    agent = page["PPO"]("host", page["config"])
    history = agent.train(env, 16_384, eval_env=page["env"])
    # It moves at random at first, and away from the middle as often as towards it.
    assert history.episode_return[:50].mean() < -8.0
    assert agent.evaluate(env, 100).mean() > BEST - 1.0


def test_clipped_actions_are_stored_as_they_were_drawn(page):
    agent = page["agent"]
    mean, _ = agent.select_action(page["jnp"].full((3, 1), 1.9))
    assert (mean < -0.5).all()
    assert (agent.env_action(mean) == -0.5).all()
