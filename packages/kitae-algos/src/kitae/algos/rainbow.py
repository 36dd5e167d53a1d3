"""Rainbow (Hessel et al., "Rainbow: combining improvements in deep RL", 2018).

The four factories, in the order in which an agent is made of them:

- `train_state_factory`: a network of logits as in C51, dueling (Wang et al., 2016) and
  with noisy layers (Fortunato et al., 2018); a target network; Adam.
- `explore_factory`: the action of the highest mean under fresh noise, one sample for
  all environments; ε-greedy besides, if `exploration_initial` and `_final` say so.
- `process_experience_factory`: the distribution of `Σ_k γ^k r_{t+k} + γ^n z` under
  `p_target(s_{t+n}, a*)`, `a*` the action that the network itself finds best (double
  Q-learning, van Hasselt et al., 2016), projected (section "Multi-step learning").
- `update_step_factory`: one step on the Kullback-Leibler divergence of `p(s, a)` from
  that distribution, weighted against the bias of the replay's priorities (Schaul et
  al., 2016); then the target network moves. The divergences are the new priorities.

Where it departs from the paper: the target moves every `target_update_period` gradient
updates, and by `tau`; windows of n steps are cut short, with the discount of their real
length, at the newest transition as well as at the end of an episode; it bootstraps
through truncation; and evaluation takes the means of the noisy weights.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import xlogy

import kitae.config as cfg
from kitae.algos._agent import NoisyValueAgent
from kitae.algos._params import PrioritisedParams
from kitae.algos._shared import (
    action_chooser,
    discrete,
    importance_exponent,
    learned,
    prioritised,
    taken,
    with_target,
)
from kitae.algos.c51 import check_atoms, mean_of, support_of
from kitae.buffer import Sample, importance_weights
from kitae.modules.actions import discrete_actions
from kitae.modules.masks import masked
from kitae.modules.observations import observation_spec
from kitae.modules.pytree import AgentPyTree, TrainState
from kitae.modules.qvalue import qvalue_factory
from kitae.timesteps import compute_categorical_targets
from kitae.types import ExploreFn, Info, Params, ProcessExperienceFn, UpdateStepFn


@dataclass(frozen=True)
class RainbowParams(PrioritisedParams):
    """Parameters of Rainbow; see `PrioritisedParams` for those that others have too.

    Attributes:
        n_atoms: Returns with a probability of their own, at least 2.
        v_min: The lowest of them, in units of reward.
        v_max: The highest. Returns outside are counted as if they were the nearest.

    Raises:
        ValueError: A value is out of its range; the field is named.
    """

    exploration_initial: float = 0.0
    exploration_final: float = 0.0
    n_atoms: int = 51
    v_min: float = -10.0
    v_max: float = 10.0
    adam_eps: float = 1.5e-4

    def __post_init__(self) -> None:
        super().__post_init__()
        check_atoms(self.n_atoms, self.v_min, self.v_max)


class RainbowState(AgentPyTree):
    """What Rainbow learns: the network, its target and its optimizer."""

    qvalue: TrainState


class Batch(NamedTuple):
    """What an update needs of a batch of experience."""

    observation: Any
    action: jax.Array
    target_probs: jax.Array
    weight: jax.Array


def train_state_factory(
    key: jax.Array,
    config: cfg.AlgoConfig,
    *,
    preprocess_fn: Callable | None = None,
    tabulate: bool = False,
) -> RainbowState:
    """Makes the dueling, noisy network of logits, its target, and the optimizer.

    Raises:
        ValueError: The actions are not discrete.
    """
    env = config.env_cfg
    qvalue = qvalue_factory(
        env.observation_space,
        discrete(env.action_space, "Rainbow"),
        hidden_sizes=config.algo_params.hidden_sizes,
        n_atoms=config.algo_params.n_atoms,
        dueling=True,
        noisy=True,
        preprocess_fn=preprocess_fn,
    )
    inputs = [observation_spec(env.observation_space)]
    return RainbowState(with_target(key, config, qvalue, inputs, tabulate))


def explore_factory(config: cfg.AlgoConfig) -> ExploreFn:
    """Makes the policy on mean returns, under noise or, with `noisy=False`, without."""
    choose = action_chooser(config)
    support = support_of(config)

    def explore_fn(
        state: TrainState,
        key: jax.Array,
        observations: Any,
        exploration: jax.Array | float,
        noisy: bool = True,
    ) -> tuple[jax.Array, jax.Array]:
        noise_key, action_key = jax.random.split(key)
        rngs = {"noise": noise_key} if noisy else {}
        logits = state.apply_fn(state.params, observations, rngs=rngs)
        qvalues = mean_of(logits, support)
        return choose(action_key, qvalues, exploration, observations)

    return explore_fn


def process_experience_factory(config: cfg.AlgoConfig) -> ProcessExperienceFn:
    """Makes the function that turns experience into target distributions."""
    support = support_of(config)
    actions_of = discrete_actions(config.env_cfg.action_space)

    def process_experience_fn(
        state: RainbowState, key: jax.Array, sample: Sample
    ) -> Batch:
        qvalue, experience = state.qvalue, sample.experience
        next_observation = experience.next_observation
        online_key, target_key = jax.random.split(key)
        online = qvalue.apply_fn(
            qvalue.params, next_observation, rngs={"noise": online_key}
        )
        next_qvalues = masked(
            mean_of(online, support), actions_of.allowed(next_observation)
        )
        best = jnp.argmax(next_qvalues, axis=-1)
        target = qvalue.apply_fn(
            qvalue.target_params, next_observation, rngs={"noise": target_key}
        )
        # Termination alone ends the sum: a truncated episode still has a next value.
        target_probs = compute_categorical_targets(
            experience.reward,
            sample.discount * (1.0 - experience.done.astype(jnp.float32)),
            jax.nn.softmax(taken(target, best, axis=-2)),
            support,
        )
        beta = importance_exponent(config, qvalue.step)
        weight = importance_weights(sample.importance, beta)
        index = actions_of.to_index(experience.action)
        return Batch(experience.observation, index, target_probs, weight)

    return process_experience_fn


def update_step_factory(config: cfg.AlgoConfig) -> UpdateStepFn:
    """Makes the gradient step on the divergence, followed by the target's move."""
    algo, support = config.algo_params, support_of(config)

    def update_step_fn(
        state: RainbowState, key: jax.Array, batch: Batch
    ) -> tuple[RainbowState, Info]:
        def loss_fn(params: Params) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
            logits = state.qvalue.apply_fn(
                params, batch.observation, rngs={"noise": key}
            )
            chosen = taken(logits, batch.action, axis=-2)
            log_probs, target = jax.nn.log_softmax(chosen), batch.target_probs
            divergence = jnp.sum(xlogy(target, target) - target * log_probs, axis=-1)
            qvalue = jnp.mean(mean_of(chosen, support))
            return jnp.mean(batch.weight * divergence), (divergence, qvalue)

        (loss, (divergence, qvalue)), grads = jax.value_and_grad(loss_fn, has_aux=True)(
            state.qvalue.params
        )
        state.qvalue = learned(state.qvalue, grads, algo)
        info = {"loss_qvalue": loss, "qvalue": qvalue, "priorities": divergence}
        return state, info

    return update_step_fn


class Rainbow(NoisyValueAgent):
    """Rainbow; see the module for what it does and where it departs.

    The arguments are those of `kitae.algos.DQN`, with `algo_params` a `RainbowParams`.

    Example:
        >>> from kitae.algos import Rainbow, RainbowParams
        >>> Rainbow.params_type is RainbowParams
        True
    """

    params_type = RainbowParams
    preset_name = "rainbow"
    factories = (
        train_state_factory,
        explore_factory,
        process_experience_factory,
        update_step_factory,
    )
    make_replay = staticmethod(prioritised)
