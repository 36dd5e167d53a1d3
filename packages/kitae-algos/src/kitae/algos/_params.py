"""Parameters that the agents of the family share, with their checks."""

from dataclasses import dataclass

import kitae.config as cfg


@dataclass(frozen=True)
class EpsilonGreedyParams(cfg.AlgoParams):
    """Parameters of every agent that acts ε-greedily by its Q-values.

    Attributes:
        gamma: Discount of the next value, in [0, 1].
        exploration_initial: Probability of a random action at first, in [0, 1].
        exploration_final: The same from `exploration_steps` on, in [0, 1].
        exploration_steps: Environment steps over which it falls linearly, at least 1.
        hidden_sizes: Units of each hidden layer; for images, of those that follow the
            convolutions.

    Raises:
        ValueError: A value is out of its range; the field is named.
    """

    gamma: float = 0.99
    exploration_initial: float = 1.0
    exploration_final: float = 0.05
    exploration_steps: int = 50_000
    hidden_sizes: tuple[int, ...] = (120, 84)

    def __post_init__(self) -> None:
        cfg.check_number("gamma", self.gamma, 0.0, 1.0)
        cfg.check_number("exploration_initial", self.exploration_initial, 0.0, 1.0)
        cfg.check_number("exploration_final", self.exploration_final, 0.0, 1.0)
        cfg.check_count("exploration_steps", self.exploration_steps)
        for size in self.hidden_sizes:
            cfg.check_count("hidden_sizes", size)


@dataclass(frozen=True)
class ReplayParams(EpsilonGreedyParams):
    """Parameters of every agent that learns from a replay, with a target network.

    Attributes:
        skip_steps: Vector steps from one update to the next, at least 1.
        start_step: Environment steps before the first update; -1: as soon as the
            replay holds a batch.
        target_update_period: Gradient updates between two moves of the target network,
            at least 1.
        tau: How far the target moves towards the network each time, in (0, 1]; 1:
            all the way.
        adam_eps: Added to the denominator of Adam, greater than 0: the larger, the
            smaller the steps while gradients are small.
        frame_stack: For images `[frame_stack, height, width]` that are the newest
            frames of a film: the replay keeps each frame once. None: observations are
            kept as they are.

    Raises:
        ValueError: A value is out of its range; the field is named.
    """

    skip_steps: int = 1
    start_step: int = -1
    target_update_period: int = 10
    tau: float = 1.0
    adam_eps: float = 1e-8
    frame_stack: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        cfg.check_count("skip_steps", self.skip_steps)
        cfg.check_int("start_step", self.start_step, -1)
        cfg.check_count("target_update_period", self.target_update_period)
        cfg.check_number("tau", self.tau, 0.0, 1.0, open_low=True)
        cfg.check_number("adam_eps", self.adam_eps, 0.0, open_low=True)
        if self.frame_stack is not None:
            cfg.check_count("frame_stack", self.frame_stack)


@dataclass(frozen=True)
class PrioritisedParams(ReplayParams):
    """Parameters of every agent with n-step targets and a prioritised replay.

    Attributes:
        n_steps: Rewards in a target before it bootstraps, at least 1.
        priority_exponent: How much priorities count, in [0, 1]; 0: not at all.
        importance_exponent: How much of the bias that priorities bring the weights of
            the loss take back at first, in [0, 1]; at the last update it is 1.

    Raises:
        ValueError: A value is out of its range; the field is named.
    """

    n_steps: int = 3
    priority_exponent: float = 0.5
    importance_exponent: float = 0.4

    def __post_init__(self) -> None:
        super().__post_init__()
        cfg.check_count("n_steps", self.n_steps)
        cfg.check_number("priority_exponent", self.priority_exponent, 0.0, 1.0)
        cfg.check_number("importance_exponent", self.importance_exponent, 0.0, 1.0)
