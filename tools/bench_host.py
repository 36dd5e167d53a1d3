"""Training speed on Gymnasium environments, beside Stable-Baselines3 in one run.

The tutorial's problem: CartPole-v1, 16 environments, a 64-64 network, and one gradient
update on 256 transitions at every vector step. Each side has a process of its own and
trains for a while first (to compile, and to fill its replay); then they take turns of
about equal time. The medians of the turns and their ratio are printed. Ratios within
one run mean something, steps per second on a busy machine do not.

    hatch run bench:host
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable

from bench_sides import Side, ratios, serve, spread

N_ENVS, BATCH_SIZE, BUFFER_STEPS = 16, 256, 6_250
LEARNING_RATE = 3e-4

Train = Callable[[int], None]


def kitae_trainer() -> Train:
    """Makes `train(n_env_steps)` of Kitae's DQN."""
    import kitae.config as cfg
    from kitae.algos import DQN, DQNParams
    from kitae.envs.make import make_vec_env

    env = make_vec_env("CartPole-v1", N_ENVS)
    config = cfg.AlgoConfig(
        seed=0,
        algo_params=DQNParams(
            hidden_sizes=(64, 64), target_update_period=100, exploration_initial=0.1
        ),
        update_cfg=cfg.UpdateConfig(
            learning_rate=LEARNING_RATE,
            max_grad_norm=10.0,
            max_buffer_size=BUFFER_STEPS,
            batch_size=BATCH_SIZE,
        ),
        train_cfg=cfg.TrainConfig(n_env_steps=10**6),
        env_cfg=cfg.EnvConfig(
            "CartPole-v1",
            env.single_observation_space,
            env.single_action_space,
            N_ENVS,
        ),
    )
    agent = DQN("bench", config)
    return lambda n_env_steps: agent.train(env, n_env_steps) and None


def sb3_trainer() -> Train:
    """Makes `train(n_env_steps)` of Stable-Baselines3's DQN, with the same work."""
    import torch
    from stable_baselines3 import DQN
    from stable_baselines3.common.env_util import make_vec_env

    torch.set_num_threads(os.cpu_count() or 1)
    agent = DQN(
        "MlpPolicy",
        make_vec_env("CartPole-v1", n_envs=N_ENVS),
        learning_rate=LEARNING_RATE,
        buffer_size=BUFFER_STEPS * N_ENVS,
        learning_starts=BATCH_SIZE,
        batch_size=BATCH_SIZE,
        train_freq=1,
        gradient_steps=1,
        target_update_interval=100 * N_ENVS,
        exploration_initial_eps=0.1,
        exploration_final_eps=0.05,
        max_grad_norm=10.0,
        policy_kwargs={"net_arch": [64, 64]},
        seed=0,
        device="cpu",
    )
    return lambda n_env_steps: (
        agent.learn(n_env_steps, reset_num_timesteps=False, log_interval=None) and None
    )


TRAINERS = {"kitae": kitae_trainer, "stable-baselines3": sb3_trainer}


def timed(train: Train) -> Callable[[int], float]:
    """Makes a function that trains and returns the seconds."""

    def turn(n_env_steps: int) -> float:
        start = time.perf_counter()
        train(n_env_steps)
        return time.perf_counter() - start

    return turn


def main() -> None:
    """Runs both sides in turns and prints medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=6.0, help="a turn's length")
    parser.add_argument("--json", help="also write the figures to this file")
    parser.add_argument("--side", choices=TRAINERS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        serve(timed(TRAINERS[arguments.side]()))
        return

    speeds: dict[str, list[float]] = {name: [] for name in TRAINERS}
    with tempfile.TemporaryDirectory() as folder:
        sides = {
            name: Side([sys.executable, __file__, "--side", name], folder)
            for name in TRAINERS
        }
        steps = {}
        for name, side in sides.items():
            side.turn(10_000)
            steps[name] = int(20_000 / side.turn(20_000) * arguments.seconds)
        for _ in range(arguments.turns):
            for name, side in sides.items():
                speeds[name].append(steps[name] / side.turn(steps[name]))
        for side in sides.values():
            side.close()

    ratio = ratios(*speeds.values())
    print(f"CartPole-v1, {N_ENVS} environments, an update of {BATCH_SIZE} per step")
    for name, values in speeds.items():
        print(f"{name:24} {spread(values)} steps/s")
    print(f"{'ratio':24} {spread(ratio, 2)}, {arguments.turns} turns")
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump({"steps_per_second": speeds, "ratio": ratio}, file, indent=1)


if __name__ == "__main__":
    main()
