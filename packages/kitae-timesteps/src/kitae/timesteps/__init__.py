"""Targets for reinforcement learning, as pure functions of arrays."""

from kitae.timesteps.returns import compute_gae, compute_lambda_returns
from kitae.timesteps.td import (
    compute_double_q_targets,
    compute_q_learning_targets,
    compute_td_targets,
)

__all__ = [
    "compute_double_q_targets",
    "compute_gae",
    "compute_lambda_returns",
    "compute_q_learning_targets",
    "compute_td_targets",
]
