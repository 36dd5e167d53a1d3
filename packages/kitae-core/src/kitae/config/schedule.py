"""When updates happen, and how many a run holds.

The drivers ask these functions; so does whoever needs the horizon of a schedule.
"""

import math

from kitae.config.config import AlgoConfig, TrainConfig


def held_rows(config: AlgoConfig) -> tuple[int, str]:
    """Returns how many transitions the memory holds, and how that comes about."""
    env = config.env_cfg
    factors = {
        "max_buffer_size": config.update_cfg.max_buffer_size,
        "n_envs": env.n_envs,
    }
    if env.n_agents > 1:
        factors["n_agents"] = env.n_agents
    n = math.prod(factors.values())
    numbers = " * ".join(map(str, factors.values()))
    return n, f"{' * '.join(factors)} = {numbers} = {n}"


def warm_up(config: AlgoConfig) -> int:
    """Environment steps an off-policy agent takes before its first update."""
    for_a_batch = -(-config.update_cfg.batch_size // config.env_cfg.n_agents)
    return max(for_a_batch, config.start_step)


def crossed(before: int, after: int, period: int) -> bool:
    """Whether a multiple of `period` lies in `(before, after]`.

    Steps come in strides of `n_envs`, which need not divide the period.
    """
    return after // period > before // period


def next_stop(train_cfg: TrainConfig, step: int, until: int) -> int:
    """Returns the next environment step at which the host has something to do.

    Args:
        train_cfg: When it logs, saves and evaluates.
        step: Environment steps so far.
        until: Environment steps at which the training ends.
    """
    periods = (
        train_cfg.log_frequency,
        train_cfg.save_frequency,
        train_cfg.eval_frequency,
    )
    multiples = [(step // period + 1) * period for period in periods if period > 0]
    return min([until, *multiples])


def steps_logged(config: AlgoConfig) -> int:
    """Returns how many vector steps there are at most between rows of the metrics."""
    return -(-config.train_cfg.log_frequency // config.env_cfg.n_envs)


def off_policy_due(config: AlgoConfig, iteration: int, env_steps: int) -> bool:
    """Whether an update falls before the vector step `iteration` (counted from 0).

    Args:
        config: Of the run.
        iteration: Vector steps taken so far.
        env_steps: Environment steps taken so far.
    """
    return env_steps >= warm_up(config) and iteration % config.skip_steps == 0


def off_policy_updates(config: AlgoConfig) -> int:
    """Counts the gradient updates of an off-policy run of `train_cfg.n_env_steps`.

    The count is exact where every vector step is a transition in every environment.
    Where an environment spends steps on resets (Gymnasium's NEXT_STEP mode) the run
    takes that many vector steps more, and as many updates: a schedule over this
    horizon has then arrived a little before the end. Where agents leave before others
    do, the first update waits for a batch, and there may be fewer.

    Args:
        config: Of the run.

    Returns:
        Gradient updates, at least 0.

    Example:
        >>> from dataclasses import dataclass
        >>> from gymnasium.spaces import Box, Discrete
        >>> import kitae.config as cfg
        >>> @dataclass
        ... class Params:
        ...     skip_steps: int = 2
        >>> config = cfg.AlgoConfig(
        ...     seed=0,
        ...     algo_params=Params(),
        ...     update_cfg=cfg.UpdateConfig(batch_size=8, n_epochs=3),
        ...     train_cfg=cfg.TrainConfig(n_env_steps=40),
        ...     env_cfg=cfg.EnvConfig("Mine", Box(-1, 1, (4,)), Discrete(2), n_envs=4),
        ... )
        >>> off_policy_updates(config)  # before the vector steps 2, 4, 6 and 8 of 10
        12
    """
    n_envs = config.env_cfg.n_envs
    iterations = -(-config.train_cfg.n_env_steps // n_envs)
    first = -(-warm_up(config) // n_envs)
    skip = config.skip_steps
    updates = -(-iterations // skip) - -(-first // skip)
    return max(updates, 0) * config.update_cfg.n_epochs


def on_policy_updates(config: AlgoConfig) -> int:
    """Counts the gradient updates of an on-policy run of `train_cfg.n_env_steps`.

    Args:
        config: Of the run.

    Returns:
        Gradient updates, at least 0: for each full rollout, `n_epochs` passes of
        `max_buffer_size * n_envs * n_agents / batch_size` updates.
    """
    update = config.update_cfg
    rollout = update.max_buffer_size * config.env_cfg.n_envs
    rollouts = config.train_cfg.n_env_steps // rollout
    return rollouts * update.n_epochs * (held_rows(config)[0] // update.batch_size)
