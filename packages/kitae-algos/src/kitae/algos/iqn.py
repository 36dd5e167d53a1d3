"""IQN (Dabney et al., "Implicit quantile networks for distributional RL", 2018).

The four factories, in the order in which an agent is made of them:

- `train_state_factory`: a network that gives each action the quantile of its return at
  any fraction `τ`, which it embeds by cosines (eq. 4); a target network; Adam.
- `explore_factory`: ε-greedy on the means of `n_policy_taus` quantiles at fractions
  drawn uniformly (eq. 3's policy).
- `process_experience_factory`: `r + γ (1 - done) Z_τ'(s', a*)` at `n_target_taus`
  fractions, `a*` the action of the highest mean.
- `update_step_factory`: one step on the quantile Huber loss (eq. 3) of all pairs of
  `n_taus` quantiles `Z_τ(s, a)` and the targets, then the target network moves.

Where it departs from the paper: the fractions that choose `a*` are those of the
targets, so the target network runs once; the target moves every `target_update_period`
gradient updates, and by `tau`; rewards are not clipped; and it bootstraps through
truncation, which does not end the task.
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
from kitae.modules.quantile import iqn_factory
from kitae.timesteps import quantile_huber_loss
from kitae.types import ExploreFn, Info, Params, ProcessExperienceFn, UpdateStepFn


@dataclass(frozen=True)
class IQNParams(ReplayParams):
    """Parameters of IQN; see `ReplayParams` for those that others have too.

    Attributes:
        n_taus: Fractions in the loss, N in the paper, at least 1.
        n_target_taus: Fractions in a target, N', at least 1.
        n_policy_taus: Fractions to act by, K, at least 1.
        n_cosines: Cosines that a fraction is embedded by, at least 1.
        kappa: Up to which error the loss is a square, at least 0, in units of reward;
            0 is plain quantile regression.

    Raises:
        ValueError: A value is out of its range; the field is named.
    """

    n_taus: int = 64
    n_target_taus: int = 64
    n_policy_taus: int = 32
    n_cosines: int = 64
    kappa: float = 1.0
    adam_eps: float = 0.01 / 32

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("n_taus", "n_target_taus", "n_policy_taus", "n_cosines"):
            cfg.check_count(name, getattr(self, name))
        cfg.check_number("kappa", self.kappa, 0.0)


class IQNState(AgentPyTree):
    """What IQN learns: the network, its target and its optimizer."""

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
) -> IQNState:
    """Makes the implicit quantile network, a target network equal to it, and Adam.

    Raises:
        ValueError: The actions are not discrete.
    """
    env, algo = config.env_cfg, config.algo_params
    qvalue = iqn_factory(
        env.observation_space,
        discrete(env.action_space, "IQN"),
        hidden_sizes=algo.hidden_sizes,
        n_cosines=algo.n_cosines,
        preprocess_fn=preprocess_fn,
    )
    inputs = [observation_spec(env.observation_space), (algo.n_taus,)]
    return IQNState(with_target(key, config, qvalue, inputs, tabulate))


def explore_factory(config: cfg.AlgoConfig) -> ExploreFn:
    """Makes the ε-greedy policy on means over random fractions."""
    choose = action_chooser(config)
    n_taus = config.algo_params.n_policy_taus

    def explore_fn(
        state: TrainState,
        key: jax.Array,
        observations: Any,
        exploration: jax.Array | float,
    ) -> tuple[jax.Array, jax.Array]:
        tau_key, action_key = jax.random.split(key)
        n_rows = jax.tree.leaves(observations)[0].shape[0]
        taus = jax.random.uniform(tau_key, (n_rows, n_taus), jnp.float32)
        qvalues = state.apply_fn(state.params, observations, taus).mean(axis=-2)
        return choose(action_key, qvalues, exploration, observations)

    return explore_fn


def process_experience_factory(config: cfg.AlgoConfig) -> ProcessExperienceFn:
    """Makes the function that turns experience into samples of the target's return."""
    algo = config.algo_params
    actions_of = discrete_actions(config.env_cfg.action_space)

    def process_experience_fn(
        state: IQNState, key: jax.Array, experience: Experience
    ) -> Batch:
        qvalue, next_observation = state.qvalue, experience.next_observation
        shape = (*experience.reward.shape, algo.n_target_taus)
        taus = jax.random.uniform(key, shape, jnp.float32)
        quantiles = qvalue.apply_fn(qvalue.target_params, next_observation, taus)
        next_qvalues = masked(
            quantiles.mean(axis=-2), actions_of.allowed(next_observation)
        )
        best = jnp.argmax(next_qvalues, axis=-1)
        # Termination alone ends the sum: a truncated episode still has a next value.
        discounts = algo.gamma * (1.0 - experience.done.astype(jnp.float32))
        next_quantiles = taken(quantiles, best)
        targets = experience.reward[:, None] + discounts[:, None] * next_quantiles
        index = actions_of.to_index(experience.action)
        return Batch(experience.observation, index, targets)

    return process_experience_fn


def update_step_factory(config: cfg.AlgoConfig) -> UpdateStepFn:
    """Makes the gradient step on the quantile loss, followed by the target's move."""
    algo = config.algo_params

    def update_step_fn(
        state: IQNState, key: jax.Array, batch: Batch
    ) -> tuple[IQNState, Info]:
        shape = (*batch.action.shape, algo.n_taus)
        taus = jax.random.uniform(key, shape, jnp.float32)

        def loss_fn(params: Params) -> tuple[jax.Array, jax.Array]:
            quantiles = state.qvalue.apply_fn(params, batch.observation, taus)
            chosen = taken(quantiles, batch.action)
            loss = quantile_huber_loss(chosen, taus, batch.targets, kappa=algo.kappa)
            return jnp.mean(loss), jnp.mean(chosen)

        (loss, qvalue), grads = jax.value_and_grad(loss_fn, has_aux=True)(
            state.qvalue.params
        )
        state.qvalue = learned(state.qvalue, grads, algo)
        return state, {"loss_qvalue": loss, "qvalue": qvalue}

    return update_step_fn


class IQN(OffPolicyValueAgent):
    """Implicit quantile network; see the module for what it does.

    The arguments are those of `kitae.algos.DQN`, with `algo_params` an `IQNParams`.

    Example:
        >>> from kitae.algos import IQN, IQNParams
        >>> IQN.params_type is IQNParams
        True
    """

    params_type = IQNParams
    preset_name = "iqn"
    factories = (
        train_state_factory,
        explore_factory,
        process_experience_factory,
        update_step_factory,
    )
