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
bootstraps through truncation, which is no end of the task.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from gymnasium.spaces import Discrete

import kitae.config as cfg
from kitae.base import OffPolicyAgent
from kitae.buffer import Experience
from kitae.modules.exploration import epsilon_greedy, greedy
from kitae.modules.modules import init_params
from kitae.modules.optimizer import make_optimizer
from kitae.modules.pytree import AgentPyTree, TrainState
from kitae.modules.qvalue import qvalue_factory
from kitae.timesteps import compute_double_q_targets, compute_q_learning_targets
from kitae.types import ExploreFn, Info, Params, ProcessExperienceFn, UpdateStepFn


@dataclass(frozen=True)
class DQNParams(cfg.AlgoParams):
    """Parameters of DQN.

    Attributes:
        gamma: Discount of the next value, in [0, 1].
        exploration_initial: Probability of a random action at first, in [0, 1].
        exploration_final: The same from `exploration_steps` on, in [0, 1].
        exploration_steps: Environment steps over which it falls linearly, at least 1.
        skip_steps: Vector steps from one update to the next, at least 1.
        start_step: Environment steps before the first update; -1: as soon as the
            replay holds a batch.
        target_update_period: Gradient updates between two moves of the target network,
            at least 1.
        tau: How far the target moves towards the network each time, in (0, 1]; 1:
            all the way.
        double_q: Whether the network chooses the next action that the target network
            values (double DQN); the target network does both otherwise.
        loss: "squared" (half the square), or "huber", with its corner at an error of 1:
            where rewards are large against 1 it learns a median more than a mean.
        hidden_sizes: Units of each hidden layer; for images, of those that follow the
            convolutions.

    Raises:
        ValueError: A value is out of its range; the field is named.
    """

    gamma: float = 0.99
    exploration_initial: float = 1.0
    exploration_final: float = 0.05
    exploration_steps: int = 50_000
    skip_steps: int = 1
    start_step: int = -1
    target_update_period: int = 10
    tau: float = 1.0
    double_q: bool = False
    loss: Literal["huber", "squared"] = "squared"
    hidden_sizes: tuple[int, ...] = (120, 84)

    def __post_init__(self) -> None:
        cfg.check_number("gamma", self.gamma, 0.0, 1.0)
        cfg.check_number("exploration_initial", self.exploration_initial, 0.0, 1.0)
        cfg.check_number("exploration_final", self.exploration_final, 0.0, 1.0)
        cfg.check_int("exploration_steps", self.exploration_steps, 1)
        cfg.check_int("skip_steps", self.skip_steps, 1)
        cfg.check_int("start_step", self.start_step, -1)
        cfg.check_int("target_update_period", self.target_update_period, 1)
        cfg.check_number("tau", self.tau, 0.0, 1.0, open_low=True)
        cfg.check_flag("double_q", self.double_q)
        if self.loss not in ("huber", "squared"):
            raise ValueError(f"loss must be 'huber' or 'squared', got {self.loss!r}")
        for size in self.hidden_sizes:
            cfg.check_int("hidden_sizes", size, 1)


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
    env, update = config.env_cfg, config.update_cfg
    if not isinstance(env.action_space, Discrete):
        raise ValueError(
            f"DQN needs discrete actions, got action_space = {env.action_space}"
        )
    qvalue = qvalue_factory(
        env.observation_space,
        env.action_space,
        hidden_sizes=config.algo_params.hidden_sizes,
        preprocess_fn=preprocess_fn,
    )
    spec = jax.ShapeDtypeStruct(
        env.observation_space.shape, env.observation_space.dtype
    )
    params = init_params(key, qvalue, [spec], tabulate)
    annealing_steps = cfg.off_policy_updates(config)
    return DQNState(
        TrainState.create(
            apply_fn=qvalue.apply,
            params=params,
            target_params=params,
            tx=make_optimizer(
                update.learning_rate,
                annealing_steps=annealing_steps
                if update.learning_rate_annealing
                else None,
                max_grad_norm=update.max_grad_norm,
                # One vector of moments is faster, where layers are small.
                flatten=len(env.observation_space.shape) == 1,
            ),
        )
    )


def explore_factory(config: cfg.AlgoConfig) -> ExploreFn:
    """Makes the ε-greedy policy: a coin, and a random action, for each environment."""

    def explore_fn(
        state: TrainState,
        key: jax.Array,
        observations: jax.Array,
        exploration: jax.Array,
    ) -> tuple[jax.Array, jax.Array]:
        qvalues = state.apply_fn(state.params, observations)
        return epsilon_greedy(key, qvalues, exploration)

    return explore_fn


def process_experience_factory(config: cfg.AlgoConfig) -> ProcessExperienceFn:
    """Makes the function that turns experience into regression targets."""
    gamma, double_q = config.algo_params.gamma, config.algo_params.double_q

    def process_experience_fn(
        state: DQNState, key: jax.Array, experience: Experience
    ) -> Batch:
        qvalue = state.qvalue
        next_qvalues = qvalue.apply_fn(
            qvalue.target_params, experience.next_observation
        )
        # Termination alone ends the sum: a truncated episode still has a next value.
        discounts = gamma * (1.0 - experience.done.astype(jnp.float32))
        if double_q:
            selector = qvalue.apply_fn(qvalue.params, experience.next_observation)
            targets = compute_double_q_targets(
                experience.reward, discounts, next_qvalues, selector
            )
        else:
            targets = compute_q_learning_targets(
                experience.reward, discounts, next_qvalues
            )
        return Batch(experience.observation, experience.action, targets)

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
            # A sum over one-hot rows: the gradient of a gather is a slow scatter.
            taken = jax.nn.one_hot(batch.action, qvalues.shape[-1])
            chosen = jnp.sum(qvalues * taken, axis=-1)
            return jnp.mean(loss_of_error(chosen, batch.target)), jnp.mean(chosen)

        (loss, qvalue), grads = jax.value_and_grad(loss_fn, has_aux=True)(
            state.qvalue.params
        )
        state.qvalue = state.qvalue.apply_gradients(grads=grads).update_target(
            period=algo.target_update_period, step_size=algo.tau
        )
        return state, {"loss_qvalue": loss, "qvalue": qvalue}

    return update_step_fn


class DQN(OffPolicyAgent):
    """Deep Q-Network; see the module for what it does and where it departs.

    Args:
        run_name: The run's directory under `runs/`.
        config: With `algo_params` a `DQNParams`.
        preprocess_fn: Applied to observations before the network.
        tabulate: Whether to print the network.

    Raises:
        TypeError: `config.algo_params` is no DQNParams.
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

    def __init__(
        self,
        run_name: str,
        config: cfg.AlgoConfig,
        *,
        preprocess_fn: Callable | None = None,
        tabulate: bool = False,
    ) -> None:
        if not isinstance(config.algo_params, DQNParams):
            raise TypeError(
                f"algo_params must be a DQNParams, got {config.algo_params!r}"
            )
        super().__init__(
            run_name,
            config,
            train_state_factory,
            explore_factory,
            process_experience_factory,
            update_step_factory,
            preprocess_fn=preprocess_fn,
            tabulate=tabulate,
            experience_type=Experience,
        )
        algo = config.algo_params
        self.exploration = optax.linear_schedule(
            algo.exploration_initial, algo.exploration_final, algo.exploration_steps
        )

    def explore(self, observation: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns ε-greedy actions, ε by the environment steps so far."""
        key = self.interact_keys(observation)
        return self.explore_fn(
            self.state.qvalue, key, observation, exploration=self.exploration(self.step)
        )

    def select_action(self, observation: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns the actions of the highest value, the first of equals."""
        qvalue = self.state.qvalue
        actions = greedy(qvalue.apply_fn(qvalue.params, observation))
        return actions, jnp.zeros(actions.shape)
