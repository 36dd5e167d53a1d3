"""What a training is at one moment, as a value."""

from typing import Any, NamedTuple

import jax
import numpy as np

from kitae.base.algorithm.multi_agent import Names, default_names
from kitae.base.algorithm.seeding import Stream, stream_key
from kitae.config import AlgoConfig

MAX_STEP = 2**31 - 1


def device_step(step: int) -> np.int32:
    """Returns environment steps as the device counts them: they stop at the largest."""
    return np.int32(min(step, MAX_STEP))


class Counters(NamedTuple):
    """How far a training is.

    Attributes:
        step: Environment steps.
        iteration: Vector steps.
        updates: Gradient updates.
        rows: `[n_rows]` int64, as the agent's `Schedule` counts them.
    """

    step: int
    iteration: int
    updates: int
    rows: np.ndarray


class Keys(NamedTuple):
    """Key data of the streams of a training. They never change.

    The key of an iteration is folded from one of them and the iteration's number. They
    are plain numbers, since typed keys take a slower way into a program.
    """

    interact: jax.Array
    learn: jax.Array


class EnvSnapshot(NamedTuple):
    """Where a training on environments that are JAX functions is.

    Checkpoints have these names.

    Attributes:
        env: The environments' states.
        acted: What was chosen for the next step.
        constants: See `kitae.base.training.jax_environments.Constants`.
        unfinished: Returns and lengths so far of the episodes that have not ended,
            each `[n_envs]`.
    """

    env: Any
    acted: Any
    constants: Any
    unfinished: Any


class Log(NamedTuple):
    """What the log carries from one call of `train` to the next.

    Attributes:
        seconds: Of training so far.
        info: Of the newest update.
        score: The mean return of the newest episodes; None before the first.
    """

    seconds: float = 0.0
    info: dict[str, Any] = {}  # noqa: RUF012, never changed in place
    score: float | None = None


class TrainingState(NamedTuple):
    """All that a training continues from.

    A driver takes one and returns the next. The arrays of the one before are then gone:
    their memory is used again.

    Attributes:
        state: The train state, as `train_state_factory` built it.
        memory: What the agent learns from. None: it is not made yet.
        pending: Rows of the newest step that the memory does not have yet, and which of
            them count. None: there are none.
        keys: Of the random streams.
        counters: How far it is.
        environments: Where JAX environments are. None: they are reset next.
        log: What the log carries.
        names: Of several agents, in the order of their rows: those of the environments,
            once there were any. None for one agent.
    """

    state: Any
    keys: Keys
    counters: Counters
    memory: Any = None
    pending: Any = None
    environments: EnvSnapshot | None = None
    log: Log = Log()
    names: Names | None = None


def initial_training_state(config: AlgoConfig, state: Any) -> TrainingState:
    """Returns a training before its first step.

    Args:
        config: Of the agent.
        state: Its train state.
    """
    keys = [
        jax.random.key_data(stream_key(config.seed, stream))
        for stream in (Stream.INTERACT, Stream.LEARN)
    ]
    env_cfg = config.env_cfg
    counters = Counters(0, 0, 0, np.zeros(env_cfg.n_rows, np.int64))
    names = default_names(env_cfg.n_agents) if env_cfg.n_agents > 1 else None
    return TrainingState(state, Keys(*keys), counters, names=names)
