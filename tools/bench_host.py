"""Training speed on Gymnasium environments, beside its peers in one run.

Two problems on CartPole-v1:

- tutorial: 16 environments, a 64-64 network, and one gradient update on 256
  transitions at every vector step; Kitae steps them in Gymnasium's own vectorised form,
  which the peers cannot, and they one after the other;
- cleanrl: 1 environment, a 120-84 network, and one update on 128 of the last 10,000
  transitions at every fourth step.

Each side has a process of its own and trains for a while first (to compile, and to fill
its replay); then they take turns of about equal time. The medians of the turns and
their ratios are printed. Ratios within one run mean something, steps per second on a
busy machine do not.

    hatch run bench:host
"""

import argparse
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from bench_sides import (
    Row,
    add_arguments,
    alternate,
    opened,
    python_of,
    report,
    seconds,
    serve,
)

Train = Callable[[int], None]


@dataclass(frozen=True)
class Problem:
    """What both sides do.

    Attributes:
        what: In words.
        n_envs: Parallel environments.
        hidden_sizes: Of the network.
        batch_size: Transitions of an update.
        buffer_size: Transitions held.
        learning_rate: Of Adam.
        every: Vector steps between updates.
        target: Updates between those of the target network.
        asked: How many times as fast Kitae is to be, by peer.
        equal_layers: A network of two equal layers with as many weights.
    """

    what: str
    n_envs: int
    hidden_sizes: tuple[int, int]
    batch_size: int
    buffer_size: int
    learning_rate: float
    every: int
    target: int
    asked: dict[str, float | None]
    equal_layers: int


PROBLEMS = {
    "tutorial": Problem(
        what="host training, 16 environments, an update of 256 per vector step",
        n_envs=16,
        hidden_sizes=(64, 64),
        batch_size=256,
        buffer_size=100_000,
        learning_rate=3e-4,
        every=1,
        target=100,
        asked={"stable-baselines3": 6.0, "sbx": 7.0},
        equal_layers=64,
    ),
    "cleanrl": Problem(
        what="host training, 1 environment, an update of 128 per 4 steps",
        n_envs=1,
        hidden_sizes=(120, 84),
        batch_size=128,
        buffer_size=10_000,
        learning_rate=2.5e-4,
        every=4,
        target=125,
        asked={"stable-baselines3": None, "sbx": 5.0},
        equal_layers=101,
    ),
}
REMARKS = {
    "stable-baselines3": "",
    "sbx": "SBX clips no gradients, and its layers are of one size: of as many weights",
}


def kitae_agent(problem: Problem) -> tuple[Any, Any]:
    """Makes Kitae's DQN and its environments."""
    import kitae.config as cfg
    from kitae.algos import DQN, DQNParams
    from kitae.envs.make import make_vec_env

    # One environment as the peers have it; of many, what Gymnasium steps together.
    mode = "sync" if problem.n_envs == 1 else None
    env = make_vec_env("CartPole-v1", problem.n_envs, vectorization_mode=mode)
    config = cfg.AlgoConfig(
        seed=0,
        algo_params=DQNParams(
            hidden_sizes=problem.hidden_sizes,
            target_update_period=problem.target,
            exploration_initial=0.1,
            skip_steps=problem.every,
        ),
        update_cfg=cfg.UpdateConfig(
            learning_rate=problem.learning_rate,
            max_grad_norm=10.0,
            max_buffer_size=problem.buffer_size // problem.n_envs,
            batch_size=problem.batch_size,
        ),
        train_cfg=cfg.TrainConfig(n_env_steps=10**6, show_progress=False),
        env_cfg=cfg.EnvConfig(
            "CartPole-v1",
            env.single_observation_space,
            env.single_action_space,
            problem.n_envs,
        ),
    )
    return DQN("bench", config), env


def kitae_trainer(problem: Problem) -> Train:
    """Makes `train(n_env_steps)` of Kitae's DQN."""
    agent, env = kitae_agent(problem)
    return lambda n_env_steps: agent.train(env, n_env_steps) and None


def trainer_of(kind: Any, problem: Problem, **own: Any) -> Train:
    """Makes `train(n_env_steps)` of Stable-Baselines3's DQN, or of SBX's.

    Args:
        kind: The class.
        problem: What it is to do.
        **own: What the two do not have in common.
    """
    from stable_baselines3.common.env_util import make_vec_env

    agent = kind(
        "MlpPolicy",
        make_vec_env("CartPole-v1", n_envs=problem.n_envs),
        learning_rate=problem.learning_rate,
        buffer_size=problem.buffer_size,
        learning_starts=problem.batch_size,
        batch_size=problem.batch_size,
        train_freq=problem.every,
        gradient_steps=1,
        target_update_interval=problem.target * problem.every * problem.n_envs,
        exploration_initial_eps=0.1,
        exploration_final_eps=0.05,
        seed=0,
        device="cpu",
        **own,
    )
    return lambda n_env_steps: (
        agent.learn(n_env_steps, reset_num_timesteps=False, log_interval=None) and None
    )


def sb3_trainer(problem: Problem) -> Train:
    """Makes `train(n_env_steps)` of Stable-Baselines3's DQN, with the same work."""
    import torch
    from stable_baselines3 import DQN

    torch.set_num_threads(os.cpu_count() or 1)
    layers = [*problem.hidden_sizes]
    return trainer_of(
        DQN, problem, max_grad_norm=10.0, policy_kwargs={"net_arch": layers}
    )


def sbx_trainer(problem: Problem) -> Train:
    """Makes `train(n_env_steps)` of SBX's DQN, with nearly the same work."""
    from sbx import DQN

    layers = [problem.equal_layers, problem.equal_layers]
    return trainer_of(DQN, problem, policy_kwargs={"net_arch": layers})


TRAINERS = {
    "kitae": kitae_trainer,
    "stable-baselines3": sb3_trainer,
    "sbx": sbx_trainer,
}


def alternated(
    name: str, turns: int, seconds: float
) -> tuple[list[Row], dict[str, dict[str, str]]]:
    """Lets all sides take turns at a problem; returns rows and versions."""
    peers = python_of("peers")
    pythons = dict.fromkeys(TRAINERS, peers) | {"kitae": sys.executable}
    commands = {
        side: [python, __file__, "--side", side, "--problems", name]
        for side, python in pythons.items()
    }
    problem, steps = PROBLEMS[name], {}
    with opened(commands) as sides:
        for side, process in sides.items():
            process.turn(12_000)
            steps[side] = int(12_000 / process.turn(12_000) * seconds)
        found = alternate(sides, turns, steps.__getitem__)
        versions = {side: process.versions for side, process in sides.items()}
    speeds = {
        side: [steps[side] / taken for taken in times] for side, times in found.items()
    }
    rows = [
        Row(
            problem.what,
            side,
            "steps/s",
            speeds["kitae"],
            speeds[side],
            asked,
            REMARKS[side],
        )
        for side, asked in problem.asked.items()
    ]
    return rows, versions


def main() -> None:
    """Runs all sides in turns and prints medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problems", nargs="+", choices=PROBLEMS, default=[*PROBLEMS])
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0, help="a turn's length")
    parser.add_argument("--side", choices=TRAINERS, help=argparse.SUPPRESS)
    add_arguments(parser)
    args = parser.parse_args()
    if args.side:
        serve(partial(seconds, TRAINERS[args.side](PROBLEMS[args.problems[0]])))
        return
    rows, versions = [], {}
    for name in args.problems:
        found, versions = alternated(name, args.turns, args.seconds)
        rows += found
    report(rows, versions, args)


if __name__ == "__main__":
    main()
