"""Experience replay as pure functions on a device-resident JAX pytree."""

from kitae.buffer._ring import ReplayState
from kitae.buffer.buffers import OffPolicyBuffer, OnPolicyBuffer
from kitae.buffer.experience import Experience
from kitae.buffer.n_step import n_step_replay
from kitae.buffer.prioritised import importance_weights, prioritised_replay
from kitae.buffer.replay import Replay, Sample, stored_rows, uniform_replay
from kitae.buffer.rollout import Rollout, RolloutState, rollout_storage
from kitae.buffer.sequence import SequenceSample, sequence_replay

__all__ = [
    "Experience",
    "OffPolicyBuffer",
    "OnPolicyBuffer",
    "Replay",
    "ReplayState",
    "Rollout",
    "RolloutState",
    "Sample",
    "SequenceSample",
    "importance_weights",
    "n_step_replay",
    "prioritised_replay",
    "rollout_storage",
    "sequence_replay",
    "stored_rows",
    "uniform_replay",
]
