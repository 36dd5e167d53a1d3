"""What holds for every agent: drivers, seeds, spaces, masks, bad parameters."""

from dataclasses import replace

import gymnasium as gym
import jax
import numpy as np
import pytest
from family import AGENTS, make_agent
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorWrapper

import kitae.algos
from kitae.envs import make_vec_env
from kitae.envs.masks import ActionMask

N_ENV_STEPS = 400


def leaves(tree):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def assert_same_run(agent, history, other, other_history, **tolerance):
    np.testing.assert_array_equal(history.episode_return, other_history.episode_return)
    assert (agent.step, agent.updates) == (other.step, other.updates)
    for mine, theirs in zip(leaves(agent.state), leaves(other.state), strict=True):
        np.testing.assert_allclose(mine, theirs, **tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("name", AGENTS)
def test_both_drivers_and_seeds_side_by_side_give_the_same_run(name):
    env = make_vec_env("phys2d/CartPole-v1", 4)
    compiled = make_agent(name, env, N_ENV_STEPS)
    history = compiled.train(env, N_ENV_STEPS)
    assert compiled.updates > 0
    tolerance = {"rtol": 1e-3, "atol": 1e-4}

    # Wrapped, it is a vector environment like any other, stepped by the host.
    on_host = make_agent(name, env, N_ENV_STEPS)
    host_history = on_host.train(VectorWrapper(env), N_ENV_STEPS)
    assert_same_run(on_host, host_history, compiled, history, **tolerance)

    runs = compiled.train_seeds(env, N_ENV_STEPS, seeds=[1, 0])
    first = runs[1]
    assert_same_run(first.agent, first.history, compiled, history, **tolerance)
    assert runs[0].history.episode_return.tolist() != history.episode_return.tolist()


# Those with a rollout, in whose middle it is, and with a hidden state.
@pytest.mark.slow
@pytest.mark.parametrize("name", ["pqn", "r2d2"])
def test_a_resumed_run_is_the_one_that_was_not_interrupted(name):
    env = make_vec_env("phys2d/CartPole-v1", 4)
    make_agent(name, env, N_ENV_STEPS, "halves").train(env, 200)
    halves = make_agent(name, env, N_ENV_STEPS, "halves")
    halves.resume(env, N_ENV_STEPS)
    whole = make_agent(name, env, N_ENV_STEPS)
    whole.train(env, N_ENV_STEPS)
    assert halves.updates == whole.updates > 0
    mine, theirs = ((a.state, a.memory) for a in (halves, whole))
    for a, b in zip(leaves(mine), leaves(theirs), strict=True):
        np.testing.assert_array_equal(a, b)


class Everything(gym.Env):
    """A Dict to see, two choices to make, some of which are not allowed.

    Each step pays 1 for `(1, 0)`, and 2 for `(1, 2)`, which is never allowed.
    """

    observation_space = Dict(
        place=Box(-1.0, 1.0, (2,), np.float32), room=Discrete(3, start=1)
    )
    action_space = MultiDiscrete([2, 3])
    # Of the first choice and of the second one.
    mask = np.array([1, 1, 1, 1, 0], np.int8)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self._seen(), {"action_mask": self.mask}

    def step(self, action):
        first, second = map(int, action)
        assert second < 2, "this action is not allowed"
        self.t += 1
        reward = [1.0, 0.0, 2.0][second] if first == 1 else 0.0
        return self._seen(), reward, self.t == 4, False, {"action_mask": self.mask}

    def _seen(self):
        place = np.full(2, self.t / 4, np.float32)
        return {"place": place, "room": np.int64(1 + self.t % 3)}


@pytest.mark.slow
@pytest.mark.parametrize("name", AGENTS)
def test_dict_observations_several_actions_and_masks(name):
    env = ActionMask(
        SyncVectorEnv([Everything] * 4, autoreset_mode=AutoresetMode.SAME_STEP)
    )
    # PQN's updates are few: two for each rollout of 16 steps.
    n_env_steps = 38_400 if name == "pqn" else 3_200
    agent = make_agent(name, env, n_env_steps, exploration_final=0.2)
    agent.train(env, n_env_steps)
    assert agent.evaluate(env, 8).tolist() == [4.0] * 8


@pytest.mark.parametrize("name", AGENTS)
def test_refuses_what_is_not_discrete_and_params_of_another(name):
    env = make_vec_env("Pendulum-v1", 4)
    with pytest.raises(ValueError, match="needs discrete actions, got action_space"):
        make_agent(name, env, 1_000)
    env.close()


BAD = {
    "c51": [("n_atoms", 1), ("v_min", 12.0), ("v_max", -3.0), ("adam_eps", 0.0)],
    "qrdqn": [("n_quantiles", 0), ("kappa", -1.0)],
    "iqn": [("n_taus", 0), ("n_target_taus", True), ("n_policy_taus", 0)],
    "munchausen": [("temperature", 0.0), ("scale", 1.5), ("clip", 0.0), ("loss", "x")],
    "rainbow": [
        ("n_steps", 0),
        ("priority_exponent", 1.1),
        ("importance_exponent", -0.1),
        ("frame_stack", 0),
    ],
    "btr": [("width", 0), ("n_cosines", 0), ("clip", 1.0)],
    "r2d2": [
        ("burn_in", -1),
        ("sequence_length", 2),
        ("hidden_size", 0),
        ("head_sizes", (0,)),
        ("max_weight", 2.0),
        ("rescale", 1),
        ("frame_stack", 4),
    ],
    "pqn": [("lambda_", 1.5), ("gamma", 2.0)],
}


@pytest.mark.parametrize(
    "name, field, value",
    [(name, field, value) for name, bad in BAD.items() for field, value in bad],
)
def test_params_refuse_bad_values(name, field, value):
    # Which of two bounds is wrong cannot be told.
    found = "v_max" if field == "v_min" else field
    with pytest.raises(ValueError, match=rf"^{found} (must be|is not for)"):
        make_agent(name, make_vec_env("CartPole-v1", 2), 1_000, **{field: value})


def test_r2d2_refuses_to_learn_before_there_is_a_sequence():
    env = make_vec_env("CartPole-v1", 4)
    with pytest.raises(ValueError, match=r"start_step = 31 must be at least .* = 32"):
        make_agent("r2d2", env, 1_000, start_step=31)
    with pytest.raises(ValueError, match=r"max_buffer_size = 500 time steps never"):
        make_agent("r2d2", env, 10_000, start_step=4_000, sequence_length=501)


@pytest.mark.parametrize("name", ["rainbow", "btr"])
def test_evaluation_is_without_noise(name):
    env = make_vec_env("CartPole-v1", 64)
    agent = make_agent(name, env, 1_000, exploration_initial=0.0, exploration_final=0.0)
    observation = np.tile(np.array([0.02, 0.1, -0.01, -0.2], np.float32), (64, 1))
    if name == "rainbow":  # the quantiles of the other are drawn at random
        chosen = {tuple(agent.select_action(observation)[0].tolist()) for _ in range(8)}
        assert len(chosen) == 1
    tried = {tuple(agent.explore(observation)[0].tolist()) for _ in range(30)}
    assert len(tried) > 1


def test_importance_exponent_ends_at_one():
    from kitae.algos._shared import importance_exponent
    from kitae.config import off_policy_updates

    env = make_vec_env("CartPole-v1", 4)
    config = make_agent("rainbow", env, 1_000).config
    last = off_policy_updates(config)
    found = [float(importance_exponent(config, n)) for n in (0, last // 2, last)]
    np.testing.assert_allclose(found, [0.4, 0.7, 1.0], atol=2e-3)


def test_every_agent_is_here():
    assert {agent_type.__name__ for agent_type, _ in AGENTS.values()} == {
        name for name in kitae.algos.__all__ if not name.endswith(("Params", "State"))
    }


def test_btr_takes_small_images_as_its_error_advises():
    config = make_agent("btr", make_vec_env("CartPole-v1", 4), N_ENV_STEPS).config
    space = Box(0, 255, (10, 10, 4), np.uint8)
    config = replace(config, env_cfg=replace(config.env_cfg, observation_space=space))
    with pytest.raises(ValueError, match=r"resize it to .* or flatten it, in preproce"):
        kitae.algos.BTR("small", config)

    def resized(images):
        return jax.image.resize(images, (len(images), 36, 36, 4), "nearest")

    def flattened(images):
        return images.reshape(len(images), -1)

    for preprocess_fn in (resized, flattened):
        agent = kitae.algos.BTR("small", config, preprocess_fn=preprocess_fn)
        assert agent.select_action(np.zeros((4, *space.shape), np.uint8))[0].shape == (
            4,
        )
