import jax.numpy as jnp
import numpy as np

from kitae.base.xla.packing import packing


def test_packing_keeps_every_leaf():
    tree = {
        "a": jnp.arange(6.0).reshape(2, 3),
        "b": jnp.array([True, False]),
        "c": jnp.int32(-3),
        "d": jnp.array(np.nan),
        "e": jnp.zeros((0, 2)),
        "f": jnp.arange(5, dtype=jnp.uint8),
        "g": jnp.ones((9, 9)),
    }
    pack, unpack = packing(tree, small=10)
    packed = pack(tree)
    assert len(packed[0]) == 4  # float32, bool, int32 and uint8
    assert [x.shape for x in packed[1]] == [(9, 9)]
    for name, leaf in unpack(packed).items():
        assert leaf.dtype == tree[name].dtype
        np.testing.assert_array_equal(leaf, tree[name])
