"""Agents of the DQN family, each in one file, and the `kitae` command.

An agent's file is imported when it is first asked for, and JAX with it.
"""

from importlib import import_module  # noqa: TID251 (of our own names)
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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

_MODULES = {
    "btr": ("BTR", "BTRParams", "BTRState"),
    "c51": ("C51", "C51Params", "C51State"),
    "dqn": ("DQN", "DQNParams", "DQNState"),
    "iqn": ("IQN", "IQNParams", "IQNState"),
    "munchausen": ("MunchausenDQN", "MunchausenParams", "MunchausenState"),
    "pqn": ("PQN", "PQNParams", "PQNState"),
    "qrdqn": ("QRDQN", "QRDQNParams", "QRDQNState"),
    "r2d2": ("R2D2", "R2D2Params", "R2D2State"),
    "rainbow": ("Rainbow", "RainbowParams", "RainbowState"),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
