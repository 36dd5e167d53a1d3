import jax
import numpy as np
import pytest

from kitae.buffer import OffPolicyBuffer, OnPolicyBuffer


def numbers(*values):
    return {"x": np.array(values, np.int32)}


def test_off_policy_buffer_adds_samples_and_counts():
    buffer = OffPolicyBuffer({"x": 0}, capacity=2, n_envs=2, batch_size=40)
    assert len(buffer) == 0
    with pytest.raises(ValueError, match="the buffer is empty"):
        buffer.sample(jax.random.key(0))
    for step in range(3):
        buffer.add(numbers(step, 10 + step), np.array([True, step != 1]))
    assert len(buffer) == 4
    drawn = buffer.sample(jax.random.key(0))["x"]
    assert set(drawn.tolist()) == {1, 2, 10, 12}


def test_on_policy_buffer_hands_out_a_full_rollout_once():
    buffer = OnPolicyBuffer({"x": 0}, length=2, n_envs=2)
    buffer.add(numbers(0, 1))
    assert len(buffer) == 2
    with pytest.raises(ValueError, match="not full"):
        buffer.sample()
    buffer.add(numbers(2, 3))
    rollout = buffer.sample()
    buffer.add(numbers(7, 7))
    # What was handed out stays when the buffer fills again.
    assert rollout["x"].tolist() == [[0, 1], [2, 3]]
    assert len(buffer) == 2
