import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.experimental.functional import FuncEnv
from gymnasium.spaces import Box, Discrete, Tuple
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from kitae.algos import DQN, DQNParams
from kitae.buffer import Experience, stored_rows
from kitae.config import off_policy_updates
from kitae.envs import make_vec_env
from kitae.envs.functional import JaxVectorEnv


class Probe(gym.Env):
    """Two steps of two actions; the reward can be worked out by hand.

    In the first state (0) both actions give 0 and lead to the second (1), where
    action 0 gives -1 and action 1 gives +1, and the episode ends.
    """

    observation_space = Box(0.0, 1.0, (1,), np.float32)

    def __init__(self, start=0):
        self.action_space = Discrete(2, start=start)
        self.t = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return np.array([0], np.float32), {}

    def step(self, action):
        assert self.action_space.contains(action)
        reward = 0.0
        if self.t == 1:
            reward = 1.0 if action == self.action_space.start + 1 else -1.0
        self.t += 1
        return np.array([min(self.t, 1)], np.float32), reward, self.t == 2, False, {}


def probes(n=4, start=0):
    return SyncVectorEnv(
        [lambda: Probe(start)] * n, autoreset_mode=AutoresetMode.SAME_STEP
    )


def qvalues(agent, observations):
    qvalue = agent.state.qvalue
    return np.asarray(qvalue.apply_fn(qvalue.params, observations))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"double_q": True},
        {"loss": "huber"},
        {"tau": 0.1, "target_update_period": 1},
        {"learning_rate_annealing": True, "max_grad_norm": 1.0},
    ],
    ids=str,
)
@pytest.mark.parametrize("start", [0, 7])
def test_learns_the_values_of_a_problem_solved_by_hand(make_config, changes, start):
    env = probes(start=start)
    settings = {"learning_rate": 5e-3, "gamma": 0.9, "n_env_steps": 6000} | changes
    agent = DQN("probe", make_config(env, **settings))
    agent.train(env, 6000)
    learned = qvalues(agent, jnp.array([[0.0], [1.0]]))
    # Q(0, .) = 0 + 0.9 * max(-1, 1); Q(1, .) = -1 and 1.
    np.testing.assert_allclose(learned, [[0.9, 0.9], [-1.0, 1.0]], atol=0.05)
    assert agent.evaluate(env, 8).tolist() == [1.0] * 8


def experience(**changes):
    fields = {
        "observation": jnp.zeros((2, 1)),
        "action": jnp.array([0, 1]),
        "reward": jnp.array([1.0, 2.0]),
        "done": jnp.array([False, True]),
        "next_observation": jnp.zeros((2, 1)),
        "log_prob": jnp.zeros(2),
        "truncated": jnp.array([False, False]),
    }
    return Experience(**fields | changes)


class Fixed:
    """A train state whose network and target are tables, chosen by the parameters."""

    def __init__(self, params, target_params):
        self.params, self.target_params = jnp.array(params), jnp.array(target_params)

    @staticmethod
    def apply_fn(params, observations):
        return jnp.broadcast_to(params, (observations.shape[0], params.shape[0]))


@pytest.mark.parametrize(
    "double_q, expected",
    # The target network's largest value is 30; the network's best action is worth 20.
    [(False, [1 + 0.5 * 30, 2.0]), (True, [1 + 0.5 * 20, 2.0])],
)
def test_targets(make_config, double_q, expected):
    from kitae.algos.dqn import DQNState, process_experience_factory

    config = make_config(probes(), gamma=0.5, double_q=double_q)
    state = DQNState(Fixed([1.0, 3.0], [30.0, 20.0]))
    batch = process_experience_factory(config)(state, None, experience())
    assert batch.target.tolist() == expected
    # What was cut off is not over: its next value counts.
    truncated = experience(truncated=jnp.array([True, True]))
    batch = process_experience_factory(config)(state, None, truncated)
    assert batch.target.tolist() == expected


def test_the_target_network_starts_equal_and_moves_in_its_period(make_config):
    env = probes()
    agent = DQN("target", make_config(env, target_update_period=7))

    def difference():
        state = agent.state.qvalue
        differences = jax.tree.map(
            lambda p, t: float(jnp.abs(p - t).max()), state.params, state.target_params
        )
        return max(jax.tree.leaves(differences))

    assert difference() == 0.0
    seen = []
    for _ in range(40):
        agent.train(env, 4)
        if agent.updates:
            seen.append((agent.updates, difference() == 0.0))
    assert [updates for updates, equal in seen if equal] == [7, 14, 21, 28]
    assert seen[-1][0] == 32


def test_the_rate_reaches_its_end_with_the_last_update(make_config):
    env = probes(n=3)
    config = make_config(
        env, n_env_steps=500, learning_rate_annealing=True, batch_size=20, skip_steps=2
    )
    agent = DQN("annealed", config)
    # 500 steps are 167 vector steps; updates fall before every second one.
    values, updates = [], []
    for n_env_steps in (492, 6, 2):
        agent.train(env, n_env_steps)
        values.append(qvalues(agent, jnp.zeros((1, 1))).tolist())
        updates.append(agent.updates)
    horizon = off_policy_updates(config)
    assert updates == [horizon - 2, horizon - 1, horizon]
    # The last update has the rate 0, the one before it not yet.
    assert values[0] != values[1]
    assert values[1] == values[2]


def test_clipping_limits_the_gradient(make_config):
    from kitae.algos.dqn import Batch, update_step_factory

    def adams_first_moment(max_grad_norm):
        env = probes()
        config = make_config(env, max_grad_norm=max_grad_norm)
        agent = DQN("clipped", config)
        batch = Batch(jnp.ones((4, 1)), jnp.zeros(4, jnp.int32), jnp.full(4, 1e3))
        state, _ = update_step_factory(config)(agent.state, None, batch)
        moments = [
            leaf
            for path, leaf in jax.tree_util.tree_leaves_with_path(
                state.qvalue.opt_state
            )
            if ".mu" in jax.tree_util.keystr(path)
        ]
        return float(np.sqrt(sum((np.asarray(leaf) ** 2).sum() for leaf in moments)))

    # Adam's first moment after one step is a tenth of the gradient it saw.
    assert adams_first_moment(0.5) == pytest.approx(0.05, rel=1e-5)
    assert adams_first_moment(None) > 1.0


@pytest.mark.parametrize("n_envs", [1, 16])
def test_exploration_falls_with_transitions_however_many_environments(
    make_config, n_envs
):
    env = probes(n_envs)
    agent = DQN("eps", make_config(env, exploration_steps=1000, exploration_final=0.1))
    agent.train(env, 400)
    # An action tells ε: of two, the one that is not greedy has probability ε / 2.
    probs = np.exp(np.asarray(stored_rows(agent.memory).log_prob)[: 400 // n_envs])
    found = 2 * np.minimum(probs, 1 - probs)
    # From 1 to 0.1 over a thousand transitions, all of a vector step with one ε.
    steps = np.arange(0, 400, n_envs)
    expected = np.repeat((1 - 0.9 * steps / 1000)[:, None], n_envs, axis=1)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert float(agent.exploration(5000)) == pytest.approx(0.1)
    agent.step = 2**40
    assert agent.own_metrics()["exploration"] == pytest.approx(0.1)


def test_each_environment_tosses_its_own_coin(make_config):
    env = probes(64)
    agent = DQN(
        "coins", make_config(env, exploration_initial=0.5, exploration_final=0.5)
    )
    greedy = int(agent.select_action(jnp.zeros((64, 1)))[0][0])
    actions, log_probs = agent.explore(jnp.zeros((64, 1)))
    others = int((np.asarray(actions) != greedy).sum())
    # A quarter, on average: half are random, and half of those are greedy anyway.
    assert 4 <= others <= 32
    np.testing.assert_allclose(
        np.exp(log_probs),
        np.where(np.asarray(actions) == greedy, 0.75, 0.25),
        rtol=1e-5,
    )


def test_evaluation_takes_the_first_of_equal_values_and_stops_at_nan(make_config):
    env = probes()
    agent = DQN("greedy", make_config(env))
    zeros = jax.tree.map(jnp.zeros_like, agent.state.qvalue.params)
    agent.state.qvalue = agent.state.qvalue.replace(params=zeros)
    for _ in range(3):
        assert agent.select_action(jnp.zeros((4, 1)))[0].tolist() == [0] * 4
    broken = jax.tree.map(lambda x: x * jnp.nan, zeros)
    agent.state.qvalue = agent.state.qvalue.replace(params=broken)
    with pytest.raises(ValueError, match="Q-values that are not finite"):
        agent.evaluate(env, 2)
    with pytest.raises(ValueError, match="Q-values that are not finite"):
        agent.train(env, 20)


def test_a_loss_that_explodes_stops_the_training(make_config):
    env = probes()
    agent = DQN("boom", make_config(env, learning_rate=1e38, n_env_steps=500))
    with pytest.raises(
        (FloatingPointError, ValueError), match=r"not finite|is nan|is inf"
    ):
        agent.train(env, 500)
    assert not list(agent.run_dir.glob("checkpoints/*"))


def test_learns_from_images(make_config):
    class Pictures(Probe):
        observation_space = Box(0, 255, (4, 36, 36), np.uint8)

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            return np.zeros((4, 36, 36), np.uint8), {}

        def step(self, action):
            observation, *rest = super().step(action)
            return np.full((4, 36, 36), 255 * observation[0], np.uint8), *rest

    env = SyncVectorEnv([Pictures] * 2, autoreset_mode=AutoresetMode.SAME_STEP)
    agent = DQN("images", make_config(env, batch_size=8, n_env_steps=100))
    agent.train(env, 40)
    assert stored_rows(agent.memory).observation.dtype == jnp.uint8
    assert agent.updates == 16


def test_preprocess_fn_reaches_the_network(make_config):
    env = probes()
    seen = []

    def twice(observations):
        seen.append(observations.shape)
        return jnp.concatenate([observations, observations], axis=-1)

    agent = DQN("pre", make_config(env), preprocess_fn=twice)
    agent.train(env, 60)
    kernels = [leaf.shape for leaf in jax.tree.leaves(agent.state.qvalue.params)]
    assert (2, 32) in kernels
    assert seen


def test_refuses_continuous_actions(make_config):
    env = make_vec_env("Pendulum-v1", 2)
    with pytest.raises(
        ValueError, match="DQN needs discrete actions, got action_space"
    ):
        DQN("continuous", make_config(env))
    env.close()


def test_refuses_params_of_another_agent(make_config):
    from dataclasses import dataclass

    @dataclass
    class Others:
        gamma: float = 0.9

    with pytest.raises(TypeError, match="algo_params must be a DQNParams"):
        DQN("others", make_config(probes(), params=Others()))


@pytest.mark.parametrize(
    "field, value, allowed",
    [
        ("gamma", 1.1, r"\[0.0, 1.0\]"),
        ("gamma", float("nan"), r"\[0.0, 1.0\]"),
        ("exploration_initial", -0.1, r"\[0.0, 1.0\]"),
        ("exploration_final", True, r"\[0.0, 1.0\]"),
        ("exploration_steps", 0, "at least 1"),
        ("skip_steps", 0, "at least 1"),
        ("start_step", -2, "at least -1"),
        ("target_update_period", 0, "at least 1"),
        ("tau", 0.0, r"\(0.0, 1.0\]"),
        ("tau", 1.5, r"\(0.0, 1.0\]"),
        ("double_q", 1, "True or False"),
        ("loss", "l1", "'huber' or 'squared'"),
        ("hidden_sizes", (64, 0), "at least 1"),
    ],
)
def test_params_refuse_bad_values(field, value, allowed):
    with pytest.raises(ValueError, match=f"{field} must be .*{allowed}"):
        DQNParams(**{field: value})


def test_a_resume_whose_optimizer_is_another_names_the_fields(make_config):
    env = probes()
    DQN("run", make_config(env, n_env_steps=200)).train(env, 200)
    changed = make_config(env, n_env_steps=200, max_grad_norm=1.0, gamma=0.9)
    with pytest.raises(ValueError, match="is in the checkpoint only") as error:
        DQN("run", changed).resume(env, 400)
    assert str(error.value).endswith(
        "Since then the config has changed:\n"
        "  algo_params.gamma: 0.99 -> 0.9\n"
        "  update_cfg.max_grad_norm: None -> 1.0"
    )


SEEN = Tuple([Box(-1.0, 1.0, (2,)), Discrete(4)])


class Pairs(gym.Env):
    """Shows how many steps there were; action 1 is right, and episodes have 3 steps."""

    observation_space = SEEN
    action_space = Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self.seen(), {}

    def step(self, action):
        self.t += 1
        return self.seen(), float(action), self.t == 3, False, {}

    def seen(self):
        return np.full(2, self.t / 4, np.float32), np.int64(self.t)


class JaxPairs(FuncEnv):
    """The same in JAX."""

    observation_space = SEEN
    action_space = Discrete(2)

    def initial(self, rng, params=None):
        return jnp.int32(0)

    def transition(self, state, action, rng, params=None):
        return state + 1

    def observation(self, state, rng, params=None):
        return jnp.full(2, state / 4, jnp.float32), state

    def reward(self, state, action, next_state, rng, params=None):
        return action

    def terminal(self, state, rng, params=None):
        return state == 3


@pytest.mark.parametrize("preprocess_fn", [None, lambda seen: seen[0]])
@pytest.mark.parametrize("on_host", [True, False])
def test_tuple_observations(make_config, on_host, preprocess_fn):
    env = SyncVectorEnv([Pairs] * 4, autoreset_mode=AutoresetMode.SAME_STEP)
    env = env if on_host else JaxVectorEnv(JaxPairs(), 4)
    config = make_config(env, n_env_steps=1_200, learning_rate=1e-2)
    agent = DQN("tuples", config, preprocess_fn=preprocess_fn)
    agent.train(env, 1_200)
    assert agent.evaluate(env, 8).tolist() == [3.0] * 8
    rows = stored_rows(agent.memory)
    np.testing.assert_array_equal(rows.observation[0][..., 0] * 4, rows.observation[1])
    again = DQN.load(agent.run_dir, preprocess_fn=preprocess_fn)
    assert again.evaluate(env, 8).tolist() == [3.0] * 8
