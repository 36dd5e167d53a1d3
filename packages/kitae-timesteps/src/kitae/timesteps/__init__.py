"""Targets for reinforcement learning, as pure functions of arrays."""

from kitae.timesteps.distributional import (
    compute_categorical_targets,
    project_categorical,
    quantile_huber_loss,
    quantile_midpoints,
)
from kitae.timesteps.multistep import compute_n_step_targets, compute_q_lambda_targets
from kitae.timesteps.munchausen import (
    compute_munchausen_bonus,
    compute_munchausen_targets,
    compute_soft_policy,
    compute_soft_values,
)
from kitae.timesteps.off_policy import VTrace, compute_retrace_targets, compute_vtrace
from kitae.timesteps.rescaling import signed_hyperbolic, signed_parabolic
from kitae.timesteps.returns import compute_gae, compute_lambda_returns
from kitae.timesteps.td import (
    compute_double_q_targets,
    compute_q_learning_targets,
    compute_td_targets,
)

__all__ = [
    "VTrace",
    "compute_categorical_targets",
    "compute_double_q_targets",
    "compute_gae",
    "compute_lambda_returns",
    "compute_munchausen_bonus",
    "compute_munchausen_targets",
    "compute_n_step_targets",
    "compute_q_lambda_targets",
    "compute_q_learning_targets",
    "compute_retrace_targets",
    "compute_soft_policy",
    "compute_soft_values",
    "compute_td_targets",
    "compute_vtrace",
    "project_categorical",
    "quantile_huber_loss",
    "quantile_midpoints",
    "signed_hyperbolic",
    "signed_parabolic",
]
