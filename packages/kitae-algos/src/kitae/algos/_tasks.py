"""The settings of each shipped agent, on the tasks that it was tried on and on others.

The results of these are in the documentation's learning table.
"""

from dataclasses import dataclass, field
from typing import Any

import kitae.config as cfg


@dataclass(frozen=True)
class Preset:
    """What is needed for a config besides the seed and the spaces.

    Attributes:
        algo_params: Of the agent's `params_type`.
        update_cfg: How it learns.
        train_cfg: How long.
        n_envs: Parallel environments.
    """

    algo_params: Any
    update_cfg: cfg.UpdateConfig
    train_cfg: cfg.TrainConfig
    n_envs: int


@dataclass(frozen=True)
class _Task:
    """The settings of all agents on a task.

    Attributes:
        n_env_steps: Environment steps of a training.
        update: Of `UpdateConfig`, for agents with a replay.
        params: Of the agents with a replay.
        bounds: The lowest and the highest return, for agents that need bounds.
        own: Parameters of single agents, besides or in place of those.
        own_update: Of `UpdateConfig`, for single agents likewise.
        own_steps: Environment steps of a training of single agents.
        rollouts: Of `UpdateConfig`, for PQN.
        pqn: Parameters of PQN.
        n_envs: Parallel environments.
        pqn_envs: Parallel environments of PQN.
        pqn_steps: Environment steps of a training of PQN.
    """

    n_env_steps: int
    update: dict[str, Any]
    params: dict[str, Any]
    bounds: tuple[float, float]
    own: dict[str, dict[str, Any]] = field(default_factory=dict)
    own_update: dict[str, dict[str, Any]] = field(default_factory=dict)
    own_steps: dict[str, int] = field(default_factory=dict)
    rollouts: dict[str, Any] = field(default_factory=dict)
    pqn: dict[str, Any] = field(default_factory=dict)
    n_envs: int = 8
    pqn_envs: int = 32
    pqn_steps: int = 500_000


_ROLLOUTS = {"max_buffer_size": 32, "batch_size": 128, "n_epochs": 4}

OTHER_TASKS = _Task(
    n_env_steps=500_000,
    update={
        "learning_rate": 6e-4,
        "max_buffer_size": 12_500,
        "batch_size": 128,
        "n_epochs": 2,
    },
    params={"exploration_steps": 60_000, "start_step": 5_000},
    bounds=(-200.0, 200.0),
    own={"rainbow": {"adam_eps": 1e-8}},
    rollouts=_ROLLOUTS | {"learning_rate": 6e-4},
    pqn={"exploration_steps": 60_000},
)

TASKS = {
    "CartPole-v1": _Task(
        n_env_steps=200_000,
        update={"learning_rate": 1e-3, "max_buffer_size": 5_000, "batch_size": 128},
        params={"exploration_steps": 30_000, "start_step": 1_000},
        bounds=(0.0, 100.0),
        own={
            "dqn": {"exploration_steps": 5_000},
            "iqn": {"n_taus": 32, "n_target_taus": 32, "adam_eps": 1e-8},
        },
        own_update={"dqn": {"learning_rate": 2e-3, "batch_size": 64, "n_epochs": 4}},
        own_steps={"dqn": 50_000},
        rollouts=_ROLLOUTS | {"learning_rate": 1e-3},
        pqn={"exploration_steps": 60_000},
    ),
    "Acrobot-v1": _Task(
        n_env_steps=100_000,
        update={
            "learning_rate": 6e-4,
            "max_buffer_size": 6_250,
            "batch_size": 128,
            "n_epochs": 2,
        },
        params={"exploration_steps": 20_000, "start_step": 1_000},
        bounds=(-100.0, 0.0),
        own={"c51": {"adam_eps": 1e-8}, "munchausen": {"temperature": 0.1}},
        rollouts=_ROLLOUTS | {"learning_rate": 6e-4},
        pqn={"exploration_steps": 60_000},
    ),
    "MountainCar-v0": _Task(
        n_env_steps=200_000,
        update={
            "learning_rate": 2e-3,
            "max_buffer_size": 1_250,
            "batch_size": 128,
            "n_epochs": 4,
        },
        params={
            "gamma": 0.98,
            "exploration_final": 0.07,
            "exploration_steps": 40_000,
            "start_step": 1_000,
            "target_update_period": 300,
            "hidden_sizes": (256, 256),
        },
        bounds=(-60.0, 0.0),
        # Values begin in the middle: where all rewards are -1, above all that can be,
        # and what was not tried yet looks better than what was. A target that moves
        # seldom lets that last: of three steps' rewards, values fall thrice as fast.
        own={
            "rainbow": {
                "v_min": -60.0,
                "v_max": 60.0,
                "n_atoms": 61,
                "adam_eps": 1e-8,
                "exploration_initial": 1.0,
                "exploration_final": 0.07,
                "target_update_period": 900,
            }
        },
        rollouts=_ROLLOUTS | {"learning_rate": 6e-4},
        pqn={"exploration_steps": 60_000},
    ),
    "LunarLander-v3": OTHER_TASKS,
}

# Settings of single agents, on every task.
_OWN_UPDATE: dict[str, dict[str, Any]] = {"r2d2": {"batch_size": 32}}  # sequences
_OWN: dict[str, dict[str, Any]] = {
    "dqn": {"double_q": True},
    "c51": {"n_atoms": 51},
    "qrdqn": {"n_quantiles": 25},
    "iqn": {"n_taus": 8, "n_target_taus": 8},
    # With the Huber loss it learns a median, of targets that are large against 1.
    "munchausen": {"loss": "squared", "adam_eps": 1e-8},
    "rainbow": {"n_atoms": 51},
    "btr": {"gamma": 0.99, "target_update_period": 50},
    "r2d2": {
        "gamma": 0.99,
        "hidden_sizes": (64,),
        "hidden_size": 64,
        "head_sizes": (64,),
        "sequence_length": 16,
        "burn_in": 4,
        "adam_eps": 1e-5,
        "skip_steps": 2,
    },
}
_BOUNDED = ("c51", "rainbow")


def settings_of(agent: str, params_type: Any, task: str) -> Preset:
    """Returns an agent's settings on a task: one that it was tuned on, or another.

    Args:
        agent: Its name, such as `"dqn"`.
        params_type: The class of its parameters.
        task: An environment's id.
    """
    settings = TASKS.get(task.rpartition("/")[2], OTHER_TASKS)
    if agent == "pqn":
        params, update = settings.pqn, settings.rollouts
        n_env_steps, n_envs = settings.pqn_steps, settings.pqn_envs
    else:
        params = _replay_params(agent, settings)
        own = _OWN_UPDATE.get(agent, {}) | settings.own_update.get(agent, {})
        update = settings.update | own
        n_env_steps = settings.own_steps.get(agent, settings.n_env_steps)
        n_envs = settings.n_envs
    return Preset(
        algo_params=params_type(**params),
        update_cfg=cfg.UpdateConfig(
            learning_rate_annealing=True, max_grad_norm=10.0, **update
        ),
        train_cfg=cfg.TrainConfig(n_env_steps),
        n_envs=n_envs,
    )


def _replay_params(agent: str, settings: _Task) -> dict[str, Any]:
    params = {"exploration_final": 0.04, "target_update_period": 50}
    params |= settings.params | _OWN[agent]
    if agent in _BOUNDED:
        params["v_min"], params["v_max"] = settings.bounds
    if agent == "rainbow":
        params["exploration_final"] = 0.0  # noise explores
    return params | settings.own.get(agent, {})
