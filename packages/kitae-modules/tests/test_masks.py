import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kitae.modules.masks import action_mask, masked


def test_masked_values_are_below_all_others_and_finite():
    qvalues = jnp.array([[3.0, -1e30, 2.0], [5.0, 1.0, 0.0]])
    mask = jnp.array([[False, True, False], [True, False, True]])
    out = masked(qvalues, mask)
    assert out.max(axis=-1).tolist() == [jnp.float32(-1e30), 5.0]
    assert jnp.isfinite(out).all()
    assert out[0, 1] == qvalues[0, 1]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_a_row_without_an_allowed_action_vanishes_under_a_discount_of_zero(dtype):
    out = masked(jnp.ones(2, dtype), jnp.zeros(2, bool))
    assert out.dtype == dtype
    assert (jnp.zeros((), dtype) * out.max()).item() == 0.0
    assert jnp.isfinite(out - masked(jnp.zeros(2, dtype), jnp.ones(2, bool))).all()


def test_without_a_mask_the_values_are_untouched():
    qvalues = jnp.ones((2, 3))
    assert masked(qvalues, None) is qvalues


def test_no_gradient_flows_where_masked():
    mask = jnp.array([False, True])
    grad = jax.grad(lambda q: masked(q, mask)[1] + masked(q, mask)[0])(jnp.ones(2))
    assert grad.tolist() == [0.0, 1.0]


@pytest.mark.parametrize("shape", [(3,), (1, 3), (2, 1), (2, 3, 1)])
def test_a_mask_is_not_broadcast(shape):
    with pytest.raises(ValueError, match=r"mask must have the shape .*\[2, 3\]"):
        masked(jnp.ones((2, 3)), jnp.ones(shape, bool))


@pytest.mark.parametrize("dtype", [jnp.int8, jnp.float32])
def test_a_mask_is_bool(dtype):
    with pytest.raises(TypeError, match="mask must be bool"):
        masked(jnp.ones(3), jnp.ones(3, dtype))


def test_the_mask_of_observations():
    board = np.zeros((2, 9))
    found = action_mask({"board": board, "action_mask": np.array([[1, 0], [0, 2]])})
    assert found.dtype == jnp.bool_
    assert found.tolist() == [[True, False], [False, True]]
    assert action_mask({"board": board}) is None
    assert action_mask(board) is None
    assert action_mask((board, board)) is None
