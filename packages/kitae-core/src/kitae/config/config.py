"""The configs an agent is built from."""

from dataclasses import dataclass, is_dataclass
from typing import Any, Self

import gymnasium as gym

from kitae.config.checks import (
    MAX_ENVS,
    check_count,
    check_flag,
    check_int,
    check_n_envs,
    check_number,
)
from kitae.config.spaces import space_to_json

MAX_SEED = 2**32 - 1
MAX_STEPS = 2**63 - 1


class AlgoParams:
    """Base for an algorithm's own parameters, a dataclass; inheriting is optional.

    The training loop reads two fields, if they are there; the rest is between the
    dataclass and the four factories:

    - `skip_steps`: loop iterations, at least 1. An update every `skip_steps` vector
      steps. Default 1: at every one.
    - `start_step`: environment steps. No update before so many were taken. Default
      -1: as soon as the replay holds one batch.

    Example:
        >>> from dataclasses import dataclass
        >>> @dataclass(frozen=True)
        ... class MyParams(AlgoParams):
        ...     gamma: float = 0.99
        ...     skip_steps: int = 4
    """


@dataclass(frozen=True)
class UpdateConfig:
    """How the agent learns from what it has gathered.

    Attributes:
        learning_rate: Step size of the optimizer, above 0.
        learning_rate_annealing: Whether the rate falls linearly to 0 over the updates
            of `train_cfg.n_env_steps`; it stays 0 in a training that continues
            after them.
        max_grad_norm: Gradients are scaled down to this global norm, above 0, before
            the optimizer sees them. None: not at all.
        max_buffer_size: Time steps kept per environment, and of each of its agents, at
            least 1: the replay holds `max_buffer_size * n_envs * n_agents` transitions.
            On-policy: the rollout's length.
        batch_size: Transitions in one gradient update, at least 1.
        n_epochs: Gradient updates at each update, each on a fresh batch, at least 1.
            On-policy: passes over the rollout.
        shared_encoder: Whether actor and critic share their encoder; for agents that
            have both. Agents of the DQN family have one network and no use for it.

    Raises:
        ValueError: A value is out of its range; the field is named.

    Example:
        >>> UpdateConfig(learning_rate=3e-4, batch_size=256).n_epochs
        1
    """

    learning_rate: float = 3e-4
    learning_rate_annealing: bool = False
    max_grad_norm: float | None = None
    max_buffer_size: int = 10_000
    batch_size: int = 256
    n_epochs: int = 1
    shared_encoder: bool = False

    def __post_init__(self) -> None:
        check_number("learning_rate", self.learning_rate, 0.0, open_low=True)
        check_flag("learning_rate_annealing", self.learning_rate_annealing)
        if self.max_grad_norm is not None:
            check_number("max_grad_norm", self.max_grad_norm, 0.0, open_low=True)
        check_count("max_buffer_size", self.max_buffer_size)
        check_count("batch_size", self.batch_size)
        check_count("n_epochs", self.n_epochs)
        check_flag("shared_encoder", self.shared_encoder)


@dataclass(frozen=True)
class TrainConfig:
    """How long a run is, and what it leaves on disk.

    Attributes:
        n_env_steps: Environment steps (transitions), summed over the parallel
            environments, at least 1. One step of an environment of several agents
            counts once, and is a transition of each agent that is there.
        save_frequency: Environment steps between checkpoints, at least 1; or -1: only
            at the end.
        keep_last: The newest checkpoints that are kept, at least 1; or -1: all.
        keep_best: Whether the best checkpoint is kept too: the one with the best newest
            evaluation or, without evaluations, with the best mean return of the last
            100 training episodes.
        reset_on_save: Whether environments that are not JAX functions are reset at
            each checkpoint. Their state cannot be saved: with this, a run resumed from
            a checkpoint is bit for bit the run that was never interrupted, at the price
            of the episodes that are cut. JAX environments are saved and need it not.
        log_frequency: Environment steps between rows of the metrics, at least 1.
        eval_frequency: Environment steps between evaluations while the agent trains, at
            least 1; or -1: none. What is trained stays the same, bit for bit.
        n_eval_episodes: Episodes of an evaluation, at least 1.
        tensorboard: Whether to write TensorBoard's files too; needs
            `pip install "kitae-core[tensorboard]"`.
        show_progress: Whether the progress is shown: drawn in a terminal or a
            notebook, else as plain lines, not more than one in five seconds.

    Raises:
        ValueError: A value is out of its range; the field is named.

    Example:
        >>> TrainConfig(n_env_steps=500_000).save_frequency
        -1
    """

    n_env_steps: int
    save_frequency: int = -1
    keep_last: int = 3
    keep_best: bool = True
    reset_on_save: bool = False
    log_frequency: int = 10_000
    eval_frequency: int = -1
    n_eval_episodes: int = 20
    tensorboard: bool = False
    show_progress: bool = True

    def __post_init__(self) -> None:
        check_count("n_env_steps", self.n_env_steps, high=MAX_STEPS)
        _check_int_or("save_frequency", self.save_frequency, "only at the end")
        _check_int_or("keep_last", self.keep_last, "all")
        check_flag("keep_best", self.keep_best)
        check_flag("reset_on_save", self.reset_on_save)
        check_count("log_frequency", self.log_frequency, high=MAX_STEPS)
        _check_int_or("eval_frequency", self.eval_frequency, "none")
        check_count("n_eval_episodes", self.n_eval_episodes)
        check_flag("tensorboard", self.tensorboard)
        check_flag("show_progress", self.show_progress)


def _check_int_or(name: str, value: Any, meaning: str) -> None:
    """Refuses what is not an int of at least 1, or -1, which has a meaning."""
    if value == -1 and not isinstance(value, bool):
        return
    try:
        check_count(name, value, high=MAX_STEPS)
    except ValueError as error:
        raise ValueError(f"{error} (-1: {meaning})") from None


@dataclass(frozen=True)
class EnvConfig:
    """What the agent sees and does.

    Attributes:
        task_name: The environment's id, for people to read.
        observation_space: Of one environment; of one agent, if there are several.
        action_space: Likewise.
        n_envs: Parallel environments, from 1 to 2**20.
        n_agents: Agents in each environment, from 1 to 2**20. Several of them share one
            set of parameters and one replay, and act on dicts by their names: see
            `kitae.envs.pettingzoo.make_pettingzoo`.
        worker_timeout: Seconds to wait for what a step or a reset gives, above 0, of an
            environment that has a process of its own (`vectorization_mode="async"`).
            After them the training ends with an error.

    Raises:
        ValueError: A value is out of its range; the field is named.
        TypeError: A space is not a Gymnasium space, or one that cannot be written to
            a run's files: of another kind than Box, Discrete, MultiDiscrete,
            MultiBinary, Dict and Tuple, or with a key that is not a string.

    Example:
        >>> from gymnasium.spaces import Box, Discrete
        >>> EnvConfig("CartPole-v1", Box(-1, 1, (4,)), Discrete(2), n_envs=16).n_agents
        1
    """

    task_name: str
    observation_space: Any
    action_space: Any
    n_envs: int
    n_agents: int = 1
    worker_timeout: float = 120.0

    def __post_init__(self) -> None:
        if not isinstance(self.task_name, str) or not self.task_name:
            raise ValueError(f"task_name must be a name, got {self.task_name!r}")
        for name in ("observation_space", "action_space"):
            if not isinstance(getattr(self, name), gym.Space):
                raise TypeError(
                    f"{name} must be a gymnasium.Space of one environment, got "
                    f"{getattr(self, name)!r}"
                )
            try:
                space_to_json(getattr(self, name))
            except (TypeError, ValueError) as error:
                raise type(error)(f"{name} cannot be written: {error}") from None
        check_n_envs(self.n_envs)
        check_count("n_agents", self.n_agents, high=MAX_ENVS)
        check_number("worker_timeout", self.worker_timeout, 0.0, open_low=True)

    @classmethod
    def from_env(
        cls, env: Any, task_name: str | None = None, n_envs: int | None = None
    ) -> Self:
        """Reads what it can of environments.

        Args:
            env: As `BaseAgent.train` takes them: a vector environment, one of
                Gymnasium's, a `FuncEnv`, or what `make_pettingzoo` makes.
            task_name: Default: the environment's id, or the name of its class.
            n_envs: For a `FuncEnv`: as many as there will be.

        Raises:
            ValueError: `n_envs` is missing, or not the number of the environments.
            TypeError: It is no environment.

        Example:
            >>> EnvConfig.from_env(gym.make_vec("CartPole-v1", 4)).n_envs
            4
        """
        is_vector = hasattr(env, "single_action_space")
        prefix = "single_" if is_vector else ""
        try:
            spaces = [
                getattr(env, f"{prefix}{name}_space")
                for name in ("observation", "action")
            ]
        except AttributeError:
            raise TypeError(f"env must be an environment, got {env!r}") from None
        known = getattr(env, "num_envs", None) or getattr(env, "n_envs", n_envs)
        if not is_vector and isinstance(env, gym.Env):
            known = 1
        if known is None:
            raise ValueError(
                f"n_envs must say how many there will be of {type(env).__name__}"
            )
        if n_envs not in (None, known):
            raise ValueError(f"n_envs must be {known}, as env has, got {n_envs}")
        name = getattr(getattr(env, "spec", None), "id", type(env).__name__)
        n_agents = getattr(env, "n_agents", 1)
        return cls(task_name or name, *spaces, n_envs=known, n_agents=n_agents)

    @property
    def n_rows(self) -> int:
        """Rows of one vector step, `n_envs * n_agents`: one of each agent."""
        return self.n_envs * self.n_agents


@dataclass(frozen=True)
class AlgoConfig:
    """All that an agent is built from, and all that its four factories are given.

    Attributes:
        seed: In `[0, 2**32 - 1]`. The same seed gives the same run.
        algo_params: The algorithm's own parameters: an instance of a dataclass.
        update_cfg: How it learns.
        train_cfg: How long.
        env_cfg: Where.

    Raises:
        ValueError: A value is out of its range; the field is named.
        TypeError: A part is of another class.

    Example:
        >>> from dataclasses import dataclass
        >>> from gymnasium.spaces import Box, Discrete
        >>> @dataclass
        ... class Params:
        ...     gamma: float = 0.99
        >>> config = AlgoConfig(
        ...     seed=0,
        ...     algo_params=Params(),
        ...     update_cfg=UpdateConfig(),
        ...     train_cfg=TrainConfig(n_env_steps=1_000_000),
        ...     env_cfg=EnvConfig("Mine", Box(-1, 1, (4,)), Discrete(2), n_envs=8),
        ... )
        >>> config.algo_params.gamma
        0.99
    """

    seed: int
    algo_params: Any
    update_cfg: UpdateConfig
    train_cfg: TrainConfig
    env_cfg: EnvConfig

    def __post_init__(self) -> None:
        check_int("seed", self.seed, 0, MAX_SEED)
        if not is_dataclass(self.algo_params) or isinstance(self.algo_params, type):
            raise TypeError(
                "algo_params must be an instance of a dataclass, got "
                f"{self.algo_params!r}"
            )
        check_count("algo_params.skip_steps", self.skip_steps)
        check_int("algo_params.start_step", self.start_step, -1)
        for name, kind in (
            ("update_cfg", UpdateConfig),
            ("train_cfg", TrainConfig),
            ("env_cfg", EnvConfig),
        ):
            if not isinstance(getattr(self, name), kind):
                raise TypeError(
                    f"{name} must be a {kind.__name__}, got {getattr(self, name)!r}"
                )

    @property
    def skip_steps(self) -> int:
        """Vector steps from one update to the next (`algo_params`, or 1)."""
        return getattr(self.algo_params, "skip_steps", 1)

    @property
    def start_step(self) -> int:
        """Environment steps before the first update (`algo_params`, or -1)."""
        return getattr(self.algo_params, "start_step", -1)
