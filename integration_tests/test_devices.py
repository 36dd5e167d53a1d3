"""Training split over eight forced devices, and over two processes of four."""

import numpy as np
import pytest
from processes import finished, start, two_processes

SAME_UPDATE = """
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P

from kitae.buffer import Experience

assert jax.device_count() == 8
env, agent = make_agent()
keys = jax.random.split(jax.random.key(3), 4)
batch = Experience(
    jax.random.normal(keys[0], (32, 4)),
    jax.random.randint(keys[1], (32,), 0, 2),
    jax.random.normal(keys[2], (32,)),
    jnp.arange(32) % 5 == 0,
    jax.random.normal(keys[3], (32, 4)),
    jnp.zeros(32),
    jnp.zeros(32, bool),
)


@jax.jit
def updated(state, batch):
    key = jax.random.key(0)
    state = jax.tree.map(lambda leaf: leaf, state)
    return agent.update_step_fn(
        state, key, agent.process_experience_fn(state, key, batch)
    )


mesh = Mesh(np.array(jax.devices()), ("env",))
split = jax.device_put(batch, NamedSharding(mesh, P("env")))
assert len(split.reward.sharding.device_set) == 8
state = jax.device_put(agent.state, NamedSharding(mesh, P()))
program = updated.lower(state, split).compile().as_text()
assert "all-reduce" in program  # each device had its part, and they were added up
for mine, alone in zip(
    leaves(updated(state, split)), leaves(updated(agent.state, batch)), strict=True
):
    np.testing.assert_allclose(mine, alone, rtol=1e-4, atol=1e-6)
"""

SPLIT_TRAINING = """
env, agent = make_agent()
before = leaves(agent.state)
history = agent.train(env, 640, devices=jax.devices())
assert len(history.episode_return) > 5
assert history.updates == agent.updates == 38
words = agent.memory.data.words
assert words.sharding.shard_shape(words.shape)[1] == 2, "two environments on each"
params = agent.state.qvalue.params
assert all(leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(params))

# The replay holds what the environments gave, each row on the device of its own.
from kitae.buffer import stored_rows
rows = stored_rows(agent.memory)
steps = np.asarray(rows.next_observation)[: -1]
following = np.asarray(rows.observation)[1:]
ended = np.asarray(rows.done | rows.truncated)[: -1]
written = np.array(agent.memory.position)
assert (np.array(agent.memory.size) == 20).all()
same = (steps == following).all(axis=-1)
where = (np.arange(19)[:, None] + 1) % 20 != written % 20
assert (same | ended | ~where).all()

# A checkpoint holds all of it, and goes on with any number of devices.
one = make_agent()[1]
one.resume(env, 700)
assert one.step == 704
"""


PRIORITIES = """
from dataclasses import replace
from kitae.algos import Rainbow, RainbowParams

env, agent = make_agent()
params = RainbowParams(hidden_sizes=(32,), v_min=0.0, v_max=50.0, n_atoms=11)
agent = Rainbow("run", replace(agent.config, algo_params=params))
agent.train(env, 640, devices=jax.devices())
assert agent.updates == 38
levels = [np.asarray(level) for level in agent.memory.priorities.levels]
split = agent.memory.priorities.levels[0]
assert split.sharding.shard_shape(split.shape)[0] == 2, "two environments on each"
np.testing.assert_allclose(levels[-1].sum(axis=1), levels[0].sum(axis=1), rtol=1e-5)
# New rows have the largest priority; those that were drawn, one of their own.
assert len(np.unique(levels[0][levels[0] > 0])) > 100
"""

STATISTICS = """
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P

from kitae.modules import init_statistics, update_statistics

values = np.random.default_rng(0).normal(1e3, 1.0, (4, 64, 3)).astype(np.float32)
split = NamedSharding(Mesh(np.array(jax.devices()), ("env",)), P("env"))
update = jax.jit(update_statistics)
alone = together = init_statistics(jax.ShapeDtypeStruct((3,), jnp.float32))
for batch in values:
    alone = update(alone, batch)
    together = update(together, jax.device_put(batch, split))
assert (alone.count == together.count).all()
means = [np.float64(x.offset) + np.float64(x.mean) for x in (alone, together)]
np.testing.assert_allclose(*means, rtol=1e-6)
np.testing.assert_allclose(alone.variance, together.variance, rtol=1e-6)
"""

TRAINED_BY_TWO = """
env, agent = make_agent()
agent.train(env, 640, devices=jax.devices())
np.savez("state.npz", *leaves(agent.state), step=agent.step, updates=agent.updates)
"""


@pytest.mark.parametrize(
    "script",
    [SAME_UPDATE, SPLIT_TRAINING, PRIORITIES, STATISTICS],
    ids=["update", "training", "priorities", "statistics"],
)
def test_eight_devices(script, tmp_path):
    finished(start(script, 8, cwd=tmp_path, quick=True))


def test_two_processes_train_one_agent(tmp_path):
    two_processes(TRAINED_BY_TWO, cwd=tmp_path, quick=True)
    states = [np.load(tmp_path / i / "state.npz") for i in "01"]
    assert int(states[0]["step"]) == 640
    assert int(states[0]["updates"]) == 38
    for name in states[0].files:
        np.testing.assert_array_equal(states[0][name], states[1][name])
    # One of them writes the run.
    assert (tmp_path / "0" / "runs" / "run" / "checkpoints" / "640").is_dir()
    assert not (tmp_path / "1" / "runs").exists()

    # On one process with eight devices it is the same training.
    finished(start(ONE_PROCESS, 8, cwd=tmp_path, quick=True))
    alone = np.load(tmp_path / "alone.npz")
    for name in alone.files:
        np.testing.assert_allclose(
            alone[name], states[0][name], rtol=1e-3, atol=1e-5, err_msg=name
        )


ONE_PROCESS = """
env, agent = make_agent()
agent.train(env, 640, devices=jax.devices())
np.savez("alone.npz", *leaves(agent.state))
"""
