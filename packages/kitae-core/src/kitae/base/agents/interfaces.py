"""What an actor, an agent and a buffer can be asked for."""

from abc import ABC, abstractmethod
from enum import Enum
from typing import Any, Protocol, runtime_checkable

import gymnasium as gym
import jax
import numpy as np
from gymnasium.vector import VectorEnv

from kitae.base.recording.statistics import History
from kitae.envs.pettingzoo import PettingZooEnvs
from kitae.types import Observation


class AlgoType(Enum):
    """What an agent learns from: what it just did, or a replay of it."""

    ON_POLICY = "on_policy"
    OFF_POLICY = "off_policy"


class IActor(ABC):
    """Something that acts."""

    @abstractmethod
    def select_action(self, observation: Observation) -> tuple[jax.Array, jax.Array]:
        """Returns the best actions it knows and their log-probabilities.

        Args:
            observation: `[n_envs, ...]`; of several agents a dict by their names, and
                so is what is returned.
        """

    @abstractmethod
    def explore(self, observation: Observation) -> tuple[jax.Array, jax.Array]:
        """Returns actions to learn from and their log-probabilities.

        Args:
            observation: As for `select_action`.
        """


class IAgent(IActor):
    """An actor that learns."""

    @abstractmethod
    def train(
        self, env: VectorEnv | gym.Env | PettingZooEnvs, n_env_steps: int
    ) -> History:
        """Trains for `n_env_steps` environment steps more."""

    @abstractmethod
    def resume(
        self, env: VectorEnv | gym.Env | PettingZooEnvs, n_env_steps: int
    ) -> History:
        """Goes on from the last checkpoint, to `n_env_steps` in all."""

    @abstractmethod
    def evaluate(
        self, env: VectorEnv | gym.Env | PettingZooEnvs, n_episodes: int
    ) -> np.ndarray:
        """Returns the returns of `n_episodes` episodes of its best actions."""


@runtime_checkable
class IBuffer(Protocol):
    """Rows of experience, added as they come and handed out to learn from.

    `kitae.buffer.OffPolicyBuffer` and `kitae.buffer.OnPolicyBuffer` are such.
    """

    def add(self, rows: Any, valid: Any = None) -> None:
        """Adds one row per environment, of those that `valid` marks."""
        ...

    def sample(self, key: jax.Array) -> Any:
        """Hands out rows."""
        ...

    def __len__(self) -> int:
        """Rows held."""
        ...
