"""DQN (Mnih et al., "Human-level control through deep reinforcement learning", 2015).

The four factories, in the order in which an agent is made of them:

- `train_state_factory`: a Q-network, a target network with equal parameters, Adam.
- `explore_factory`: ε-greedy actions, one coin per environment.
- `process_experience_factory`: targets `r + γ (1 - done) max_a Q_target(s', a)`
  (Mnih et al., eq. 2), or van Hasselt et al.'s double-Q targets (2016, eq. 4).
- `update_step_factory`: one step on the mean squared or Huber loss of
  `Q(s, a) - target`, then the target network moves.

Where it departs from the paper: Adam takes the place of RMSProp; the error is not
clipped, unless the Huber loss is asked for, whose gradient is the same; the target
moves every `target_update_period` gradient updates, and by `tau`, so that a slow
average (Lillicrap et al., 2016) is there too; rewards are not clipped; and it
bootstraps through truncation, which does not end the task.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

import kitae.config as cfg
from kitae.algos._agent import OffPolicyValueAgent
from kitae.algos._params import ReplayParams
from kitae.algos._shared import (
    action_chooser,
    discrete,
    learned,
    taken,
    with_target,
)
from kitae.buffer import Experience
from kitae.modules.actions import discrete_actions
from kitae.modules.masks import masked
from kitae.modules.observations import observation_spec
from kitae.modules.pytree import AgentPyTree, TrainState
from kitae.modules.qvalue import qvalue_factory
from kitae.timesteps import compute_double_q_targets, compute_q_learning_targets
from kitae.types import ExploreFn, Info, Params, ProcessExperienceFn, UpdateStepFn


@dataclass(frozen=True)
class DQNParams(ReplayParams):
    """Parameters of DQN; see `ReplayParams` for those that others have too.

    Attributes:
        double_q: Whether the network chooses the next action that the target network
            values (double DQN); the target network does both otherwise.
        dueling: Whether the network has a stream for the value of the state and one
            for the advantages of the actions.
        loss: "squared" (half the square), or "huber", with its corner at an error of 1:
            where rewards are large against 1 it learns a median more than a mean.

    Raises:
        ValueError: A value is out of its range; the field is named.
    """

    double_q: bool = False
    dueling: bool = False
    loss: Literal["huber", "squared"] = "squared"

    def __post_init__(self) -> None:
        super().__post_init__()
        cfg.check_flag("double_q", self.double_q)
        cfg.check_flag("dueling", self.dueling)
        if self.loss not in ("huber", "squared"):
            raise ValueError(f"loss must be 'huber' or 'squared', got {self.loss!r}")


class DQNState(AgentPyTree):
    """What DQN learns: the Q-network, its target and its optimizer."""

    qvalue: TrainState


class Batch(NamedTuple):
    """What an update needs of a batch of experience."""

    observation: jax.Array
    action: jax.Array
    target: jax.Array


def train_state_factory(
    key: jax.Array,
    config: cfg.AlgoConfig,
    *,
    preprocess_fn: Callable | None = None,
    tabulate: bool = False,
) -> DQNState:
    """Makes the Q-network, a target network equal to it, and the optimizer.

    Args:
        key: For the parameters.
        config: Of the agent; its actions must be discrete.
        preprocess_fn: Applied to observations before the network.
        tabulate: Whether to print the network.

    Raises:
        ValueError: The actions are not discrete.
    """
    env = config.env_cfg
    qvalue = qvalue_factory(
        env.observation_space,
        discrete(env.action_space, "DQN"),
        hidden_sizes=config.algo_params.hidden_sizes,
        dueling=config.algo_params.dueling,
        preprocess_fn=preprocess_fn,
    )
    inputs = [observation_spec(env.observation_space)]
    return DQNState(with_target(key, config, qvalue, inputs, tabulate))


def explore_factory(config: cfg.AlgoConfig) -> ExploreFn:
    """Makes the ε-greedy policy: a coin, and a random action, for each environment."""
    choose = action_chooser(config)

    def explore_fn(
        state: TrainState,
        key: jax.Array,
        observations: Any,
        exploration: jax.Array | float,
    ) -> tuple[jax.Array, jax.Array]:
        qvalues = state.apply_fn(state.params, observations)
        return choose(key, qvalues, exploration, observations)

    return explore_fn


def process_experience_factory(config: cfg.AlgoConfig) -> ProcessExperienceFn:
    """Makes the function that turns experience into regression targets."""
    gamma, double_q = config.algo_params.gamma, config.algo_params.double_q
    actions_of = discrete_actions(config.env_cfg.action_space)

    def process_experience_fn(
        state: DQNState, key: jax.Array, experience: Experience
    ) -> Batch:
        qvalue, next_observation = state.qvalue, experience.next_observation
        allowed = actions_of.allowed(next_observation)
        next_qvalues = masked(
            qvalue.apply_fn(qvalue.target_params, next_observation), allowed
        )
        # Termination alone ends the sum: a truncated episode still has a next value.
        discounts = gamma * (1.0 - experience.done.astype(jnp.float32))
        if double_q:
            selector = masked(qvalue.apply_fn(qvalue.params, next_observation), allowed)
            targets = compute_double_q_targets(
                experience.reward, discounts, next_qvalues, selector
            )
        else:
            targets = compute_q_learning_targets(
                experience.reward, discounts, next_qvalues
            )
        index = actions_of.to_index(experience.action)
        return Batch(experience.observation, index, targets)

    return process_experience_fn


def update_step_factory(config: cfg.AlgoConfig) -> UpdateStepFn:
    """Makes the gradient step on the loss, followed by the target's move."""
    algo = config.algo_params
    loss_of_error = optax.huber_loss if algo.loss == "huber" else optax.l2_loss

    def update_step_fn(
        state: DQNState, key: jax.Array, batch: Batch
    ) -> tuple[DQNState, Info]:
        def loss_fn(params: Params) -> tuple[jax.Array, jax.Array]:
            qvalues = state.qvalue.apply_fn(params, batch.observation)
            chosen = taken(qvalues, batch.action)
            return jnp.mean(loss_of_error(chosen, batch.target)), jnp.mean(chosen)

        (loss, qvalue), grads = jax.value_and_grad(loss_fn, has_aux=True)(
            state.qvalue.params
        )
        state.qvalue = learned(state.qvalue, grads, algo)
        return state, {"loss_qvalue": loss, "qvalue": qvalue}

    return update_step_fn


class DQN(OffPolicyValueAgent):
    """Deep Q-Network; see the module for what it does and where it departs.

    Args:
        run_name: The run's directory under `runs/`.
        config: With `algo_params` a `DQNParams`.
        preprocess_fn: Applied to observations before the network.
        tabulate: Whether to print the network.

    Raises:
        TypeError: `config.algo_params` is not a `DQNParams`.
        ValueError: The actions are not discrete, or the config can never update.

    Example:
        >>> import kitae.config as cfg
        >>> from kitae.algos import DQN, DQNParams
        >>> from kitae.envs.make import make_vec_env
        >>> env = make_vec_env("CartPole-v1", n_envs=4)
        >>> config = cfg.AlgoConfig(
        ...     seed=0,
        ...     algo_params=DQNParams(),
        ...     update_cfg=cfg.UpdateConfig(learning_rate=1e-3),
        ...     train_cfg=cfg.TrainConfig(n_env_steps=1_000),
        ...     env_cfg=cfg.EnvConfig(
        ...         task_name="CartPole-v1",
        ...         observation_space=env.single_observation_space,
        ...         action_space=env.single_action_space,
        ...         n_envs=4,
        ...     ),
        ... )
        >>> agent = DQN("example", config)
        >>> agent.evaluate(env, n_episodes=2).shape
        (2,)
    """

    params_type = DQNParams
    preset_name = "dqn"
    factories = (
        train_state_factory,
        explore_factory,
        process_experience_factory,
        update_step_factory,
    )
