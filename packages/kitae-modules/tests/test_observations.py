import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces

from kitae.modules.observations import observation_spec


@pytest.mark.parametrize(
    "space, shape, dtype",
    [
        (spaces.Box(0, 255, (4, 84, 84), np.uint8), (4, 84, 84), jnp.uint8),
        (spaces.Box(-1, 1, (), np.float64), (), jnp.float32),
        (spaces.Discrete(3, start=2), (), jnp.int32),
        (spaces.MultiDiscrete([[2, 3]]), (1, 2), jnp.int32),
        (spaces.MultiBinary(5), (5,), jnp.int8),
    ],
)
def test_the_spec_of_one_array(space, shape, dtype):
    spec = observation_spec(space)
    assert isinstance(spec, jax.ShapeDtypeStruct)
    assert (spec.shape, spec.dtype) == (shape, dtype)
    sample = jnp.asarray(space.sample())
    assert (sample.shape, sample.dtype) == (shape, dtype)


def test_the_spec_of_nested_spaces():
    space = spaces.Dict(
        a=spaces.Discrete(2),
        b=spaces.Dict(c=spaces.Box(0, 1, (3,))),
        d=spaces.Tuple([spaces.MultiBinary(1), spaces.Discrete(2)]),
    )
    spec = observation_spec(space)
    sample = jax.tree.map(jnp.asarray, space.sample())
    assert jax.tree.structure(spec) == jax.tree.structure(sample)
    assert spec["b"]["c"].shape == (3,)
    assert isinstance(spec["d"], tuple)


@pytest.mark.parametrize("space", [spaces.Text(3), 3, spaces.Dict(a=spaces.Text(3))])
def test_other_spaces_are_refused(space):
    with pytest.raises(TypeError, match="space must be a Box"):
        observation_spec(space)
