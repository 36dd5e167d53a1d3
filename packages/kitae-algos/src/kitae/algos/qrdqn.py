"""QR-DQN (Dabney et al., "Distributional RL with quantile regression", 2018).

The four factories, in the order in which an agent is made of them:

- `train_state_factory`: a network that gives each action `n_quantiles` quantiles of its
  return, at the fractions `(2 i - 1) / 2 N`; a target network; Adam.
- `explore_factory`: ε-greedy on the means of the quantiles (eq. 3).
- `process_experience_factory`: the quantiles of `r + γ (1 - done) θ(s', a*)`, `a*` the
  action of the highest mean (Algorithm 1).
- `update_step_factory`: one step on the quantile Huber loss (eq. 10) of all pairs of
  quantiles of `θ(s, a)` and of the target, then the target network moves.

Where it departs from the paper: the target moves every `target_update_period` gradient
updates, and by `tau`; rewards are not clipped; and it bootstraps through truncation,
which does not end the task.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

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
from kitae.timesteps import quantile_huber_loss, quantile_midpoints
from kitae.types import ExploreFn, Info, Params, ProcessExperienceFn, UpdateStepFn


@dataclass(frozen=True)
class QRDQNParams(ReplayParams):
    """Parameters of QR-DQN; see `ReplayParams` for those that others have too.

    Attributes:
        n_quantiles: Quantiles of each action's return, at least 1.
        kappa: Up to which error the loss is a square, at least 0, in units of reward;
            0 is plain quantile regression.

    Raises:
        ValueError: A value is out of its range; the field is named.
    """

    n_quantiles: int = 200
    kappa: float = 1.0
    adam_eps: float = 0.01 / 32

    def __post_init__(self) -> None:
        super().__post_init__()
        cfg.check_count("n_quantiles", self.n_quantiles)
        cfg.check_number("kappa", self.kappa, 0.0)


class QRDQNState(AgentPyTree):
    """What QR-DQN learns: the network, its target and its optimizer."""

    qvalue: TrainState


class Batch(NamedTuple):
    """What an update needs of a batch of experience."""

    observation: Any
    action: jax.Array
    targets: jax.Array


def train_state_factory(
    key: jax.Array,
    config: cfg.AlgoConfig,
    *,
    preprocess_fn: Callable | None = None,
    tabulate: bool = False,
) -> QRDQNState:
    """Makes the network of quantiles, a target network equal to it, and the optimizer.

    Raises:
        ValueError: The actions are not discrete.
    """
    env = config.env_cfg
    qvalue = qvalue_factory(
        env.observation_space,
        discrete(env.action_space, "QR-DQN"),
        hidden_sizes=config.algo_params.hidden_sizes,
        n_atoms=config.algo_params.n_quantiles,
        preprocess_fn=preprocess_fn,
    )
    inputs = [observation_spec(env.observation_space)]
    return QRDQNState(with_target(key, config, qvalue, inputs, tabulate))


def explore_factory(config: cfg.AlgoConfig) -> ExploreFn:
    """Makes the ε-greedy policy on mean returns."""
    choose = action_chooser(config)

    def explore_fn(
        state: TrainState,
        key: jax.Array,
        observations: Any,
        exploration: jax.Array | float,
    ) -> tuple[jax.Array, jax.Array]:
        qvalues = state.apply_fn(state.params, observations).mean(axis=-1)
        return choose(key, qvalues, exploration, observations)

    return explore_fn


def process_experience_factory(config: cfg.AlgoConfig) -> ProcessExperienceFn:
    """Makes the function that turns experience into target quantiles."""
    gamma = config.algo_params.gamma
    actions_of = discrete_actions(config.env_cfg.action_space)

    def process_experience_fn(
        state: QRDQNState, key: jax.Array, experience: Experience
    ) -> Batch:
        qvalue, next_observation = state.qvalue, experience.next_observation
        quantiles = qvalue.apply_fn(qvalue.target_params, next_observation)
        next_qvalues = masked(
            quantiles.mean(axis=-1), actions_of.allowed(next_observation)
        )
        best = jnp.argmax(next_qvalues, axis=-1)
        # Termination alone ends the sum: a truncated episode still has a next value.
        discounts = gamma * (1.0 - experience.done.astype(jnp.float32))
        next_quantiles = taken(quantiles, best, axis=-2)
        targets = experience.reward[:, None] + discounts[:, None] * next_quantiles
        index = actions_of.to_index(experience.action)
        return Batch(experience.observation, index, targets)

    return process_experience_fn


def update_step_factory(config: cfg.AlgoConfig) -> UpdateStepFn:
    """Makes the gradient step on the quantile loss, followed by the target's move."""
    algo = config.algo_params
    fractions = quantile_midpoints(algo.n_quantiles)

    def update_step_fn(
        state: QRDQNState, key: jax.Array, batch: Batch
    ) -> tuple[QRDQNState, Info]:
        def loss_fn(params: Params) -> tuple[jax.Array, jax.Array]:
            quantiles = state.qvalue.apply_fn(params, batch.observation)
            chosen = taken(quantiles, batch.action, axis=-2)
            loss = quantile_huber_loss(
                chosen, fractions, batch.targets, kappa=algo.kappa
            )
            return jnp.mean(loss), jnp.mean(chosen)

        (loss, qvalue), grads = jax.value_and_grad(loss_fn, has_aux=True)(
            state.qvalue.params
        )
        state.qvalue = learned(state.qvalue, grads, algo)
        return state, {"loss_qvalue": loss, "qvalue": qvalue}

    return update_step_fn


class QRDQN(OffPolicyValueAgent):
    """Quantile-regression DQN; see the module for what it does and where it departs.

    The arguments are those of `kitae.algos.DQN`, with `algo_params` a `QRDQNParams`.

    Example:
        >>> from kitae.algos import QRDQN, QRDQNParams
        >>> QRDQN.params_type is QRDQNParams
        True
    """

    params_type = QRDQNParams
    preset_name = "qrdqn"
    factories = (
        train_state_factory,
        explore_factory,
        process_experience_factory,
        update_step_factory,
    )
