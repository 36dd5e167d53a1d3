"""What checkpoints cost: DQN on CartPole with a replay of 100,000 transitions.

Prints the seconds of one `save`, and how much longer a training takes that saves at
every 10,000 environment steps than one that saves at its end only: both drivers, the
two in turn, ratios of each turn.

    hatch run bench:saving
    hatch run bench:saving --turns 5
"""

import argparse
import os
import statistics
import tempfile
from typing import Any

from bench_sides import seconds

import kitae.config as cfg
from kitae.algos import DQN, DQNParams
from kitae.envs.make import make_vec_env

TASKS = {"host": "CartPole-v1", "compiled": "phys2d/CartPole-v1"}
N_ENVS = 16
TRANSITIONS = 100_000
N_ENV_STEPS = 200_000


def make(driver: str, name: str, save_frequency: int) -> tuple[DQN, Any]:
    """Makes an agent and its environments."""
    env = make_vec_env(TASKS[driver], N_ENVS)
    config = cfg.AlgoConfig(
        seed=0,
        algo_params=DQNParams(),
        update_cfg=cfg.UpdateConfig(max_buffer_size=TRANSITIONS // N_ENVS),
        train_cfg=cfg.TrainConfig(N_ENV_STEPS, save_frequency=save_frequency),
        env_cfg=cfg.EnvConfig(
            "CartPole", env.single_observation_space, env.single_action_space, N_ENVS
        ),
    )
    return DQN(name, config), env


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=5)
    turns = parser.parse_args().turns
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for driver in TASKS:
            agents = [make(driver, f"{driver}-{n}", n) for n in (-1, 10_000)]
            for agent, env in agents:
                agent.train(env, TRANSITIONS)  # fills the replay, compiles all
            ratios = []
            for _ in range(turns):
                without, saving = (
                    seconds(agent.train, env, N_ENV_STEPS) for agent, env in agents
                )
                ratios.append(saving / without)
            first = agents[0][0]
            saves = [seconds(first.save) for _ in range(turns)]
            path = first.save()
            size = sum(p.stat().st_size for p in path.iterdir())
            print(
                f"{driver}: one save of {size / 1e6:.1f} MB takes "
                f"{statistics.median(saves):.3f} s; saving every 10,000 steps takes "
                f"{statistics.median(ratios):.3f} times as long "
                f"({min(ratios):.3f} to {max(ratios):.3f}, {turns} turns)"
            )


if __name__ == "__main__":
    main()
