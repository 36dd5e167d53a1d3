"""What the classes of the family have in common: construction and acting.

What an agent learns, and how, is in its own file.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax

import kitae.config as cfg
from kitae.algos._shared import uniform
from kitae.base import BaseAgent, OffPolicyAgent, OnPolicyAgent
from kitae.buffer import Experience, Replay

Factories = tuple[
    Callable[..., Any], Callable[..., Any], Callable[..., Any], Callable[..., Any]
]


class EpsilonGreedy(BaseAgent):
    """Acting of an agent whose `explore_fn` takes the probability of a random action.

    Attributes:
        factories: `train_state_factory`, `explore_factory`,
            `process_experience_factory` and `update_step_factory`.
    """

    factories: ClassVar[Factories]

    def exploration(self, step: jax.Array | int) -> jax.Array:
        """Returns the probability of a random action after `step` environment steps."""
        algo = self.config.algo_params
        if isinstance(step, int):  # it may be more than a device can count
            step = min(step, algo.exploration_steps)
        return _linear(
            algo.exploration_initial,
            algo.exploration_final,
            algo.exploration_steps,
            step,
        )

    def own_metrics(self) -> dict[str, float]:
        """Returns the probability of a random action, as `exploration`."""
        return {"exploration": float(self.exploration(self.step))}

    def explore(self, observation: Any) -> tuple[jax.Array, jax.Array]:
        """Returns ε-greedy actions, ε by the environment steps so far."""
        return self.explore_fn(
            self.state.qvalue,
            self.interact_keys(observation),
            observation,
            exploration=self.exploration(self.step),
        )

    def select_action(self, observation: Any) -> tuple[jax.Array, jax.Array]:
        """Returns the actions of the highest value, the first of equals."""
        key = self.interact_keys(observation)
        return self.explore_fn(self.state.qvalue, key, observation, exploration=0.0)


class OffPolicyValueAgent(EpsilonGreedy, OffPolicyAgent):
    """Base of the family's agents that learn from a replay.

    Args:
        run_name: The run's directory under `runs/`.
        config: With `algo_params` of the agent's class.
        preprocess_fn: Applied to observations before the network.
        tabulate: Whether to print the network.

    Raises:
        TypeError: `config.algo_params` is of another class.
        ValueError: The actions are not discrete, or the config can never update.
    """

    make_replay: ClassVar[Callable[[cfg.AlgoConfig, int, int], Replay]] = staticmethod(
        uniform
    )

    def __init__(
        self,
        run_name: str,
        config: cfg.AlgoConfig,
        *,
        preprocess_fn: Callable | None = None,
        tabulate: bool = False,
    ) -> None:
        super().__init__(
            run_name,
            config,
            *self.factories,
            preprocess_fn=preprocess_fn,
            tabulate=tabulate,
            experience_type=Experience,
            replay_factory=type(self).make_replay,
        )


class NoisyValueAgent(OffPolicyValueAgent):
    """Base of the family's agents that explore by noise in their networks' weights."""

    def select_action(self, observation: Any) -> tuple[jax.Array, jax.Array]:
        """Returns the actions of the highest value under the mean weights."""
        key = self.interact_keys(observation)
        return self.explore_fn(
            self.state.qvalue, key, observation, exploration=0.0, noisy=False
        )


class OnPolicyValueAgent(EpsilonGreedy, OnPolicyAgent):
    """Base of the family's agents that learn from what they just did.

    See `OffPolicyValueAgent` for the arguments.
    """

    def __init__(
        self,
        run_name: str,
        config: cfg.AlgoConfig,
        *,
        preprocess_fn: Callable | None = None,
        tabulate: bool = False,
    ) -> None:
        super().__init__(
            run_name,
            config,
            *self.factories,
            preprocess_fn=preprocess_fn,
            tabulate=tabulate,
            experience_type=Experience,
        )


@partial(jax.jit, static_argnums=(0, 1, 2))
def _linear(initial: float, final: float, n_steps: int, step: Any) -> jax.Array:
    return jnp.asarray(optax.linear_schedule(initial, final, n_steps)(step))
