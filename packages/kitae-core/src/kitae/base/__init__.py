"""Agents from four pure functions, and the loops that train them."""

from kitae.base.agent import BaseAgent
from kitae.base.interfaces import AlgoType, IActor, IAgent, IBuffer
from kitae.base.off_policy import OffPolicyAgent
from kitae.base.on_policy import OnPolicyAgent
from kitae.base.statistics import History
from kitae.base.trackers import StopTraining, TensorBoard, Tracker, WandB

__all__ = [
    "AlgoType",
    "BaseAgent",
    "History",
    "IActor",
    "IAgent",
    "IBuffer",
    "OffPolicyAgent",
    "OnPolicyAgent",
    "StopTraining",
    "TensorBoard",
    "Tracker",
    "WandB",
]
