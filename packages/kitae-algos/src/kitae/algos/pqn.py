"""PQN (Gallici et al., "Simplifying deep temporal difference learning", 2024).

No replay and no target network: many environments side by side, and layers that are
normalised, take their place. The four factories, in the order in which an agent is made
of them:

- `train_state_factory`: a Q-network with LayerNorm (section 3); RAdam.
- `explore_factory`: ε-greedy actions, one coin per environment.
- `process_experience_factory`: the λ-returns of a whole rollout, backwards in time,
  `G_t = r_t + γ (1 - done) ((1 - λ) max_a Q(s_{t+1}, a) + λ G_{t+1})` (Algorithm 1).
- `update_step_factory`: one step on half the mean squared error of `Q(s, a) - G`; the
  agent makes `n_epochs` passes over the rollout in batches of `batch_size`.

`max_buffer_size` is the length of a rollout. Where it departs from the paper: an
episode that is truncated bootstraps from its final observation; and a rollout ends
where the environments are reset anew.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import kitae.config as cfg
from kitae.algos._agent import OnPolicyValueAgent
from kitae.algos._params import EpsilonGreedyParams
from kitae.algos._shared import (
    action_chooser,
    discrete,
    taken,
)
from kitae.buffer import Experience
from kitae.modules.actions import discrete_actions
from kitae.modules.masks import masked
from kitae.modules.modules import init_params
from kitae.modules.observations import observation_spec
from kitae.modules.optimizer import make_optimizer
from kitae.modules.pytree import AgentPyTree, TrainState
from kitae.modules.qvalue import qvalue_factory
from kitae.timesteps import compute_q_lambda_targets
from kitae.types import ExploreFn, Info, Params, ProcessExperienceFn, UpdateStepFn


@dataclass(frozen=True)
class PQNParams(EpsilonGreedyParams):
    """Parameters of PQN; see `EpsilonGreedyParams` for those that others have too.

    Attributes:
        lambda_: How far returns reach, in [0, 1]: 0 is one step, 1 the whole rollout.

    Raises:
        ValueError: A value is out of its range; the field is named.
    """

    lambda_: float = 0.65

    def __post_init__(self) -> None:
        super().__post_init__()
        cfg.check_number("lambda_", self.lambda_, 0.0, 1.0)


class PQNState(AgentPyTree):
    """What PQN learns: the Q-network and its optimizer."""

    qvalue: TrainState


class Batch(NamedTuple):
    """What an update needs of experience."""

    observation: Any
    action: jax.Array
    target: jax.Array


def train_state_factory(
    key: jax.Array,
    config: cfg.AlgoConfig,
    *,
    preprocess_fn: Callable | None = None,
    tabulate: bool = False,
) -> PQNState:
    """Makes the normalised Q-network and the optimizer.

    Raises:
        ValueError: The actions are not discrete.
    """
    env, update = config.env_cfg, config.update_cfg
    qvalue = qvalue_factory(
        env.observation_space,
        discrete(env.action_space, "PQN"),
        hidden_sizes=config.algo_params.hidden_sizes,
        layer_norm=True,
        preprocess_fn=preprocess_fn,
    )
    n_updates = cfg.on_policy_updates(config)
    return PQNState(
        TrainState.create(
            apply_fn=qvalue.apply,
            params=init_params(
                key, qvalue, [observation_spec(env.observation_space)], tabulate
            ),
            tx=make_optimizer(
                update.learning_rate,
                annealing_steps=n_updates if update.learning_rate_annealing else None,
                max_grad_norm=update.max_grad_norm,
                kind="radam",
            ),
        )
    )


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
    """Makes the function that turns a rollout into regression targets."""
    algo = config.algo_params
    actions_of = discrete_actions(config.env_cfg.action_space)

    def process_experience_fn(
        state: PQNState, key: jax.Array, experience: Experience
    ) -> Batch:
        qvalue, next_observation = state.qvalue, experience.next_observation
        next_qvalues = qvalue.apply_fn(qvalue.params, next_observation)
        targets = compute_q_lambda_targets(
            experience.reward,
            # Termination alone ends the sum: a truncated episode has a next value.
            algo.gamma * (1.0 - experience.done.astype(jnp.float32)),
            masked(next_qvalues, actions_of.allowed(next_observation)),
            algo.lambda_,
            ends=experience.done | experience.truncated,
        )
        index = actions_of.to_index(experience.action)
        return Batch(experience.observation, index, targets)

    return process_experience_fn


def update_step_factory(config: cfg.AlgoConfig) -> UpdateStepFn:
    """Makes the gradient step on the squared error."""

    def update_step_fn(
        state: PQNState, key: jax.Array, batch: Batch
    ) -> tuple[PQNState, Info]:
        def loss_fn(params: Params) -> tuple[jax.Array, jax.Array]:
            qvalues = state.qvalue.apply_fn(params, batch.observation)
            chosen = taken(qvalues, batch.action)
            return 0.5 * jnp.mean((chosen - batch.target) ** 2), jnp.mean(chosen)

        (loss, qvalue), grads = jax.value_and_grad(loss_fn, has_aux=True)(
            state.qvalue.params
        )
        state.qvalue = state.qvalue.apply_gradients(grads=grads)
        return state, {"loss_qvalue": loss, "qvalue": qvalue}

    return update_step_fn


class PQN(OnPolicyValueAgent):
    """Parallelised Q-network; see the module for what it does and where it departs.

    The arguments are those of `kitae.algos.DQN`, with `algo_params` a `PQNParams`.

    Example:
        >>> from kitae.algos import PQN, PQNParams
        >>> PQN.params_type is PQNParams
        True
    """

    params_type = PQNParams
    preset_name = "pqn"
    factories = (
        train_state_factory,
        explore_factory,
        process_experience_factory,
        update_step_factory,
    )
