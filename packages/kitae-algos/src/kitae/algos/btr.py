"""BTR (Clark et al., "Beyond the Rainbow: deep RL on a desktop PC", 2024).

The four factories, in the order in which an agent is made of them:

- `train_state_factory`: an implicit quantile network (IQN), dueling, with noisy layers;
  for images on an IMPALA network of twice the width, with spectral normalisation and
  adaptive max-pooling; a target network; Adam.
- `explore_factory`: the action of the highest mean quantile under fresh noise, and
  ε-greedy besides.
- `process_experience_factory`: Munchausen targets on quantiles (Vieillard et al., 2020,
  section 4, "M-IQN"): with `π` the softmax of the target network's means,
  `Σ_k γ^k r_{t+k} + scale [temperature ln π(a_t|s_t)]_clip^0
  + γ^n Σ_a π(a|s_{t+n}) (Z_τ'(s_{t+n}, a) - temperature ln π(a|s_{t+n}))`.
- `update_step_factory`: one step on the quantile Huber loss, weighted against the bias
  of the replay's priorities; then the target network moves. The mean absolute errors
  are the new priorities.

Where it departs from the paper: of the n steps of a window, the first alone has a
Munchausen bonus; the fractions of the target also choose `π`; the target moves by
gradient updates; spectral norms are found anew at each pass by a few power iterations
from a fixed start, in place of one from the last; evaluation takes the means of the
noisy weights; and it bootstraps through truncation.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

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
from kitae.algos.munchausen import check_munchausen
from kitae.buffer import Sample, importance_weights
from kitae.modules.actions import discrete_actions
from kitae.modules.images import ImpalaCNN
from kitae.modules.masks import masked
from kitae.modules.observations import observation_spec
from kitae.modules.pytree import AgentPyTree, TrainState
from kitae.modules.quantile import iqn_factory
from kitae.timesteps import (
    compute_munchausen_bonus,
    compute_soft_policy,
    compute_soft_values,
    quantile_huber_loss,
)
from kitae.types import ExploreFn, Info, Params, ProcessExperienceFn, UpdateStepFn


@dataclass(frozen=True)
class BTRParams(PrioritisedParams):
    """Parameters of BTR; see `PrioritisedParams` for those that others have too.

    Attributes:
        n_taus: Fractions in the loss, at least 1.
        n_target_taus: Fractions in a target, at least 1.
        n_policy_taus: Fractions to act by, at least 1.
        n_cosines: Cosines that a fraction is embedded by, at least 1.
        kappa: Up to which error the loss is a square, at least 0, in units of reward.
        temperature: Of the softmax policy, greater than 0, in units of reward.
        scale: How much of the log-policy is added to the reward, in [0, 1].
        clip: The lowest that the scaled log-policy may be, below 0, in units of reward.
        width: Of the image network, in those of IMPALA, at least 1.

    Raises:
        ValueError: A value is out of its range; the field is named.
    """

    gamma: float = 0.997
    exploration_final: float = 0.01
    target_update_period: int = 500
    priority_exponent: float = 0.2
    importance_exponent: float = 0.45
    n_taus: int = 8
    n_target_taus: int = 8
    n_policy_taus: int = 32
    n_cosines: int = 64
    kappa: float = 1.0
    temperature: float = 0.03
    scale: float = 0.9
    clip: float = -1.0
    width: int = 2
    adam_eps: float = 0.005 / 256

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("n_taus", "n_target_taus", "n_policy_taus", "n_cosines", "width"):
            cfg.check_count(name, getattr(self, name))
        cfg.check_number("kappa", self.kappa, 0.0)
        check_munchausen(self.temperature, self.scale, self.clip)


class BTRState(AgentPyTree):
    """What BTR learns: the network, its target and its optimizer."""

    qvalue: TrainState


class Batch(NamedTuple):
    """What an update needs of a batch of experience."""

    observation: Any
    action: jax.Array
    targets: jax.Array
    weight: jax.Array


def train_state_factory(
    key: jax.Array,
    config: cfg.AlgoConfig,
    *,
    preprocess_fn: Callable | None = None,
    tabulate: bool = False,
) -> BTRState:
    """Makes the dueling, noisy quantile network, its target, and the optimizer.

    Raises:
        ValueError: The actions are not discrete.
    """
    env, algo = config.env_cfg, config.algo_params
    qvalue = iqn_factory(
        env.observation_space,
        discrete(env.action_space, "BTR"),
        hidden_sizes=algo.hidden_sizes,
        n_cosines=algo.n_cosines,
        dueling=True,
        noisy=True,
        preprocess_fn=preprocess_fn,
        image_encoder=partial(
            ImpalaCNN, width=algo.width, spectral_norm=True, pool_size=6
        ),
    )
    inputs = [observation_spec(env.observation_space), (algo.n_taus,)]
    return BTRState(with_target(key, config, qvalue, inputs, tabulate))


def explore_factory(config: cfg.AlgoConfig) -> ExploreFn:
    """Makes the policy on mean quantiles, under noise or, `noisy=False`, without."""
    choose = action_chooser(config)
    n_taus = config.algo_params.n_policy_taus

    def explore_fn(
        state: TrainState,
        key: jax.Array,
        observations: Any,
        exploration: jax.Array | float,
        noisy: bool = True,
    ) -> tuple[jax.Array, jax.Array]:
        noise_key, tau_key, action_key = jax.random.split(key, 3)
        rngs = {"noise": noise_key} if noisy else {}
        n_rows = jax.tree.leaves(observations)[0].shape[0]
        taus = jax.random.uniform(tau_key, (n_rows, n_taus), jnp.float32)
        quantiles = state.apply_fn(state.params, observations, taus, rngs=rngs)
        qvalues = quantiles.mean(axis=-2)
        return choose(action_key, qvalues, exploration, observations)

    return explore_fn


def process_experience_factory(config: cfg.AlgoConfig) -> ProcessExperienceFn:
    """Makes the function that turns experience into samples of the soft return."""
    algo = config.algo_params
    actions_of = discrete_actions(config.env_cfg.action_space)

    def process_experience_fn(state: BTRState, key: jax.Array, sample: Sample) -> Batch:
        qvalue, experience = state.qvalue, sample.experience
        keys = jax.random.split(key, 4)
        shape = (*experience.reward.shape, algo.n_target_taus)

        def target_net(
            observation: Any, tau_key: jax.Array, noise_key: jax.Array
        ) -> tuple[jax.Array, jax.Array]:
            taus = jax.random.uniform(tau_key, shape, jnp.float32)
            quantiles = qvalue.apply_fn(
                qvalue.target_params, observation, taus, rngs={"noise": noise_key}
            )
            means = masked(quantiles.mean(axis=-2), actions_of.allowed(observation))
            return quantiles, means

        index = actions_of.to_index(experience.action)
        _, qvalues = target_net(experience.observation, keys[0], keys[1])
        bonus = compute_munchausen_bonus(
            qvalues,
            index,
            temperature=algo.temperature,
            scale=algo.scale,
            clip=algo.clip,
        )
        next_quantiles, means = target_net(
            experience.next_observation, keys[2], keys[3]
        )
        policy = compute_soft_policy(means, temperature=algo.temperature)
        soft_values = compute_soft_values(means, temperature=algo.temperature)
        # What the entropy adds to the mean under the policy.
        entropy = soft_values - jnp.sum(policy * means, axis=-1)
        mixture = jnp.sum(policy[:, None] * next_quantiles, axis=-1)
        # Termination alone ends the sum: a truncated episode still has a next value.
        discounts = sample.discount * (1.0 - experience.done.astype(jnp.float32))
        targets = (experience.reward + bonus)[:, None] + discounts[:, None] * (
            mixture + entropy[:, None]
        )
        beta = importance_exponent(config, qvalue.step)
        weight = importance_weights(sample.importance, beta)
        return Batch(experience.observation, index, targets, weight)

    return process_experience_fn


def update_step_factory(config: cfg.AlgoConfig) -> UpdateStepFn:
    """Makes the gradient step on the quantile loss, followed by the target's move."""
    algo = config.algo_params

    def update_step_fn(
        state: BTRState, key: jax.Array, batch: Batch
    ) -> tuple[BTRState, Info]:
        tau_key, noise_key = jax.random.split(key)
        shape = (*batch.action.shape, algo.n_taus)
        taus = jax.random.uniform(tau_key, shape, jnp.float32)

        def loss_fn(params: Params) -> tuple[jax.Array, jax.Array]:
            quantiles = state.qvalue.apply_fn(
                params, batch.observation, taus, rngs={"noise": noise_key}
            )
            chosen = taken(quantiles, batch.action)
            loss = quantile_huber_loss(chosen, taus, batch.targets, kappa=algo.kappa)
            return jnp.mean(batch.weight * loss), chosen

        (loss, chosen), grads = jax.value_and_grad(loss_fn, has_aux=True)(
            state.qvalue.params
        )
        state.qvalue = learned(state.qvalue, grads, algo)
        errors = batch.targets[:, None, :] - chosen[:, :, None]
        return state, {
            "loss_qvalue": loss,
            "qvalue": jnp.mean(chosen),
            "priorities": jnp.mean(jnp.abs(errors), axis=(1, 2)),
        }

    return update_step_fn


class BTR(NoisyValueAgent):
    """Beyond the Rainbow; see the module for what it does and where it departs.

    The arguments are those of `kitae.algos.DQN`, with `algo_params` a `BTRParams`.

    Example:
        >>> from kitae.algos import BTR, BTRParams
        >>> BTR.params_type is BTRParams
        True
    """

    params_type = BTRParams
    preset_name = "btr"
    factories = (
        train_state_factory,
        explore_factory,
        process_experience_factory,
        update_step_factory,
    )
    make_replay = staticmethod(prioritised)
