"""The settings of the shipped agents by their names; see also `DQN.from_preset`."""

from typing import Any

from kitae.algos._tasks import OTHER_TASKS, TASKS, Preset, settings_of
from kitae.algos.btr import BTR
from kitae.algos.c51 import C51
from kitae.algos.dqn import DQN
from kitae.algos.iqn import IQN
from kitae.algos.munchausen import MunchausenDQN
from kitae.algos.pqn import PQN
from kitae.algos.qrdqn import QRDQN
from kitae.algos.r2d2 import R2D2
from kitae.algos.rainbow import Rainbow

__all__ = ["AGENTS", "OTHER_TASKS", "TASKS", "Preset", "preset"]

AGENTS: dict[str, Any] = {
    agent_type.preset_name: agent_type
    for agent_type in (DQN, C51, QRDQN, IQN, MunchausenDQN, Rainbow, BTR, PQN, R2D2)
}


def preset(agent: str, task: str) -> Preset:
    """Returns an agent's settings on a task: one that it was tuned on, or another.

    Args:
        agent: A name in `AGENTS`.
        task: An environment's id.

    Raises:
        ValueError: There is no such agent.

    Example:
        >>> preset("dqn", "CartPole-v1").update_cfg.learning_rate
        0.002
    """
    if agent not in AGENTS:
        raise ValueError(f"agent must be one of {', '.join(AGENTS)}, got {agent!r}")
    return settings_of(agent, AGENTS[agent].params_type, task)
