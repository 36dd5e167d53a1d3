"""Probes, played by script; a table that sees every transition finds their values."""

from collections import defaultdict

import jax
import numpy as np
import pytest
from gymnasium.vector import VectorWrapper

from kitae.envs import HostEnv, make_probe
from kitae.envs.functional import JaxVectorEnv
from kitae.envs.probes import PROBES

N_ENVS, GAMMA = 64, 0.5


def played(name, n_steps=24):
    """Transitions under random actions: (s, a, r, s', terminated, truncated)."""
    env = make_probe(name, N_ENVS)
    host, rng = HostEnv(env), np.random.default_rng(0)
    observation = host.reset(np.random.SeedSequence(0))
    rows = []
    for _ in range(n_steps):
        actions = rng.integers(0, 2, N_ENVS)
        step = host.step(actions)
        columns = (
            observation[:, 0],
            actions,
            step.reward,
            step.next_observation[:, 0],
            step.terminated,
            step.truncated,
        )
        rows += [tuple(column[i].item() for column in columns) for i in range(N_ENVS)]
        observation = step.observation
    return rows


def values(rows, ends=lambda terminated, truncated: terminated):
    """Q-iteration on what was seen; a state is the observation."""
    q = defaultdict(float)
    for _ in range(40):
        targets = defaultdict(list)
        for s, a, r, following, *end in rows:
            best = 0.0 if ends(*end) else max(q[following, 0], q[following, 1])
            targets[s, a].append(r + GAMMA * best)
        q.update({key: np.mean(target) for key, target in targets.items()})
    return {key: pytest.approx(q[key], abs=1e-6) for key in targets}


@pytest.mark.slow
def test_each_has_the_values_that_it_says():
    assert values(played("value")) == {(1, 0): 1, (1, 1): 1}
    assert values(played("observation")) == {
        (-1, 0): -1,
        (-1, 1): -1,
        (1, 0): 1,
        (1, 1): 1,
    }
    assert values(played("discount")) == {
        (-1, 0): GAMMA,
        (-1, 1): GAMMA,
        (0, 0): 1,
        (0, 1): 1,
    }
    assert values(played("action")) == {(1, 0): -1, (1, 1): 1}
    assert values(played("policy")) == {(-1, 0): 1, (-1, 1): -1, (1, 0): -1, (1, 1): 1}
    assert values(played("time_limit")) == {(1, 0): 2, (1, 1): 2}


def test_a_truncation_taken_for_an_end_shows():
    # A tenth of the rows are taken for ends: V = 1 + 0.9 γ V, on the mean of actions.
    rows = [(s, 0, *rest) for s, _, *rest in played("time_limit", 20)]
    wrong = values(rows, lambda *end: any(end))
    assert wrong == {(1, 0): 1 / (1 - 0.9 * GAMMA)}


def test_the_time_limit_is_ten_steps():
    ends = [row[4:] for row in played("time_limit", 20)[::N_ENVS]]
    assert ends == ([(False, False)] * 9 + [(False, True)]) * 2


@pytest.mark.parametrize("name, length", [("discount", 2), ("memory", 2), ("value", 1)])
def test_the_others_terminate(name, length):
    ends = [row[4:] for row in played(name, 6)[::N_ENVS]]
    episode = [(False, False)] * (length - 1) + [(True, False)]
    assert ends == episode * (6 // length)


def test_the_distribution_is_uniform_over_four_or_constant():
    rewards = defaultdict(list)
    for _, action, reward, *_ in played("distribution", 60):
        rewards[action].append(reward)
    assert set(rewards[1]) == {1.0}
    chances = np.bincount(np.array(rewards[0], int)) / len(rewards[0])
    # Of 1900 draws, the standard deviation of a chance is 0.01.
    np.testing.assert_allclose(chances, [0.25] * 4, atol=0.04)
    middles = np.arange(1, 8, 2) / 8
    np.testing.assert_array_equal(np.quantile(rewards[0], middles), [0, 1, 2, 3])
    assert np.mean(rewards[0]) == pytest.approx(1.5, abs=0.1)
    assert np.var(rewards[0]) == pytest.approx(1.25, abs=0.1)


@pytest.mark.parametrize(
    "remembers, expected", [(True, 1.0), (False, 0.0)], ids=["memory", "none"]
)
def test_memory_is_what_pays(remembers, expected):
    env = make_probe("memory", N_ENVS)
    transition = jax.jit(env.transition)
    state = env.initial(jax.random.key(0))
    cue = state.observation[:, 0]
    assert set(np.asarray(cue).tolist()) == {-1, 1}
    wrong_first = (cue < 0).astype(int)
    state, step = transition(state, wrong_first, jax.random.key(1))
    assert not step.reward.any()
    assert not state.observation.any()
    actions = (cue > 0).astype(int) if remembers else np.ones(N_ENVS, int)
    state, step = transition(state, actions, jax.random.key(2))
    assert step.terminated.all()
    if remembers:
        assert (step.reward == expected).all()
    else:
        np.testing.assert_array_equal(step.reward, cue)
        assert abs(float(step.reward.mean()) - expected) < 0.4


@pytest.mark.parametrize("name", PROBES)
def test_what_is_seen_is_in_the_space(name):
    env = make_probe(name, 2)
    assert isinstance(env, JaxVectorEnv)
    observation, _ = env.reset(seed=0)
    for _ in range(3):
        assert env.observation_space.contains(observation)
        observation, *_, infos = env.step(np.ones(2, int))
        for final in infos.get("final_obs", []):
            assert env.single_observation_space.contains(final)


@pytest.mark.slow
def test_both_loops_train_on_it_alike(helpers):
    compiled = make_probe("distribution", 4)
    agent = helpers.make_agent(compiled)
    returns = agent.train(compiled, 80).episode_return
    on_host = VectorWrapper(make_probe("distribution", 4))
    agent = helpers.make_agent(on_host)
    np.testing.assert_array_equal(agent.train(on_host, 80).episode_return, returns)
    assert set(returns) == {0, 1, 2, 3}


def test_probes_are_known_by_name():
    message = r"name must be one of \['value', 'observation', .*, got 'valeu'"
    with pytest.raises(ValueError, match=message):
        make_probe("valeu", 2)
    with pytest.raises(ValueError, match="n_envs must be an int of at least 1"):
        make_probe("value", 0)
