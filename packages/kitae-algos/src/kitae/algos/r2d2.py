"""R2D2 (Kapturowski et al., "Recurrent experience replay in distributed RL", 2019).

The four factories, in the order in which an agent is made of them:

- `train_state_factory`: a Q-network with an LSTM, dueling; a target network; Adam.
- `explore_factory`: ε-greedy actions; what the LSTM remembers goes from step to step,
  and is stored with each transition.
- `process_experience_factory`: of sequences of `sequence_length` transitions, the first
  `burn_in` only bring the LSTM's stored state up to date (section 3, "stored state" and
  "burn-in"). For the others, n-step double-Q targets
  `h(Σ_k γ^k r_{t+k} + γ^n h^-1(Q_target(s_{t+n}, a*)))`, `h` the signed hyperbolic
  rescaling (section 2.3).
- `update_step_factory`: one step on half the squared errors of whole sequences,
  weighted against the bias of the replay's priorities; then the target network moves.
  `η max_t |δ_t| + (1 - η) mean_t |δ_t|` are the new priorities.

`batch_size` counts sequences. Where it departs from the paper: one agent in place of
many distributed actors; a sequence may start at any step and run over the end of an
episode, where the LSTM is reset; each target's bootstrap takes one step of the LSTM
from the state before it, so that a truncated episode has its own final observation;
targets near the end of a sequence look fewer steps ahead; and the network does not
see the last action and reward.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import kitae.config as cfg
from kitae.algos._agent import OffPolicyValueAgent
from kitae.algos._params import PrioritisedParams
from kitae.algos._shared import (
    action_chooser,
    discrete,
    importance_exponent,
    learned,
    taken,
    with_target,
)
from kitae.buffer import (
    Replay,
    SequenceSample,
    importance_weights,
    sequence_replay,
)
from kitae.modules.actions import discrete_actions
from kitae.modules.masks import masked
from kitae.modules.observations import observation_spec
from kitae.modules.pytree import AgentPyTree, TrainState
from kitae.modules.recurrent import recurrent_qvalue_factory
from kitae.timesteps import (
    compute_n_step_targets,
    signed_hyperbolic,
    signed_parabolic,
)
from kitae.types import ExploreFn, Info, Params, ProcessExperienceFn, UpdateStepFn


@dataclass(frozen=True)
class R2D2Params(PrioritisedParams):
    """Parameters of R2D2; see `PrioritisedParams` for those that others have too.

    Attributes:
        sequence_length: Transitions in a sequence, those of the burn-in included, more
            than `burn_in`.
        burn_in: The first of them, from which nothing is learned, at least 0.
        hidden_size: Units of the LSTM, at least 1.
        head_sizes: Units of each hidden layer after it.
        max_weight: Of the largest error in a sequence's priority, in [0, 1]; the rest
            is that of their mean. η in the paper.
        rescale: Whether values are rescaled by the signed hyperbolic function, for
            rewards that are not clipped.

    Raises:
        ValueError: A value is out of its range; the field is named.
    """

    gamma: float = 0.997
    n_steps: int = 5
    priority_exponent: float = 0.9
    importance_exponent: float = 0.6
    sequence_length: int = 40
    burn_in: int = 10
    hidden_size: int = 128
    head_sizes: tuple[int, ...] = (128,)
    max_weight: float = 0.9
    rescale: bool = True
    adam_eps: float = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        cfg.check_count("burn_in", self.burn_in, 0)
        cfg.check_count("sequence_length", self.sequence_length, self.burn_in + 1)
        cfg.check_count("hidden_size", self.hidden_size)
        for size in self.head_sizes:
            cfg.check_count("head_sizes", size)
        cfg.check_number("max_weight", self.max_weight, 0.0, 1.0)
        cfg.check_flag("rescale", self.rescale)
        if self.frame_stack is not None:
            raise ValueError(
                "frame_stack is not for R2D2, whose LSTM remembers what it saw: got "
                f"{self.frame_stack}"
            )


class R2D2State(AgentPyTree):
    """What R2D2 learns: the network, its target and its optimizer."""

    qvalue: TrainState


class Batch(NamedTuple):
    """What an update needs of a batch of sequences, after their burn-in."""

    hidden_state: Any
    observation: Any
    first: jax.Array
    action: jax.Array
    target: jax.Array
    weight: jax.Array


def train_state_factory(
    key: jax.Array,
    config: cfg.AlgoConfig,
    *,
    preprocess_fn: Callable | None = None,
    tabulate: bool = False,
) -> R2D2State:
    """Makes the recurrent Q-network, a target network equal to it, and the optimizer.

    Raises:
        ValueError: The actions are not discrete.
    """
    env, algo = config.env_cfg, config.algo_params
    qvalue = recurrent_qvalue_factory(
        env.observation_space,
        discrete(env.action_space, "R2D2"),
        hidden_sizes=algo.hidden_sizes,
        hidden_size=algo.hidden_size,
        head_sizes=algo.head_sizes,
        dueling=True,
        preprocess_fn=preprocess_fn,
    )
    cell = jax.ShapeDtypeStruct((algo.hidden_size,), jnp.float32)
    first = jax.ShapeDtypeStruct((), bool)
    inputs = [(cell, cell), observation_spec(env.observation_space), first]
    return R2D2State(with_target(key, config, qvalue, inputs, tabulate))


def explore_factory(config: cfg.AlgoConfig) -> ExploreFn:
    """Makes the ε-greedy policy; it also returns what the LSTM remembers now."""
    choose = action_chooser(config)

    def explore_fn(
        state: TrainState,
        key: jax.Array,
        observations: Any,
        hidden_state: Any,
        exploration: jax.Array | float,
    ) -> Any:
        n_rows = hidden_state[0].shape[0]
        # Where an episode begins, the hidden state is the initial one already.
        hidden_state, qvalues = state.apply_fn(
            state.params, hidden_state, observations, jnp.zeros(n_rows, bool)
        )
        return *choose(key, qvalues, exploration, observations), hidden_state

    return explore_fn


def process_experience_factory(config: cfg.AlgoConfig) -> ProcessExperienceFn:
    """Makes the function that burns in, and turns sequences into targets."""
    algo = config.algo_params
    actions_of = discrete_actions(config.env_cfg.action_space)
    rescaled = signed_hyperbolic if algo.rescale else lambda x: x
    unscaled = signed_parabolic if algo.rescale else lambda x: x

    def process_experience_fn(
        state: R2D2State, key: jax.Array, sample: SequenceSample
    ) -> Batch:
        qvalue, experience = state.qvalue, sample.experience
        stored = jax.tree.map(lambda leaf: leaf[:, 0], experience.hidden_state)
        unroll = partial(qvalue.apply_fn, method="unroll")
        early = times((experience.observation, sample.first), 0, algo.burn_in)
        late = times((experience, sample.first), algo.burn_in, algo.sequence_length)
        experience, first = late

        def next_qvalues(params: Params) -> tuple[Any, jax.Array]:
            """Returns the state after the burn-in, and values of what comes next."""
            hidden_state = stored
            if algo.burn_in:
                hidden_states, _ = unroll(params, stored, *early)
                hidden_state = jax.tree.map(lambda leaf: leaf[:, -1], hidden_states)
            after, _ = unroll(params, hidden_state, experience.observation, first)
            going_on = jnp.zeros_like(first)
            _, qvalues = qvalue.apply_fn(
                params, after, experience.next_observation, going_on
            )
            return hidden_state, qvalues

        allowed = actions_of.allowed(experience.next_observation)
        hidden_state, selector = next_qvalues(qvalue.params)
        _, target_qvalues = next_qvalues(qvalue.target_params)
        best = jnp.argmax(masked(selector, allowed), axis=-1)
        next_values = jnp.take_along_axis(target_qvalues, best[..., None], axis=-1)
        # Termination alone ends the sum: a truncated episode still has a next value.
        discounts = algo.gamma * (1.0 - experience.done.astype(jnp.float32))
        targets = compute_n_step_targets(
            experience.reward.T,
            discounts.T,
            unscaled(next_values[..., 0]).T,
            algo.n_steps,
            ends=(experience.done | experience.truncated).T,
        )
        beta = importance_exponent(config, qvalue.step)
        return Batch(
            hidden_state=hidden_state,
            observation=experience.observation,
            first=first,
            action=actions_of.to_index(experience.action),
            target=rescaled(targets.T),
            weight=importance_weights(sample.importance, beta),
        )

    return process_experience_fn


def times(sequences: Any, start: int, end: int) -> Any:
    """Cuts the times from `start` to before `end` out of `[batch_size, time, ...]`."""
    return jax.tree.map(lambda leaf: leaf[:, start:end], sequences)


def update_step_factory(config: cfg.AlgoConfig) -> UpdateStepFn:
    """Makes the gradient step on sequences, followed by the target's move."""
    algo = config.algo_params

    def update_step_fn(
        state: R2D2State, key: jax.Array, batch: Batch
    ) -> tuple[R2D2State, Info]:
        def loss_fn(params: Params) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
            _, qvalues = state.qvalue.apply_fn(
                params,
                batch.hidden_state,
                batch.observation,
                batch.first,
                method="unroll",
            )
            # Sequences one after the other: what is taken has one axis of rows.
            chosen = taken(
                qvalues.reshape(-1, qvalues.shape[-1]), batch.action.reshape(-1)
            ).reshape(batch.action.shape)
            errors = batch.target - chosen
            losses = 0.5 * jnp.mean(errors**2, axis=-1)
            return jnp.mean(batch.weight * losses), (errors, jnp.mean(chosen))

        (loss, (errors, qvalue)), grads = jax.value_and_grad(loss_fn, has_aux=True)(
            state.qvalue.params
        )
        state.qvalue = learned(state.qvalue, grads, algo)
        errors = jnp.abs(errors)
        largest, mean = jnp.max(errors, axis=-1), jnp.mean(errors, axis=-1)
        priorities = algo.max_weight * largest + (1.0 - algo.max_weight) * mean
        return state, {"loss_qvalue": loss, "qvalue": qvalue, "priorities": priorities}

    return update_step_fn


def make_replay(config: cfg.AlgoConfig, n_envs: int, batch_size: int) -> Replay:
    """Makes a replay of sequences, drawn by their priorities."""
    return sequence_replay(
        config.update_cfg.max_buffer_size,
        n_envs,
        batch_size,
        config.algo_params.sequence_length,
        exponent=config.algo_params.priority_exponent,
    )


class R2D2(OffPolicyValueAgent):
    """Recurrent replay DQN; see the module for what it does and where it departs.

    The arguments are those of `kitae.algos.DQN`, with `algo_params` an `R2D2Params`.

    Raises:
        ValueError: As for `DQN`; or updates would begin before there is a sequence to
            learn from.

    Example:
        >>> from kitae.algos import R2D2, R2D2Params
        >>> R2D2.params_type is R2D2Params
        True
    """

    params_type = R2D2Params
    preset_name = "r2d2"
    factories = (
        train_state_factory,
        explore_factory,
        process_experience_factory,
        update_step_factory,
    )
    make_replay = staticmethod(make_replay)

    def check_config(self, config: cfg.AlgoConfig) -> None:
        """Refuses a config that can never update, or never has a sequence."""
        super().check_config(config)
        # Of several agents one may leave: as many steps fill somebody's sequence.
        length, n_rows = config.algo_params.sequence_length, config.env_cfg.n_rows
        if config.update_cfg.max_buffer_size < length:
            raise ValueError(
                f"max_buffer_size = {config.update_cfg.max_buffer_size} time steps "
                f"never hold a sequence of sequence_length = {length}"
            )
        if config.start_step < length * n_rows:
            raise ValueError(
                f"start_step = {config.start_step} must be at least sequence_length * "
                f"n_envs * n_agents = {length} * {n_rows} = {length * n_rows}, when "
                "there is a first sequence"
            )

    def initial_hidden_state(self, n_envs: int) -> Any:
        """Returns the LSTM's state when an episode begins: zeros."""
        shape = (n_envs, self.config.algo_params.hidden_size)
        return jnp.zeros(shape, jnp.float32), jnp.zeros(shape, jnp.float32)

    def explore(self, observation: Any) -> tuple[jax.Array, jax.Array]:
        """Returns ε-greedy actions, ε by the environment steps so far."""
        return self._act_by(observation, self.exploration(self.step))

    def select_action(self, observation: Any) -> tuple[jax.Array, jax.Array]:
        """Returns the actions of the highest value, the first of equals."""
        return self._act_by(observation, 0.0)

    def _act_by(
        self, observation: Any, exploration: jax.Array | float
    ) -> tuple[jax.Array, jax.Array]:
        actions, log_probs, self.hidden_state = self.explore_fn(
            self.state.qvalue,
            self.interact_keys(observation),
            observation,
            self.hidden_state,
            exploration,
        )
        return actions, log_probs
