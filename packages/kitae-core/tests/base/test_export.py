"""A policy that leaves, and acts where Kitae is not."""

import json
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from jax.experimental.layout import Format, Layout
from safetensors import safe_open
from safetensors.flax import load_file

import kitae.base

ALONE = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("kitae", "flax", "optax", "distrax", "gymnasium"):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Absent())
"""


def greedy(helpers, select=None):
    """Acts by a table that it learns; `select` takes the place of that, if given."""

    class Greedy(helpers.TableAgent):
        def select_action(self, observation):
            if select is not None:
                return select(self, observation)
            value = self.state["value"]
            index = observation[:, 0].astype(jnp.int32) % value.shape[0]
            return (value[index] > 0).astype(jnp.int32), jnp.zeros(index.shape)

    return Greedy


def make_agent(helpers, env=None, select=None, state=None):
    env = env or helpers.count_envs()
    agent = helpers.make_agent(env, agent_type=greedy(helpers, select), n_states=5)
    agent.state["value"] = jnp.array([1.0, -1.0, -1.0, 1.0, -1.0])
    agent.state |= state or {}
    return agent


def loaded(folder):
    """The function, and the parameters, by name."""
    policy = jax.export.deserialize((folder / "select_action.bin").read_bytes())
    return policy.call, load_file(folder / "parameters.safetensors")


KEY_DATA = np.zeros(2, np.uint32)


def test_any_number_of_observations_gets_the_agents_own_actions(helpers, tmp_path):
    agent = make_agent(helpers)
    folder = agent.export("policy")
    assert folder.absolute() == tmp_path / "policy"
    act, parameters = loaded(folder)
    for observation in np.array([[3.0]]), np.array([[4.0]]), np.ones((7, 1)):
        observation = observation.astype(np.float32)
        actions = np.asarray(act(parameters, KEY_DATA, observation))
        expected, _ = agent.select_action(observation)
        np.testing.assert_array_equal(actions, expected)
    observation = np.arange(5, dtype=np.float32)[:, None]
    assert act(parameters, KEY_DATA, observation).tolist() == [1, 0, 0, 1, 0]
    other = {"value": -parameters["value"]}
    assert act(other, KEY_DATA, observation).tolist() == [0, 1, 1, 0, 1]


def test_what_select_action_does_not_read_stays(helpers):
    moments = {"mu": np.arange(100_000, dtype=np.float32), "key": jax.random.key(0)}
    agent = make_agent(helpers, state={"optimizer": moments})
    folder = agent.export("policy")
    _, parameters = loaded(folder)
    assert {name: leaf.tolist() for name, leaf in parameters.items()} == {
        "value": [1.0, -1.0, -1.0, 1.0, -1.0]
    }
    size = sum(path.stat().st_size for path in folder.iterdir())
    assert size < moments["mu"].nbytes / 4


def test_arrays_in_another_order_of_memory_are_themselves(helpers):
    def select(agent, observation):
        column = observation[:, 0].astype(jnp.int32)
        return agent.state["nested"]["table"][1, column], jnp.zeros(column.shape)

    table = jnp.arange(6).reshape(2, 3)
    table = jax.device_put(table, Format(Layout((1, 0)), table.sharding))
    assert not np.asarray(table).flags.c_contiguous
    agent = make_agent(helpers, select=select, state={"nested": {"table": table}})
    act, parameters = loaded(agent.export("policy"))
    assert parameters["nested.table"].tolist() == [[0, 1, 2], [3, 4, 5]]
    observation = np.array([[2.0], [0.0]], np.float32)
    assert act(parameters, KEY_DATA, observation).tolist() == [5, 3]


def test_the_metadata_say_what_it_is(helpers):
    env = helpers.count_envs()
    agent = make_agent(helpers, env)
    agent.train(env, 20)
    folder = agent.export("policy")
    with safe_open(folder / "parameters.safetensors", "np") as file:
        described = json.loads(file.metadata()["kitae"])
    versions = described.pop("kitae_core"), described.pop("jax")
    assert versions == ("0.1.0", jax.__version__)
    assert described == {
        "format": 1,
        "agent": "Greedy",
        "task_name": "Count",
        "observation_space": {
            "type": "Box",
            "low": -1.0,
            "high": "inf",
            "shape": [1],
            "dtype": "float32",
        },
        "action_space": {"type": "Discrete", "n": 2, "start": 0, "dtype": "int64"},
        "env_steps": 20,
        "hidden_state": [],
    }


def test_it_is_for_several_platforms_and_tells_no_paths(helpers):
    content = (make_agent(helpers).export("policy") / "select_action.bin").read_bytes()
    assert jax.export.deserialize(content).platforms == ("cpu", "cuda", "tpu")
    for module in __file__, kitae.base.__file__:
        assert os.fsencode(Path(module).parent) not in content
    assert jax.config.jax_hlo_source_file_canonicalization_regex is None


class Seen(gym.Env):
    """What is seen has a part that is an array and one that is a number."""

    observation_space = Dict(place=Box(-1.0, 1.0, (2,), np.float64), room=Discrete(9))
    action_space = MultiDiscrete([3, 3], start=[0, 10])

    def reset(self, *, seed=None, options=None):
        return self.observation_space.sample(), {}


def select_seen(agent, observation):
    chosen = jnp.stack([observation["room"] % 3, observation["room"] // 3], axis=1)
    return chosen, observation["place"].sum(axis=1)


def test_observations_of_parts_and_actions_from_where_they_start(helpers):
    env = SyncVectorEnv([Seen] * 2, autoreset_mode=AutoresetMode.SAME_STEP)
    agent = make_agent(helpers, env, select_seen)
    act, parameters = loaded(agent.export("policy"))
    assert parameters == {}
    observation = {"place": np.zeros((3, 2)), "room": np.array([0, 5, 7])}
    actions = act(parameters, KEY_DATA, observation)
    assert actions.tolist() == [[0, 10], [2, 11], [1, 12]]


def test_what_it_draws_comes_from_the_key(helpers):
    def select(agent, observation):
        key = agent.interact_keys(observation)
        chosen = jax.random.randint(key, observation.shape[:1], 0, 2)
        return chosen, jnp.zeros(chosen.shape)

    act, parameters = loaded(make_agent(helpers, select=select).export("policy"))
    observation = np.zeros((32, 1), np.float32)
    drawn = [
        act(parameters, np.array(key, np.uint32), observation).tolist()
        for key in ([0, 0], [0, 1], [0, 0])
    ]
    assert drawn[0] == drawn[2] != drawn[1]


def remembering(helpers):
    class Remembering(helpers.TableAgent):
        def initial_hidden_state(self, n_envs):
            return {
                "count": jnp.full((n_envs, 1), 10, jnp.int32),
                "last": jnp.zeros(n_envs),
            }

        def select_action(self, observation):
            count, last = self.hidden_state["count"], self.hidden_state["last"]
            self.hidden_state = {"count": count + 1, "last": observation[:, 0]}
            return count[:, 0] + last.astype(jnp.int32), last

    return Remembering


def test_what_it_remembers_goes_in_and_out_and_starts_anew(helpers):
    agent = helpers.make_agent(helpers.count_envs(), agent_type=remembering(helpers))
    act, parameters = loaded(agent.export("policy"))
    hidden_state = (np.full((2, 1), 77, np.int32), np.full(2, 77, np.float32))
    observation = np.array([[100.0], [200.0]], np.float32)
    chosen = []
    for first in [True, True], [False, False], [False, True]:
        actions, hidden_state = act(
            parameters, KEY_DATA, observation, hidden_state, np.array(first)
        )
        chosen.append(actions.tolist())
    assert chosen == [[10, 10], [111, 211], [112, 10]]


@pytest.mark.parametrize("hidden", [False, True])
def test_the_example_of_the_readme_runs_where_kitae_is_not(helpers, hidden):
    if hidden:
        agent = helpers.make_agent(
            helpers.count_envs(), agent_type=remembering(helpers)
        )
        expected = "[10, 10, 10, 10]"
    else:
        env = SyncVectorEnv([Seen] * 2, autoreset_mode=AutoresetMode.SAME_STEP)
        agent = make_agent(helpers, env, select_seen)
        expected = "[[0, 10], [0, 10], [0, 10], [0, 10]]"
    folder = agent.export("policy")
    readme = (folder / "README.md").read_text("utf-8")
    assert ("- `first`: true" in readme) == hidden
    (example,) = re.findall(r"```python\n(.*?)```", readme, re.S)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", ALONE + example],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout.strip()) == (0, expected), done.stderr


@pytest.mark.parametrize("there", ["a file", "a folder"])
def test_what_is_there_is_not_written_over(helpers, tmp_path, there):
    folder = tmp_path / "policy"
    if there == "a file":
        kept = folder
    else:
        folder.mkdir()
        kept = folder / "notes"
    kept.write_text("mine")
    with pytest.raises(FileExistsError, match=f"must be new or empty, got {folder}"):
        make_agent(helpers).export(folder)
    assert kept.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [folder]


def test_an_empty_folder_is_taken_and_a_missing_parent_made(helpers, tmp_path):
    (tmp_path / "empty").mkdir()
    agent = make_agent(helpers)
    for folder in tmp_path / "empty", tmp_path / "new" / "one":
        names = sorted(path.name for path in agent.export(folder).iterdir())
        assert names == ["README.md", "parameters.safetensors", "select_action.bin"]
        assert [path.name for path in folder.parent.glob(".*")] == []


def test_a_failed_write_leaves_nothing(helpers, tmp_path):
    agent = make_agent(helpers)
    size = (agent.export("whole") / "select_action.bin").stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size - 1, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            agent.export("policy")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in tmp_path.iterdir()] == ["whole"]


@pytest.mark.parametrize("package", ["safetensors.numpy", "flatbuffers"])
def test_the_extra_is_named_where_it_is_missing(helpers, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    agent = make_agent(helpers)
    with pytest.raises(ImportError, match=r'pip install "kitae-core\[export\]"'):
        agent.export("policy")


def on_the_host(agent, observation):
    return np.asarray(observation)[:, 0], None


def by_the_number(agent, observation):
    few = len(observation) < 4
    return jnp.full(observation.shape[0], int(few)), jnp.zeros(observation.shape[0])


@pytest.mark.parametrize(
    "select, match",
    [
        (on_the_host, r"Greedy.select_action cannot be compiled at .*np.asarray"),
        (by_the_number, "Greedy.select_action .* not for any number of observations"),
    ],
)
def test_a_policy_that_cannot_leave_is_refused(helpers, tmp_path, select, match):
    agent = make_agent(helpers, select=select)
    with pytest.raises(TypeError, match=match):
        agent.export("policy")
    assert list(tmp_path.iterdir()) == []


def test_two_leaves_of_one_name_are_refused(helpers):
    twice = {"a.b": jnp.zeros(1), "a": {"b": jnp.zeros(1)}}
    agent = make_agent(helpers, state=twice)
    with pytest.raises(ValueError, match=r"would both be named 'a\.b'"):
        agent.export("policy")
