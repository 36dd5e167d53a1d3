"""Each trick on against off: the same results, and it did something when it was on."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.experimental.functional import FuncEnv
from gymnasium.spaces import Box, Discrete

from kitae.base.xla import callback, hoisting, packing, switches
from kitae.base.xla.stepping import HoistedFunction
from kitae.envs.functional import JaxVectorEnv

CONFTEST = Path(__file__).parents[2] / "conftest.py"


def walk(key_data, number, position):
    key = jax.random.fold_in(jax.random.wrap_key_data(key_data), number)
    return position + jax.random.normal(key, position.shape)


def test_hoisting_draws_the_same_numbers_ahead():
    key_data, ends = jax.random.key_data(jax.random.key(3)), []
    for off in ((), ("hoist",)):
        with switches.switched(off):
            walker, position = HoistedFunction(walk), jnp.zeros(3)
            for number in range(5):
                position = walker(key_data, number, position)
            assert (walker._programs.ahead is None) == bool(off)
            ends.append(np.asarray(position))
    np.testing.assert_array_equal(*ends)


def test_without_hoisting_a_body_is_traced_once_all_the_same():
    traces = []

    def body(constants, carry, number):
        traces.append(number)
        return carry + number, carry

    with switches.switched(off=["hoist"]):
        parts = hoisting.split(body, (), jnp.uint32(0), jnp.uint32(0))
        jax.make_jaxpr(parts.step)((), jnp.uint32(0), jnp.uint32(0), [])
    assert len(traces) == 1


def test_packing_puts_small_leaves_together():
    tree = {"a": jnp.arange(3.0), "b": jnp.float32(7), "c": jnp.zeros((9, 9))}
    for off, together in (((), 1), (("pack",), 0)):
        with switches.switched(off):
            pack, unpack = packing.packing(tree, small=10)
            packed, others = pack(tree)
            assert (len(packed), len(others)) == (together, 3 - 2 * together)
            jax.tree.map(np.testing.assert_array_equal, unpack((packed, others)), tree)


def halving(x):
    """Halves three times what it is given, in Python."""

    def halved(i, x):
        assert isinstance(x, np.ndarray)
        return [x / 2, np.int64(i)]  # the program has another dtype

    shapes = [
        jax.ShapeDtypeStruct(x.shape, x.dtype),
        jax.ShapeDtypeStruct((), np.int32),
    ]

    def step(i, carry):
        return tuple(callback.callback(halved, shapes, i, carry[0]))

    return jax.lax.fori_loop(0, 3, step, (x, 0))


def test_the_callback_gives_what_io_callback_gives():
    for off, name in (((), "host_callback"), (("callback",), "io_callback")):
        with switches.switched(off):
            assert name in str(jax.make_jaxpr(halving)(jnp.ones(2)))
            x, last = jax.jit(halving)(jnp.ones(2))
            assert np.asarray(x).tolist() == [0.125, 0.125]
            assert int(last) == 2


class Walk(FuncEnv):
    """A walk on a line in whole steps, with noise."""

    observation_space = Box(-np.inf, np.inf, (1,), np.float32)
    action_space = Discrete(2)

    def initial(self, rng, params=None):
        return jax.random.randint(rng, (1,), -1, 2).astype(jnp.float32)

    def transition(self, state, action, rng, params=None):
        return state + 2.0 * action - 1.0 + jax.random.randint(rng, (1,), -1, 2)

    def observation(self, state, rng, params=None):
        return state

    def reward(self, state, action, next_state, rng, params=None):
        return state[0]

    def terminal(self, state, rng, params=None):
        return jnp.abs(state[0]) > 3.0


def trained(helpers, env, off=()):
    """Returns the bits of all that a training leaves behind."""
    with switches.switched(off):
        agent = helpers.make_agent(env, skip_steps=2, start_step=11, n_epochs=2)
        history = agent.train(env, 60)
    assert agent.updates > 0
    found = (
        agent.state,
        agent.memory,
        agent.training_state.pending,
        history.episode_return,
    )
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(found)]


@pytest.mark.parametrize("driver, trick", [("host", "callback"), ("compiled", "hoist")])
def test_trainings_without_tricks_give_the_same_bits(helpers, driver, trick):
    def make():
        return helpers.count_envs() if driver == "host" else JaxVectorEnv(Walk(), 2, 7)

    expected = trained(helpers, make())
    assert trained(helpers, make(), [trick]) == expected
    assert trained(helpers, make(), switches.NAMES) == expected


# Run where JAX lacks a name, which was removed before Kitae is imported.
LACKS_A_NAME = """
import json, sys, warnings
import jax.interpreters.mlir
del jax.interpreters.mlir.emit_python_callback
warnings.simplefilter("always")
from importlib.util import module_from_spec, spec_from_file_location
spec = spec_from_file_location("conftest", sys.argv[1])
conftest = module_from_spec(spec)
spec.loader.exec_module(conftest)
with warnings.catch_warnings(record=True) as caught:
    for run_name in ("one", "other"):
        env = conftest.count_envs()
        agent = conftest.make_agent(env, run_name, start_step=11)
        agent.train(env, 60)
messages = [str(warning.message) for warning in caught]
print(json.dumps([text for text in messages if "speed trick" in text]))
print(json.dumps(agent.state["value"].tolist()))
"""


def test_a_jax_that_lacks_a_name_trains_with_one_warning(helpers, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", LACKS_A_NAME, CONFTEST],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    *_, warned, value = done.stdout.splitlines()
    (message,) = json.loads(warned)
    assert "'callback'" in message
    assert jax.__version__ in message
    assert "emit_python_callback" in message
    env = helpers.count_envs()
    agent = helpers.make_agent(env, start_step=11)
    agent.train(env, 60)
    assert json.loads(value) == agent.state["value"].tolist()
