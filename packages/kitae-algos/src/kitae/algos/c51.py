"""C51 (Bellemare et al., "A distributional perspective on RL", 2017).

The four factories, in the order in which an agent is made of them:

- `train_state_factory`: a network that gives each action `n_atoms` logits, of the
  probabilities of returns `z_i` from `v_min` to `v_max`; a target network; Adam.
- `explore_factory`: ε-greedy on the means, `Q(s, a) = Σ_i z_i p_i(s, a)`.
- `process_experience_factory`: the distribution of `r + γ (1 - done) z` under
  `p(s', a*)`, `a*` the action of the highest mean, projected back onto the returns
  (Algorithm 1).
- `update_step_factory`: one step on the cross-entropy of that distribution and
  `p(s, a)`, then the target network moves.

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
from kitae.timesteps import compute_categorical_targets
from kitae.types import ExploreFn, Info, Params, ProcessExperienceFn, UpdateStepFn


@dataclass(frozen=True)
class C51Params(ReplayParams):
    """Parameters of C51; see `ReplayParams` for those that others have too.

    Attributes:
        n_atoms: Returns with a probability of their own, at least 2.
        v_min: The lowest of them, in units of reward.
        v_max: The highest. Returns outside are counted as if they were the nearest.

    Raises:
        ValueError: A value is out of its range; the field is named.
    """

    n_atoms: int = 51
    v_min: float = -10.0
    v_max: float = 10.0
    adam_eps: float = 0.01 / 32

    def __post_init__(self) -> None:
        super().__post_init__()
        check_atoms(self.n_atoms, self.v_min, self.v_max)


def check_atoms(n_atoms: int, v_min: float, v_max: float) -> None:
    """Refuses returns that are not at least two in rising order."""
    cfg.check_count("n_atoms", n_atoms, 2)
    cfg.check_number("v_min", v_min)
    cfg.check_number("v_max", v_max, v_min, open_low=True)


def support_of(config: cfg.AlgoConfig) -> jax.Array:
    """Returns the returns that have probabilities, `[n_atoms]` float32."""
    algo = config.algo_params
    return jnp.linspace(algo.v_min, algo.v_max, algo.n_atoms, dtype=jnp.float32)


def mean_of(logits: jax.Array, support: jax.Array) -> jax.Array:
    """Returns the mean returns, `[...]`, of logits `[..., n_atoms]`."""
    return jnp.dot(jax.nn.softmax(logits), support)


class C51State(AgentPyTree):
    """What C51 learns: the network, its target and its optimizer."""

    qvalue: TrainState


class Batch(NamedTuple):
    """What an update needs of a batch of experience."""

    observation: Any
    action: jax.Array
    target_probs: jax.Array


def train_state_factory(
    key: jax.Array,
    config: cfg.AlgoConfig,
    *,
    preprocess_fn: Callable | None = None,
    tabulate: bool = False,
) -> C51State:
    """Makes the network of logits, a target network equal to it, and the optimizer.

    Raises:
        ValueError: The actions are not discrete.
    """
    env = config.env_cfg
    qvalue = qvalue_factory(
        env.observation_space,
        discrete(env.action_space, "C51"),
        hidden_sizes=config.algo_params.hidden_sizes,
        n_atoms=config.algo_params.n_atoms,
        preprocess_fn=preprocess_fn,
    )
    inputs = [observation_spec(env.observation_space)]
    return C51State(with_target(key, config, qvalue, inputs, tabulate))


def explore_factory(config: cfg.AlgoConfig) -> ExploreFn:
    """Makes the ε-greedy policy on mean returns."""
    choose = action_chooser(config)
    support = support_of(config)

    def explore_fn(
        state: TrainState,
        key: jax.Array,
        observations: Any,
        exploration: jax.Array | float,
    ) -> tuple[jax.Array, jax.Array]:
        qvalues = mean_of(state.apply_fn(state.params, observations), support)
        return choose(key, qvalues, exploration, observations)

    return explore_fn


def process_experience_factory(config: cfg.AlgoConfig) -> ProcessExperienceFn:
    """Makes the function that turns experience into target distributions."""
    gamma, support = config.algo_params.gamma, support_of(config)
    actions_of = discrete_actions(config.env_cfg.action_space)

    def process_experience_fn(
        state: C51State, key: jax.Array, experience: Experience
    ) -> Batch:
        qvalue, next_observation = state.qvalue, experience.next_observation
        logits = qvalue.apply_fn(qvalue.target_params, next_observation)
        next_qvalues = masked(
            mean_of(logits, support), actions_of.allowed(next_observation)
        )
        best = jnp.argmax(next_qvalues, axis=-1)
        # Termination alone ends the sum: a truncated episode still has a next value.
        discounts = gamma * (1.0 - experience.done.astype(jnp.float32))
        target_probs = compute_categorical_targets(
            experience.reward,
            discounts,
            jax.nn.softmax(taken(logits, best, axis=-2)),
            support,
        )
        index = actions_of.to_index(experience.action)
        return Batch(experience.observation, index, target_probs)

    return process_experience_fn


def update_step_factory(config: cfg.AlgoConfig) -> UpdateStepFn:
    """Makes the gradient step on the cross-entropy, followed by the target's move."""
    algo, support = config.algo_params, support_of(config)

    def update_step_fn(
        state: C51State, key: jax.Array, batch: Batch
    ) -> tuple[C51State, Info]:
        def loss_fn(params: Params) -> tuple[jax.Array, jax.Array]:
            logits = state.qvalue.apply_fn(params, batch.observation)
            chosen = taken(logits, batch.action, axis=-2)
            cross_entropy = -jnp.sum(
                batch.target_probs * jax.nn.log_softmax(chosen), axis=-1
            )
            return jnp.mean(cross_entropy), jnp.mean(mean_of(chosen, support))

        (loss, qvalue), grads = jax.value_and_grad(loss_fn, has_aux=True)(
            state.qvalue.params
        )
        state.qvalue = learned(state.qvalue, grads, algo)
        return state, {"loss_qvalue": loss, "qvalue": qvalue}

    return update_step_fn


class C51(OffPolicyValueAgent):
    """Categorical DQN; see the module for what it does and where it departs.

    The arguments are those of `kitae.algos.DQN`, with `algo_params` a `C51Params`.

    Example:
        >>> from kitae.algos import C51, C51Params
        >>> C51.params_type is C51Params
        True
    """

    params_type = C51Params
    preset_name = "c51"
    factories = (
        train_state_factory,
        explore_factory,
        process_experience_factory,
        update_step_factory,
    )
