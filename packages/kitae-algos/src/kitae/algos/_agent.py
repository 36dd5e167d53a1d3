"""What the classes of the family have in common: acting ε-greedily, and replays.

What an agent learns and how is in its own file.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import gymnasium as gym
import jax
import jax.numpy as jnp
import optax
from gymnasium.spaces import Discrete, MultiDiscrete

import kitae.config as cfg
from kitae.base import OffPolicyAgent, OnPolicyAgent
from kitae.buffer import Experience, Replay, prioritised_replay, uniform_replay
from kitae.modules.optimizer import make_optimizer

Factories = tuple[
    Callable[..., Any], Callable[..., Any], Callable[..., Any], Callable[..., Any]
]


class EpsilonGreedy:
    """Acting of an agent whose `explore_fn` takes the probability of a random action.

    Attributes:
        params_type: The class of `config.algo_params`.
        factories: `train_state_factory`, `explore_factory`,
            `process_experience_factory` and `update_step_factory`.
    """

    params_type: ClassVar[type]
    factories: ClassVar[Factories]

    config: cfg.AlgoConfig
    state: Any
    step: int
    explore_fn: Callable[..., tuple[jax.Array, jax.Array]]
    interact_keys: Callable[[Any], Any]

    def exploration(self, step: jax.Array | int) -> jax.Array:
        """Returns the probability of a random action after `step` environment steps."""
        algo = self.config.algo_params
        schedule = optax.linear_schedule(
            algo.exploration_initial, algo.exploration_final, algo.exploration_steps
        )
        return jnp.asarray(schedule(step))

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


def checked_params(config: cfg.AlgoConfig, params_type: type) -> cfg.AlgoConfig:
    """Returns the config, if its `algo_params` are of the agent's class.

    Raises:
        TypeError: They are not.
    """
    if not isinstance(config.algo_params, params_type):
        raise TypeError(
            f"algo_params must be a {params_type.__name__}, got {config.algo_params!r}"
        )
    return config


def discrete(action_space: gym.Space, agent: str) -> Discrete | MultiDiscrete:
    """Returns the space, if its actions are discrete ones.

    Raises:
        ValueError: They are not; the agent is named.
    """
    if not isinstance(action_space, Discrete | MultiDiscrete):
        raise ValueError(
            f"{agent} needs discrete actions, got action_space = {action_space}"
        )
    return action_space


def uniform(config: cfg.AlgoConfig, n_envs: int, batch_size: int) -> Replay:
    """Makes a replay of single transitions, which draws all of them alike."""
    return uniform_replay(
        config.update_cfg.max_buffer_size,
        n_envs,
        batch_size,
        frame_stack=config.algo_params.frame_stack,
    )


def prioritised(config: cfg.AlgoConfig, n_envs: int, batch_size: int) -> Replay:
    """Makes a replay of n-step transitions, drawn by their priorities."""
    algo = config.algo_params
    return prioritised_replay(
        config.update_cfg.max_buffer_size,
        n_envs,
        batch_size,
        exponent=algo.priority_exponent,
        n_steps=algo.n_steps,
        gamma=algo.gamma,
        frame_stack=algo.frame_stack,
    )


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
            checked_params(config, self.params_type),
            *self.factories,
            preprocess_fn=preprocess_fn,
            tabulate=tabulate,
            experience_type=Experience,
            replay_factory=self.make_replay,
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
            checked_params(config, self.params_type),
            *self.factories,
            preprocess_fn=preprocess_fn,
            tabulate=tabulate,
            experience_type=Experience,
        )


def adam(config: cfg.AlgoConfig) -> optax.GradientTransformation:
    """Makes the optimizer that the config of an off-policy agent asks for."""
    update = config.update_cfg
    return make_optimizer(
        update.learning_rate,
        annealing_steps=cfg.off_policy_updates(config)
        if update.learning_rate_annealing
        else None,
        max_grad_norm=update.max_grad_norm,
        eps=config.algo_params.adam_eps,
        # One vector of moments is faster, where layers are small.
        flatten=len(config.env_cfg.observation_space.shape or ()) <= 1,
    )


def importance_exponent(config: cfg.AlgoConfig, update: jax.Array) -> jax.Array:
    """Returns β after `update` gradient updates: it rises linearly to 1 at the last.

    Schaul et al. ("Prioritized experience replay", 2016), section 3.4.
    """
    start = config.algo_params.importance_exponent
    rise = optax.linear_schedule(start, 1.0, cfg.off_policy_updates(config))
    return jnp.asarray(rise(update), jnp.float32)


def taken(values: jax.Array, actions: jax.Array, axis: int = -1) -> jax.Array:
    """Returns the values of the actions taken, without the axis of actions.

    Args:
        values: `[batch_size, ...]` with the axis `axis` of actions.
        actions: `[batch_size]`, indices.
        axis: Of the actions.
    """
    # A sum over one-hot rows: the gradient of a gather is a slow scatter.
    axis %= values.ndim
    chosen = jax.nn.one_hot(actions, values.shape[axis], dtype=values.dtype)
    shape = [1] * values.ndim
    shape[0], shape[axis] = values.shape[0], values.shape[axis]
    return jnp.sum(values * chosen.reshape(shape), axis=axis)
