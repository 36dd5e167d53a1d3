"""Experience replay as pure functions on a device-resident JAX pytree."""

from kitae.buffer.buffers import OffPolicyBuffer, OnPolicyBuffer
from kitae.buffer.experience import Experience
from kitae.buffer.replay import Replay, ReplayState, stored_rows, uniform_replay
from kitae.buffer.rollout import Rollout, RolloutState, rollout_storage

__all__ = [
    "Experience",
    "OffPolicyBuffer",
    "OnPolicyBuffer",
    "Replay",
    "ReplayState",
    "Rollout",
    "RolloutState",
    "rollout_storage",
    "stored_rows",
    "uniform_replay",
]
