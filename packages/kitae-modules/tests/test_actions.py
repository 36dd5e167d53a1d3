import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from kitae.modules.actions import discrete_actions


def test_discrete_is_the_identity():
    actions = discrete_actions(spaces.Discrete(5, start=3))
    assert actions.n == 5
    for leading in (np.array([0, 4]), jnp.int32(2), np.zeros((2, 3), np.uint8)):
        index = actions.to_index(leading)
        assert index.dtype == jnp.int32
        np.testing.assert_array_equal(index, leading)
        np.testing.assert_array_equal(actions.from_index(leading), leading)
    # A value that no environment takes stays one.
    assert actions.from_index(jnp.int32(-1)).item() == -1


@pytest.mark.parametrize("nvec", [[4], [2, 3], [3, 1, 2], [2, 2, 5, 3]])
def test_joint_actions_against_numpy(nvec):
    actions = discrete_actions(spaces.MultiDiscrete(nvec, start=[7] * len(nvec)))
    index = np.arange(np.prod(nvec))
    assert actions.n == len(index)
    expected = np.stack(np.unravel_index(index, nvec), axis=-1)
    found = actions.from_index(index)
    assert found.dtype == jnp.int32
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(actions.to_index(expected), index)


def test_leading_axes_and_components_of_several_axes():
    actions = discrete_actions(spaces.MultiDiscrete([[2, 3], [2, 2]]))
    assert (actions.n, actions.shape) == (24, (2, 2))
    index = np.arange(24).reshape(4, 6)
    found = jax.jit(actions.from_index)(index)
    assert found.shape == (4, 6, 2, 2)
    np.testing.assert_array_equal(jax.jit(actions.to_index)(found), index)
    assert actions.from_index(jnp.int32(5)).tolist() == [[0, 1], [0, 1]]
    np.testing.assert_array_equal(jax.vmap(actions.to_index)(found), index)


def test_what_is_out_of_range_is_minus_one():
    actions = discrete_actions(spaces.MultiDiscrete([2, 3]))
    bad = np.array([[0, 3], [2, 0], [-1, 0], [0, -1]])
    assert actions.to_index(bad).tolist() == [-1] * 4
    for index in (-1, 6):
        assert actions.from_index(np.array([index])).tolist() == [[-1, -1]]


def test_equal_spaces_give_equal_and_hashable_actions():
    first = discrete_actions(spaces.MultiDiscrete([2, 3]))
    second = discrete_actions(spaces.MultiDiscrete([2, 3]))
    assert first == second
    assert hash(first) == hash(second)
    with pytest.raises(AttributeError):
        first.nvec = (1,)


def test_the_number_of_joint_actions_is_limited():
    assert discrete_actions(spaces.MultiDiscrete([2] * 12)).n == 4096
    with pytest.raises(ValueError, match=r"8192 joint actions.*at most 4,096"):
        discrete_actions(spaces.MultiDiscrete([2] * 13))
    assert discrete_actions(spaces.Discrete(10_000)).n == 10_000


@pytest.mark.parametrize(
    "space", [spaces.Box(0, 1, (2,)), spaces.MultiBinary(2), spaces.Dict({}), 3]
)
def test_other_spaces_are_refused(space):
    with pytest.raises(ValueError, match="must be a Discrete or a MultiDiscrete"):
        discrete_actions(space)


def test_shapes_and_dtypes_that_are_refused():
    actions = discrete_actions(spaces.MultiDiscrete([2, 3]))
    for shape in ((), (3,), (2, 1)):
        with pytest.raises(ValueError, match=r"actions must have the shape \[..., 2"):
            actions.to_index(np.zeros(shape, int))
    for dtype in (np.float32, bool):
        with pytest.raises(TypeError, match="actions must be integers"):
            actions.to_index(np.zeros(2, dtype))
        with pytest.raises(TypeError, match="index must be integers"):
            actions.from_index(np.zeros(2, dtype))


@settings(max_examples=6, deadline=None)
@given(st.lists(st.integers(1, 3), min_size=1, max_size=3), st.data())
def test_a_joint_action_is_allowed_where_each_component_is(nvec, data):
    actions = discrete_actions(spaces.MultiDiscrete(nvec))
    total = sum(nvec)
    mask = data.draw(st.lists(st.booleans(), min_size=total, max_size=total))
    parts = np.split(np.array(mask), np.cumsum(nvec)[:-1])
    expected = [
        all(part[value] for part, value in zip(parts, joint, strict=True))
        for joint in itertools.product(*map(range, nvec))
    ]
    found = actions.joint_mask(jnp.array([mask, mask]))
    assert found.dtype == jnp.bool_
    assert found.tolist() == [expected, expected]


def test_the_mask_of_a_discrete_space_is_the_identity():
    actions = discrete_actions(spaces.Discrete(3))
    mask = jnp.array([True, False, True])
    np.testing.assert_array_equal(actions.joint_mask(mask), mask)
    assert actions.joint_mask(None) is None
    with pytest.raises(ValueError, match=r"mask must have the shape \[..., 3\]"):
        actions.joint_mask(mask[:2])
    with pytest.raises(TypeError, match="mask must be bool"):
        actions.joint_mask(mask.astype(jnp.int8))


def test_allowed_reads_the_mask_off_observations():
    actions = discrete_actions(spaces.MultiDiscrete([2, 2]))
    observations = {"x": jnp.zeros(3), "action_mask": jnp.array([1, 0, 1, 1])}
    # The first component may be 0 alone, the second anything.
    assert actions.allowed(observations).tolist() == [True, True, False, False]
    assert actions.allowed({"x": jnp.zeros(3)}) is None
    assert actions.allowed(jnp.zeros(3)) is None
