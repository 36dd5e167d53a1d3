"""Agents of the DQN family, each in one file, and the `kitae` command."""

from kitae.algos.dqn import DQN, DQNParams, DQNState

__all__ = ["DQN", "DQNParams", "DQNState"]
