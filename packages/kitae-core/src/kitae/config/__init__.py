"""What a run is made from: frozen dataclasses that refuse bad values by name."""

from kitae.config.checks import (
    check_count,
    check_flag,
    check_int,
    check_n_envs,
    check_number,
)
from kitae.config.config import (
    AlgoConfig,
    AlgoParams,
    EnvConfig,
    TrainConfig,
    UpdateConfig,
)
from kitae.config.schedule import off_policy_updates, on_policy_updates

__all__ = [
    "AlgoConfig",
    "AlgoParams",
    "EnvConfig",
    "TrainConfig",
    "UpdateConfig",
    "check_count",
    "check_flag",
    "check_int",
    "check_n_envs",
    "check_number",
    "off_policy_updates",
    "on_policy_updates",
]
