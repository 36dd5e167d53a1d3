import jax
import numpy as np
import pytest


@pytest.fixture(autouse=True)
def strict_promotion():
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield


@pytest.fixture
def filled():
    """Random parameters from numpy: quicker than compiling the initialisers."""

    def fill(module, *inputs):
        shapes = jax.eval_shape(module.init, jax.random.key(0), *inputs)
        rng = np.random.default_rng(0)

        def values(leaf):
            fan_in = np.prod(leaf.shape[:-1]) if leaf.ndim > 1 else 16
            scale = np.sqrt(2 / fan_in)
            return (scale * rng.normal(size=leaf.shape)).astype(np.float32)

        return jax.tree.map(values, shapes)

    return fill
