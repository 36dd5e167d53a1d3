"""Networks have float32 parameters and values where JAX has 64-bit types too."""

import jax
import jax.numpy as jnp
import pytest
from gymnasium import spaces

from kitae.modules import (
    init_params,
    iqn_factory,
    qvalue_factory,
    recurrent_qvalue_factory,
)

SPACES = spaces.Box(-1.0, 1.0, (4,)), spaces.Discrete(2)
NOISY = {"noisy": True, "dueling": True, "hidden_sizes": (8,)}
FLOATS = jax.ShapeDtypeStruct((4,), jnp.float32)
NETWORKS = {
    "qvalue": (qvalue_factory(*SPACES, n_atoms=5, **NOISY), [FLOATS]),
    "iqn": (iqn_factory(*SPACES, **NOISY), [FLOATS, FLOATS]),
    "recurrent": (
        recurrent_qvalue_factory(*SPACES, hidden_sizes=(8,), hidden_size=4, noisy=True),
        [(FLOATS, FLOATS), FLOATS, jax.ShapeDtypeStruct((), bool)],
    ),
}


@pytest.fixture(autouse=True)
def _x64():
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", before)


@pytest.mark.parametrize("name", NETWORKS)
def test_parameters_and_values_are_float32(name):
    network, inputs = NETWORKS[name]
    params = init_params(jax.random.key(0), network, inputs)
    rows = jax.tree.map(lambda spec: jnp.zeros((6, *spec.shape), spec.dtype), inputs)
    values = network.apply(params, *rows, rngs={"noise": jax.random.key(1)})
    leaves = jax.tree.leaves((params, values))
    assert {leaf.dtype.name for leaf in leaves} == {"float32"}
