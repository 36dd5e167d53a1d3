"""Several agents in each environment, on ones whose every number is known."""

import csv

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kitae.base import OnPolicyAgent
from kitae.base.algorithm.multi_agent import by_name, joined, over_agents
from kitae.base.rundir import checkpoint
from kitae.buffer import Experience, stored_rows
from kitae.config import off_policy_updates, on_policy_updates
from kitae.envs import make_vec_env

NAMES = ("b", "a", "late")
# Of an episode of four steps, those in which each is there.
THERE = {"b": (0, 1, 2, 3), "a": (0, 1), "late": (1, 2)}


def odd_agent(helpers):
    """An agent that tells whether its count is odd, and writes down what it sees."""

    class Odd(helpers.TableAgent):
        def __init__(self, run_name, config, **kwargs):
            self.given = []
            super().__init__(run_name, config, **kwargs)

        def _explore_factory(self, config):
            def explore(state, key, observations, shift):
                self.traces["explore"] += 1
                n_envs = observations.shape[0]
                odd = (observations[:, 0].astype(jnp.int32) + shift) % 2
                return odd, jax.random.uniform(key, (n_envs,))

            return explore

        def explore(self, observation):
            self.given.append({name: seen.shape for name, seen in observation.items()})
            keys = self.interact_keys(observation)
            return self.explore_fn(self.state, keys, observation, shift=0)

        select_action = explore

    return Odd


def start(helpers, n_envs=2, run_name="run", agent_type=None, **changes):
    env = helpers.count_agents(n_envs)
    agent_type = agent_type or odd_agent(helpers)
    return env, helpers.make_agent(env, run_name, agent_type, **changes)


def rows_of(agent, row):
    size = int(agent.memory.size[row])
    return jax.tree.map(lambda x: np.asarray(x)[:size, row], stored_rows(agent.memory))


def test_names_and_rows_are_two_views_of_the_same():
    rows = {"x": np.arange(12).reshape(6, 2), "y": np.arange(6)}
    parts = by_name(rows, NAMES)
    assert list(parts) == list(NAMES)
    assert parts["a"]["x"].tolist() == [[4, 5], [6, 7]]
    assert parts["late"]["y"].tolist() == [4, 5]
    shuffled = {name: parts[name] for name in sorted(NAMES)}
    for mine, theirs in zip(
        jax.tree.leaves(joined(shuffled, NAMES)), jax.tree.leaves(rows), strict=True
    ):
        np.testing.assert_array_equal(mine, theirs)


def test_acting_together_is_acting_one_by_one():
    @jax.jit
    def explore_fn(state, key, observations, hidden, exploration, *, masks, scale):
        noise = scale * jax.random.normal(key, observations["see"].shape)
        acted = state * observations["see"] + hidden + exploration + noise
        return jnp.where(masks, acted, 0.0), noise, {"hidden": hidden + 1}

    rng = np.random.default_rng(0)

    def parts(kind):
        return {name: kind(rng.normal(size=4).astype(np.float32)) for name in NAMES}

    observations, hidden = parts(lambda x: {"see": x}), parts(jnp.asarray)
    masks = parts(lambda x: x > 0)
    keys = dict(zip(NAMES, jax.random.split(jax.random.key(0), 3), strict=True))
    together = over_agents(explore_fn)(
        3.0, keys, observations, hidden, 0.5, masks=masks, scale=2.0
    )
    for name in NAMES:
        alone = explore_fn(
            3.0,
            keys[name],
            observations[name],
            hidden[name],
            0.5,
            masks=masks[name],
            scale=2.0,
        )
        for mine, one in zip(
            jax.tree.leaves(alone),
            jax.tree.leaves([part[name] for part in together]),
            strict=True,
        ):
            np.testing.assert_allclose(one, mine, rtol=1e-6)
    assert not np.allclose(together[1]["a"], together[1]["b"])


def test_every_stored_row_is_a_step_of_an_agent_that_was_there(helpers):
    env, agent = start(helpers, n_env_steps=80)
    history = agent.train(env, 80)
    assert history.env_steps == agent.step == 80
    assert [member.n_wrong for member in env.envs] == [0, 0]
    for row in range(6):
        (name, index), rows = (NAMES[row // 2], row % 2), rows_of(agent, row)
        assert (
            len(rows.reward) == env.envs[index].n_steps[name] == 10 * len(THERE[name])
        )
        # An episode and its reset move the counts on by 104.
        start_at = 100_000 * index + 1_000 * (row // 2)
        counts = [start_at + 104 * k + t for k in range(10) for t in THERE[name]]
        np.testing.assert_array_equal(rows.observation[:, 0], counts)
        np.testing.assert_array_equal(rows.next_observation[:, 0], np.add(counts, 1))
        np.testing.assert_array_equal(rows.reward, counts)
        np.testing.assert_array_equal(rows.action, np.mod(counts, 2))
        last = np.tile(np.array(THERE[name]) == THERE[name][-1], 10)
        np.testing.assert_array_equal(rows.done, last & (name != "b"))
        np.testing.assert_array_equal(rows.truncated, last & (name == "b"))


def test_returns_are_the_mean_of_the_agents_and_lengths_are_of_environments(helpers):
    env, agent = start(helpers, n_env_steps=80)
    history = agent.train(env, 80)
    assert history.episode_length.tolist() == [4] * 20
    np.testing.assert_array_equal(
        history.episode_env_step, np.repeat(np.arange(8, 88, 8), 2)
    )
    # Of the first episode 0+1+2+3 of b, 1000+1001 of a and 2001+2002 of late: eight
    # rewards, each of which is larger where the count began later.
    expected = [
        (6_010 + 8 * (104 * k + 100_000 * index)) / 3
        for k in range(10)
        for index in range(2)
    ]
    np.testing.assert_allclose(history.episode_return, expected, rtol=1e-6)
    with (agent.run_dir / "episodes.csv").open(newline="") as file:
        episodes = list(csv.DictReader(file))
    found = [float(row["return"]) for row in episodes]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert [row["env"] for row in episodes] == ["0", "1"] * 10
    returns = agent.evaluate(helpers.count_agents(3), 4)
    np.testing.assert_allclose(returns[[0, 1]], np.array(expected)[[0, 2]], rtol=1e-6)
    assert returns.shape == (4,)


@pytest.mark.parametrize("batch_size, first", [(4, 1), (9, 2), (12, 3)])
def test_the_first_update_waits_for_a_batch_of_real_steps(helpers, batch_size, first):
    """Vector steps bring 4, 6, 4 and 2 rows, and again."""
    env, agent = start(helpers, n_env_steps=40, batch_size=batch_size)
    history = agent.train(env, 40)
    assert history.updates == 20 - first
    # Where all three stayed, six rows in each step, it would come sooner.
    assert off_policy_updates(agent.config) == 20 - min(first, 2)


def test_a_config_that_can_never_update_is_refused_at_once(helpers):
    env = helpers.count_agents()
    message = (
        r"batch_size = 25 can never be filled: the replay holds max_buffer_size \* "
        r"n_envs \* n_agents = 4 \* 2 \* 3 = 24 transitions"
    )
    with pytest.raises(ValueError, match=message):
        helpers.make_agent(env, max_buffer_size=4, batch_size=25)
    helpers.make_agent(env, max_buffer_size=4, batch_size=24)
    # Eight environment steps are as many transitions as 24, if all agents stay.
    helpers.make_agent(env, n_env_steps=10, batch_size=24)
    with pytest.raises(
        ValueError, match="n_env_steps = 8 ends before the first update"
    ):
        helpers.make_agent(env, n_env_steps=8, batch_size=24)


def rollout_agent(helpers):
    class Rollouts(OnPolicyAgent):
        def __init__(self, run_name, config):
            super().__init__(
                run_name,
                config,
                lambda key, config, **_: {"rows": jnp.int32(0)},
                lambda config: None,
                lambda config: lambda state, key, rows: (rows.observation,),
                lambda config: self._update,
            )

        def _update(self, state, key, batch):
            return {"rows": state["rows"] + len(batch[0])}, {}

        def explore(self, observation):
            odd = {
                name: seen[:, 0].astype(int) % 2 for name, seen in observation.items()
            }
            return odd, odd

        select_action = explore

    return Rollouts


def full_rollouts(n_steps):
    """Counts by hand how often all agents have five rows."""
    columns, full = dict.fromkeys(NAMES, 0), 0
    for t in range(n_steps):
        for name in NAMES:
            columns[name] += t % 4 in THERE[name]
        if min(columns.values()) >= 5:
            columns, full = dict.fromkeys(NAMES, 0), full + 1
    return full


def test_a_rollout_is_full_when_each_agent_has_its_steps(helpers):
    kind, changes = rollout_agent(helpers), {"max_buffer_size": 5, "batch_size": 10}
    env, agent = start(helpers, agent_type=kind, n_env_steps=80, **changes)
    history = agent.train(env, 80)
    assert history.updates == 3 * full_rollouts(40) > 0
    assert agent.state["rows"] == 10 * history.updates
    assert [member.n_wrong for member in env.envs] == [0, 0]
    # Where all stay, each eighth step has five rows of six agents.
    assert on_policy_updates(agent.config) == 3 * (80 // 10)
    with pytest.raises(ValueError, match=r"n_agents = 5 \* 2 \* 3 = 30 transitions"):
        start(helpers, agent_type=kind, max_buffer_size=5, batch_size=20)
    with pytest.raises(ValueError, match=r"n_envs = 10 environment steps is full"):
        start(helpers, agent_type=kind, n_env_steps=9, **changes)


def test_what_is_given_and_drawn_is_by_the_agents_names(helpers):
    env, agent = start(helpers, n_envs=40, n_env_steps=400)
    agent.train(env, 400)
    assert agent.given == [dict.fromkeys(NAMES, (40, 1))] * len(agent.given)
    noise = [rows_of(agent, row).log_prob[0] for row in range(80)]  # b's and a's
    assert len(set(noise)) == 80
    assert agent.traces["explore"] == len(agent.given)


def test_acting_by_hand_takes_and_gives_dicts(helpers):
    _, agent = start(helpers)
    observation = {name: np.full((5, 1), i) for i, name in enumerate("abc")}
    keys = agent.interact_keys(observation)
    assert list(keys) == ["a", "b", "c"]
    assert len({tuple(jax.random.key_data(key).tolist()) for key in keys.values()}) == 3
    actions, log_probs = agent.explore(observation)
    assert {name: a.tolist() for name, a in actions.items()} == {
        "a": [0] * 5,
        "b": [1] * 5,
        "c": [0] * 5,
    }
    again = agent.explore(observation)[1]
    assert all((log_probs[name] != again[name]).all() for name in "abc")


def test_other_names_are_told_when_there_is_another_environment(helpers):
    env, agent = start(helpers)
    agent.train(env, 20)
    lives = {"red": (0, 2, False), "blue": (0, 3, False), "green": (0, 2, True)}
    other = helpers.count_agents(1, lives=lives)
    agent.evaluate(other, 1)
    assert agent.given[-1] == dict.fromkeys(lives, (1, 1))
    assert other.envs[0].n_wrong == 0


def test_keys_are_used_once(helpers):
    env, agent = start(helpers)
    with jax.debug_key_reuse(True):
        agent.train(env, 40)


def test_what_is_not_by_the_names_is_refused(helpers):
    class Forgets(odd_agent(helpers)):
        def explore(self, observation):
            actions, log_probs = super().explore(observation)
            return {"b": actions["b"]}, log_probs

    env, agent = start(helpers, agent_type=Forgets)
    message = (
        r"must return dicts of \['b', 'a', 'late'\], as they are given, got \['b'\]"
    )
    with pytest.raises(TypeError, match=message):
        agent.train(env, 40)


def test_an_explore_that_needs_values_is_called_as_it_is(helpers):
    class Branches(odd_agent(helpers)):
        def explore(self, observation):
            assert np.asarray(observation["b"]).shape == (2, 1)
            return super().explore(observation)

    env, agent = start(helpers, agent_type=Branches)
    with pytest.warns(RuntimeWarning, match=r"Branches\.explore cannot be compiled"):
        agent.train(env, 40)
    assert [member.n_wrong for member in env.envs] == [0, 0]
    assert agent.traces["explore"] > 20


def test_what_each_agent_remembers_begins_with_its_life(helpers):
    class Counting(odd_agent(helpers)):
        def __init__(self, run_name, config):
            super().__init__(run_name, config, experience_type=Experience)

        def initial_hidden_state(self, n_envs):
            return jnp.full((n_envs, 1), 10, jnp.int32)

        def explore(self, observation):
            self.hidden_state = jax.tree.map(lambda x: x + 1, self.hidden_state)
            return super().explore(observation)

    env, agent = start(helpers, agent_type=Counting)
    assert {name: x.shape for name, x in agent.hidden_state.items()} == {
        f"agent_{i}": (2, 1) for i in range(3)
    }
    agent.train(env, 80)
    for row in range(6):
        held = rows_of(agent, row).hidden_state[:, 0]
        n = len(THERE[NAMES[row // 2]])
        assert held.tolist() == list(range(10, 10 + n)) * 10


def spread(helpers, run_name):
    """On a real environment, which the seed of a reset determines."""
    mpe2 = pytest.importorskip("mpe2.simple_spread_v3", reason="MPE2 is not installed")
    from kitae.envs.pettingzoo import make_pettingzoo

    class Tosses(helpers.TableAgent):
        def select_action(self, observation):
            return self.explore(observation)

    env = make_pettingzoo(mpe2.parallel_env, 2, N=2, max_cycles=7)
    saving = {"save_frequency": 20, "reset_on_save": True}
    return env, helpers.make_agent(env, run_name, Tosses, **saving)


def test_half_and_half_is_the_whole_bit_for_bit(helpers):
    env, through = spread(helpers, "through")
    through.train(env, 120)
    env, first = spread(helpers, "half")
    first.train(env, 60)
    env, second = spread(helpers, "half")
    history = second.resume(env, 120)
    assert history.env_steps == 60
    runs = [checkpoint.read(agent.run_dir) for agent in (through, second)]
    hashes = [{n: p["sha256"] for n, p in run._parts.items()} for run in runs]
    assert hashes[0] == hashes[1]
    assert len(runs[0].facts["rows"]) == 4
    for name in ("step", "iteration", "updates", "rows", "info", "score"):
        assert runs[0].facts[name] == runs[1].facts[name]
    episodes = [(a.run_dir / "episodes.csv").read_text() for a in (through, second)]
    assert episodes[0] == episodes[1]
    assert len(episodes[0].splitlines()) > 10


def test_a_loaded_agent_goes_on(helpers):
    env, agent = spread(helpers, "run")
    agent.train(env, 60)
    loaded = type(agent).load("runs/run", params_type=helpers.TableParams)
    assert loaded.evaluate(env, 3).tolist() == agent.evaluate(env, 3).tolist()
    assert loaded.resume(env, 80).env_steps == 20


def test_a_resumed_agent_knows_the_names_at_once(helpers):
    class LooksUp(odd_agent(helpers)):
        def explore(self, observation):
            assert observation["late"].shape == (2, 1)
            return super().explore(observation)

    env, agent = start(helpers, agent_type=LooksUp)
    agent.train(env, 20)
    env, again = start(helpers, agent_type=LooksUp)
    assert again.resume(env, 40).env_steps == 20


def test_environments_of_another_number_of_agents_are_refused(helpers):
    env, agent = start(helpers)
    one = helpers.count_envs()
    alone = helpers.make_agent(one)
    with pytest.raises(ValueError, match=r"n_agents = 3, but env_cfg\.n_agents is 1"):
        alone.train(env, 20)
    with pytest.raises(ValueError, match=r"n_agents = 1, but env_cfg\.n_agents is 3"):
        agent.train(one, 20)
    with pytest.raises(ValueError, match="n_agents = 3"):
        alone.evaluate(env, 1)
    with pytest.raises(TypeError, match=r"devices are for .* got PettingZooEnvs"):
        agent.train(env, 20, devices=jax.devices())
    with pytest.raises(TypeError, match=r"train_seeds needs .* got PettingZooEnvs"):
        agent.train_seeds(env, 20, [0])


@pytest.mark.parametrize(
    "call",
    [
        lambda agent, env: agent.train(env, 20),
        lambda agent, env: agent.train_seeds(env, 20, [0, 1]),
        lambda agent, env: agent.evaluate(env, 2),
    ],
    ids=["train", "train_seeds", "evaluate"],
)
def test_environments_that_are_jax_functions_have_one_agent(helpers, call):
    _, agent = start(helpers)
    jax_env = make_vec_env("phys2d/CartPole-v1", 2)
    with pytest.raises(ValueError, match=r"n_agents = 1, but env_cfg\.n_agents is 3"):
        call(agent, jax_env)


def test_one_agent_of_pettingzoo_is_an_environment_like_any_other(helpers):
    env = helpers.count_agents(2, lives={"only": (0, 3, True)})
    agent = helpers.make_agent(env)
    history = agent.train(env, 24)
    assert history.episode_length.tolist() == [3] * 8
    assert rows_of(agent, 1).observation.shape == (12, 1)


def test_the_policy_of_one_agent_leaves(helpers):
    pytest.importorskip("safetensors")

    env, agent = start(helpers)
    agent.train(env, 20)
    folder = agent.export("policy")
    policy = jax.export.deserialize((folder / "select_action.bin").read_bytes())
    observations = np.array([[3], [4], [7]], np.float32)
    actions = policy.call({}, np.zeros(2, np.uint32), observations)
    assert actions.tolist() == [1, 0, 1]
