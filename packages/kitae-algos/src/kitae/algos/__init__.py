"""Agents of the DQN family, each in one file, and the `kitae` command."""

from kitae.algos.btr import BTR, BTRParams, BTRState
from kitae.algos.c51 import C51, C51Params, C51State
from kitae.algos.dqn import DQN, DQNParams, DQNState
from kitae.algos.iqn import IQN, IQNParams, IQNState
from kitae.algos.munchausen import MunchausenDQN, MunchausenParams, MunchausenState
from kitae.algos.pqn import PQN, PQNParams, PQNState
from kitae.algos.qrdqn import QRDQN, QRDQNParams, QRDQNState
from kitae.algos.r2d2 import R2D2, R2D2Params, R2D2State
from kitae.algos.rainbow import Rainbow, RainbowParams, RainbowState

__all__ = [
    "BTR",
    "C51",
    "DQN",
    "IQN",
    "PQN",
    "QRDQN",
    "R2D2",
    "BTRParams",
    "BTRState",
    "C51Params",
    "C51State",
    "DQNParams",
    "DQNState",
    "IQNParams",
    "IQNState",
    "MunchausenDQN",
    "MunchausenParams",
    "MunchausenState",
    "PQNParams",
    "PQNState",
    "QRDQNParams",
    "QRDQNState",
    "R2D2Params",
    "R2D2State",
    "Rainbow",
    "RainbowParams",
    "RainbowState",
]
