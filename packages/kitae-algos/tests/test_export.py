"""The family's policies, exported: they act as the agents do, without Kitae."""

import json
import subprocess
import sys
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from family import make_agent
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete, Tuple
from gymnasium.vector.utils import batch_space
from safetensors.flax import load_file

from kitae.envs.masks import masked_space

KEY_DATA = np.array([3, 4], np.uint32)
VECTOR = Box(-1.0, 1.0, (4,), np.float32)
ACTIONS = MultiDiscrete([2, 3], start=[0, 5])
PARTS = masked_space(Dict(place=VECTOR, room=Discrete(3, start=1)), ACTIONS)


def agent_for(name, observation_space, action_space):
    env = SimpleNamespace(
        single_observation_space=observation_space,
        single_action_space=action_space,
        num_envs=4,
    )
    return make_agent(name, env, 400)


def observations(n):
    """With masks that forbid one value of one component, each in turn."""
    drawn = batch_space(PARTS, n)
    drawn.seed(n)
    mask = 1 - np.eye(5, dtype=np.int8)[np.arange(n) % 5]
    return {**drawn.sample(), "action_mask": mask}


def selected(agent, observation):
    """The agent's own actions, with the key that an exported policy is given."""
    agent.key = jax.random.fold_in(jax.random.wrap_key_data(KEY_DATA), 0)
    return np.asarray(agent.select_action(observation)[0])


# One that knows values, one distributions, one that draws, and one that remembers.
@pytest.mark.parametrize("name", ["dqn", "c51", "iqn", "r2d2"])
def test_an_agent_acts_as_before_on_parts_and_masks(name):
    agent = agent_for(name, PARTS, ACTIONS)
    folder = agent.export("policy")
    policy = jax.export.deserialize((folder / "select_action.bin").read_bytes())
    parameters = load_file(folder / "parameters.safetensors")
    assert all(path.startswith("qvalue.params.") for path in parameters)
    for n in 1, 15:
        observation, remembered = observations(n), ()
        agent.hidden_state = agent.initial_hidden_state(n)
        if agent.hidden_state is not None:
            remembered = (agent.hidden_state, np.ones(n, bool))
        given = jax.jit(policy.call)(parameters, KEY_DATA, observation, *remembered)
        actions = np.asarray(given[0] if remembered else given)
        np.testing.assert_array_equal(
            actions, selected(agent, observation) + ACTIONS.start
        )
    assert len(np.unique(actions, axis=0)) > 1


def test_an_agent_acts_as_before_on_a_tuple():
    space = Tuple([Discrete(3), Dict(place=VECTOR)])
    agent = agent_for("dqn", space, Discrete(3))
    folder = agent.export("policy")
    policy = jax.export.deserialize((folder / "select_action.bin").read_bytes())
    drawn = batch_space(space, 15)
    drawn.seed(15)
    observation = drawn.sample()
    given = policy.call(
        load_file(folder / "parameters.safetensors"), KEY_DATA, observation
    )
    np.testing.assert_array_equal(given, selected(agent, observation))
    assert len(np.unique(given)) > 1


def test_all_of_the_network_goes_and_nothing_else():
    agent = agent_for("dqn", VECTOR, Discrete(3))
    held = load_file(agent.export("policy") / "parameters.safetensors")
    params = {
        jax.tree_util.keystr(path, simple=True, separator="."): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(agent.state.qvalue.params)
    }
    assert len(params) == 10  # of an encoder's layer, and two streams of two layers
    assert set(held) == {f"qvalue.params.{path}" for path in params}
    for path, leaf in params.items():
        np.testing.assert_array_equal(held[f"qvalue.params.{path}"], leaf)


def test_the_noise_of_a_noisy_network_stays():
    agent = agent_for("rainbow", VECTOR, Discrete(3))
    held = load_file(agent.export("policy") / "parameters.safetensors")
    noisy = [path for path in held if "Noisy" in path]
    assert {path.rpartition(".")[2] for path in noisy} == {"bias", "kernel"}


ELSEWHERE = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("kitae", "flax", "optax", "distrax", "gymnasium"):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Absent())

import json
from pathlib import Path

import jax
import numpy as np
from jax import export
from safetensors.flax import load_file


def load(folder):
    policy = export.deserialize((Path(folder) / "select_action.bin").read_bytes())
    return jax.jit(policy.call), load_file(Path(folder) / "parameters.safetensors")


key_data = np.array([3, 4], np.uint32)
seen = np.load("seen.npy")
act, parameters = load("dqn")
chosen = {"dqn": [act(parameters, key_data, one).tolist() for one in seen], "r2d2": []}
act, parameters = load("r2d2")
hidden_state = (np.ones((seen.shape[1], 32), np.float32),) * 2
first = np.ones(seen.shape[1], bool)
for one in seen:
    actions, hidden_state = act(parameters, key_data, one, hidden_state, first)
    chosen["r2d2"].append(actions.tolist())
    first[:] = False
print(json.dumps(chosen))
"""


def test_in_a_process_without_kitae_they_choose_the_same(tmp_path):
    seen = np.random.default_rng(0).normal(size=(3, 16, 4)).astype(np.float32)
    np.save("seen.npy", seen)
    expected = {}
    for name in "dqn", "r2d2":
        agent = agent_for(name, VECTOR, Discrete(3, start=1))
        agent.export(name)
        agent.hidden_state = agent.initial_hidden_state(16)
        expected[name] = [(selected(agent, one) + 1).tolist() for one in seen]
        assert len(np.unique(expected[name])) > 1
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", ELSEWHERE],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == expected
