"""Functions that the factories of several agents call."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import gymnasium as gym
import jax
import jax.numpy as jnp
import optax
from gymnasium.spaces import Discrete, MultiDiscrete

import kitae.config as cfg
from kitae.algos._params import ReplayParams
from kitae.buffer import Replay, prioritised_replay, uniform_replay
from kitae.modules.actions import discrete_actions
from kitae.modules.exploration import epsilon_greedy
from kitae.modules.modules import init_params
from kitae.modules.optimizer import make_optimizer
from kitae.modules.pytree import TrainState
from kitae.types import Params


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


def with_target(
    key: jax.Array,
    config: cfg.AlgoConfig,
    network: nn.Module,
    inputs: Sequence[Any],
    tabulate: bool,
) -> TrainState:
    """Makes a network's train state: parameters, an equal target network, and Adam.

    Args:
        key: For the parameters.
        config: Of an off-policy agent.
        network: The network.
        inputs: Shape or spec of each of its inputs, see `init_params`.
        tabulate: Whether to print the network.
    """
    params = init_params(key, network, inputs, tabulate)
    return TrainState.create(
        apply_fn=network.apply, params=params, target_params=params, tx=adam(config)
    )


def learned(qvalue: TrainState, grads: Params, algo: ReplayParams) -> TrainState:
    """Takes one step of the optimizer, then moves the target network if it is time."""
    return qvalue.apply_gradients(grads=grads).update_target(
        period=algo.target_update_period, step_size=algo.tau
    )


def action_chooser(
    config: cfg.AlgoConfig,
) -> Callable[..., tuple[jax.Array, jax.Array]]:
    """Makes `choose(key, qvalues, exploration, observations)`.

    It returns ε-greedy actions, as the action space has them but counted from 0, and
    their log-probabilities. Observations may have a mask of the allowed actions.
    """
    actions_of = discrete_actions(config.env_cfg.action_space)

    def choose(
        key: jax.Array,
        qvalues: jax.Array,
        exploration: jax.Array | float,
        observations: Any,
    ) -> tuple[jax.Array, jax.Array]:
        allowed = actions_of.allowed(observations)
        index, log_probs = epsilon_greedy(key, qvalues, exploration, allowed)
        return actions_of.from_index(index), log_probs

    return choose


def importance_exponent(config: cfg.AlgoConfig, update: jax.Array | int) -> jax.Array:
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
