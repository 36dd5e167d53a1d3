"""Munchausen DQN (Vieillard et al., "Munchausen reinforcement learning", 2020).

The four factories, in the order in which an agent is made of them:

- `train_state_factory`: a Q-network, a target network with equal parameters, Adam.
- `explore_factory`: ε-greedy actions, one coin per environment.
- `process_experience_factory`: with `π = softmax(Q_target / temperature)`, targets
  `r + scale [temperature ln π(a|s)]_clip^0
  + γ (1 - done) Σ_a' π(a'|s') (Q_target(s', a') - temperature ln π(a'|s'))` (eq. 2).
- `update_step_factory`: one step on the mean squared or Huber loss of
  `Q(s, a) - target`, then the target network moves.

Where it departs from the paper: the target moves every `target_update_period` gradient
updates, and by `tau`; rewards are not clipped; and it bootstraps through truncation,
which does not end the task.
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
from kitae.timesteps import compute_munchausen_targets
from kitae.types import ExploreFn, Info, Params, ProcessExperienceFn, UpdateStepFn


@dataclass(frozen=True)
class MunchausenParams(ReplayParams):
    """Parameters of Munchausen DQN; see `ReplayParams` for those that others have too.

    Attributes:
        temperature: Of the softmax policy, greater than 0, in units of reward.
        scale: How much of the log-policy is added to the reward, in [0, 1]; with 0 it
            is soft DQN.
        clip: The lowest that the scaled log-policy may be, below 0, in units of reward.
        loss: "squared" (half the square), or "huber", with its corner at an error of 1.

    Raises:
        ValueError: A value is out of its range; the field is named.
    """

    temperature: float = 0.03
    scale: float = 0.9
    clip: float = -1.0
    loss: Literal["huber", "squared"] = "huber"
    adam_eps: float = 0.01 / 32

    def __post_init__(self) -> None:
        super().__post_init__()
        check_munchausen(self.temperature, self.scale, self.clip)
        if self.loss not in ("huber", "squared"):
            raise ValueError(f"loss must be 'huber' or 'squared', got {self.loss!r}")


def check_munchausen(temperature: float, scale: float, clip: float) -> None:
    """Refuses parameters of Munchausen targets that are out of range."""
    cfg.check_number("temperature", temperature, 0.0, open_low=True)
    cfg.check_number("scale", scale, 0.0, 1.0)
    cfg.check_number("clip", clip, high=0.0, open_high=True)


class MunchausenState(AgentPyTree):
    """What Munchausen DQN learns: the Q-network, its target and its optimizer."""

    qvalue: TrainState


class Batch(NamedTuple):
    """What an update needs of a batch of experience."""

    observation: Any
    action: jax.Array
    target: jax.Array


def train_state_factory(
    key: jax.Array,
    config: cfg.AlgoConfig,
    *,
    preprocess_fn: Callable | None = None,
    tabulate: bool = False,
) -> MunchausenState:
    """Makes the Q-network, a target network equal to it, and the optimizer.

    Raises:
        ValueError: The actions are not discrete.
    """
    env = config.env_cfg
    qvalue = qvalue_factory(
        env.observation_space,
        discrete(env.action_space, "Munchausen DQN"),
        hidden_sizes=config.algo_params.hidden_sizes,
        preprocess_fn=preprocess_fn,
    )
    inputs = [observation_spec(env.observation_space)]
    return MunchausenState(with_target(key, config, qvalue, inputs, tabulate))


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
    algo = config.algo_params
    actions_of = discrete_actions(config.env_cfg.action_space)

    def process_experience_fn(
        state: MunchausenState, key: jax.Array, experience: Experience
    ) -> Batch:
        target_net = state.qvalue.target_params

        def qvalues_at(observation: Any) -> jax.Array:
            qvalues = state.qvalue.apply_fn(target_net, observation)
            return masked(qvalues, actions_of.allowed(observation))

        index = actions_of.to_index(experience.action)
        targets = compute_munchausen_targets(
            experience.reward,
            # Termination alone ends the sum: a truncated episode has a next value.
            algo.gamma * (1.0 - experience.done.astype(jnp.float32)),
            qvalues_at(experience.observation),
            index,
            qvalues_at(experience.next_observation),
            temperature=algo.temperature,
            scale=algo.scale,
            clip=algo.clip,
        )
        return Batch(experience.observation, index, targets)

    return process_experience_fn


def update_step_factory(config: cfg.AlgoConfig) -> UpdateStepFn:
    """Makes the gradient step on the loss, followed by the target's move."""
    algo = config.algo_params
    loss_of_error = optax.huber_loss if algo.loss == "huber" else optax.l2_loss

    def update_step_fn(
        state: MunchausenState, key: jax.Array, batch: Batch
    ) -> tuple[MunchausenState, Info]:
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


class MunchausenDQN(OffPolicyValueAgent):
    """Munchausen DQN; see the module for what it does and where it departs.

    The arguments are those of `kitae.algos.DQN`, with `algo_params` a
    `MunchausenParams`.

    Example:
        >>> from kitae.algos import MunchausenDQN, MunchausenParams
        >>> MunchausenDQN.params_type is MunchausenParams
        True
    """

    params_type = MunchausenParams
    preset_name = "munchausen"
    factories = (
        train_state_factory,
        explore_factory,
        process_experience_factory,
        update_step_factory,
    )
