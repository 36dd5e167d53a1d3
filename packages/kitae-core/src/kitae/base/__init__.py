"""Agents from four pure functions, and the loops that train them."""

from kitae.base.agents.base import BaseAgent
from kitae.base.agents.interfaces import AlgoType, IActor, IAgent, IBuffer
from kitae.base.agents.off_policy import OffPolicyAgent
from kitae.base.agents.on_policy import OnPolicyAgent
from kitae.base.recording.statistics import History
from kitae.base.recording.trackers import StopTraining, TensorBoard, Tracker, WandB
from kitae.base.training.seeds import SeedRun

__all__ = [
    "AlgoType",
    "BaseAgent",
    "History",
    "IActor",
    "IAgent",
    "IBuffer",
    "OffPolicyAgent",
    "OnPolicyAgent",
    "SeedRun",
    "StopTraining",
    "TensorBoard",
    "Tracker",
    "WandB",
]
