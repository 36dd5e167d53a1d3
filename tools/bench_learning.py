"""What every agent learns on Gymnasium's classic tasks, seed by seed.

Each run trains one agent on one task from one seed, in a process of its own, and plays
greedy episodes at the end. Finished runs are kept in a JSON file: what is there is not
run again, so an interrupted table goes on where it stopped. For each agent and task a
Markdown row is printed: the mean of each seed, their mean, and the interquartile mean
with its 95 % interval from a stratified bootstrap over seeds (Agarwal et al., "Deep
reinforcement learning at the edge of the statistical precipice", 2021).

    hatch run learning:table
    hatch run learning:table --agents dqn rainbow --tasks CartPole-v1 --seeds 3
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import Progress

import kitae.config as cfg
from kitae import algos
from kitae.envs.make import make_vec_env

N_EPISODES = 100


@dataclass(frozen=True)
class Task:
    """A task, and what all agents are told about it.

    Attributes:
        solved: The mean greedy return that counts as solved.
        n_env_steps: Environment steps of a training.
        n_envs: Parallel environments.
        v_min: The lowest return, for agents that need bounds.
        v_max: The highest.
        update: Of `UpdateConfig`, for agents with a replay.
        params: Of the agents with a replay.
        own: What single agents are told besides.
        rollouts: Of `UpdateConfig`, for PQN.
        pqn: Parameters of PQN.
        pqn_envs: Parallel environments of PQN.
        pqn_steps: Environment steps of a training of PQN.
        pqn_solved: As `solved`, for PQN.
    """

    solved: float
    n_env_steps: int
    n_envs: int
    v_min: float
    v_max: float
    update: dict[str, Any]
    params: dict[str, Any]
    rollouts: dict[str, Any]
    own: dict[str, dict[str, Any]] = field(default_factory=dict)
    pqn: dict[str, Any] = field(default_factory=dict)
    pqn_envs: int = 32
    pqn_steps: int = 500_000
    pqn_solved: float | None = None


TASKS = {
    "CartPole-v1": Task(
        solved=475,
        n_env_steps=200_000,
        n_envs=8,
        v_min=0.0,
        v_max=100.0,
        update={"learning_rate": 1e-3, "max_buffer_size": 5_000, "batch_size": 128},
        params={"exploration_steps": 30_000, "start_step": 1_000},
        rollouts={
            "learning_rate": 1e-3,
            "max_buffer_size": 32,
            "batch_size": 128,
            "n_epochs": 4,
        },
        pqn={"exploration_steps": 60_000},
    ),
    "Acrobot-v1": Task(
        solved=-100,
        n_env_steps=100_000,
        n_envs=8,
        v_min=-100.0,
        v_max=0.0,
        update={
            "learning_rate": 6e-4,
            "max_buffer_size": 6_250,
            "batch_size": 128,
            "n_epochs": 2,
        },
        params={"exploration_steps": 20_000, "start_step": 1_000},
        own={"c51": {"adam_eps": 1e-8}, "munchausen": {"temperature": 0.1}},
        rollouts={
            "learning_rate": 6e-4,
            "max_buffer_size": 32,
            "batch_size": 128,
            "n_epochs": 4,
        },
        pqn={"exploration_steps": 60_000},
        pqn_solved=-110,
    ),
    "MountainCar-v0": Task(
        solved=-115,
        n_env_steps=200_000,
        n_envs=8,
        v_min=-60.0,
        v_max=0.0,
        update={
            "learning_rate": 2e-3,
            "max_buffer_size": 1_250,
            "batch_size": 128,
            "n_epochs": 4,
        },
        params={
            "gamma": 0.98,
            "exploration_final": 0.07,
            "exploration_steps": 40_000,
            "start_step": 1_000,
            "target_update_period": 300,
            "hidden_sizes": (256, 256),
        },
        # Values begin in the middle: where all rewards are -1, above all that can be,
        # and what was not tried yet looks better than what was.
        own={"rainbow": {"v_min": -60.0, "v_max": 60.0, "n_atoms": 61}},
        rollouts={},
    ),
    "LunarLander-v3": Task(
        solved=200,
        n_env_steps=500_000,
        n_envs=8,
        v_min=-200.0,
        v_max=200.0,
        update={
            "learning_rate": 6e-4,
            "max_buffer_size": 12_500,
            "batch_size": 128,
            "n_epochs": 2,
        },
        params={"exploration_steps": 60_000, "start_step": 5_000},
        rollouts={},
    ),
}

AGENTS: dict[str, tuple[type, type]] = {
    "dqn": (algos.DQN, algos.DQNParams),
    "c51": (algos.C51, algos.C51Params),
    "qrdqn": (algos.QRDQN, algos.QRDQNParams),
    "iqn": (algos.IQN, algos.IQNParams),
    "munchausen": (algos.MunchausenDQN, algos.MunchausenParams),
    "rainbow": (algos.Rainbow, algos.RainbowParams),
    "btr": (algos.BTR, algos.BTRParams),
    "pqn": (algos.PQN, algos.PQNParams),
    "r2d2": (algos.R2D2, algos.R2D2Params),
}

# What an agent has of its own, on every task.
OWN: dict[str, dict[str, Any]] = {
    "dqn": {"double_q": True},
    "c51": {"n_atoms": 51},
    "qrdqn": {"n_quantiles": 25},
    "iqn": {"n_taus": 8, "n_target_taus": 8},
    # With the Huber loss it learns a median, of targets that are large against 1.
    "munchausen": {"loss": "squared", "adam_eps": 1e-8},
    "rainbow": {"n_atoms": 51},
    "btr": {"gamma": 0.99, "target_update_period": 50},
    "r2d2": {
        "gamma": 0.99,
        "hidden_sizes": (64,),
        "hidden_size": 64,
        "head_sizes": (64,),
        "sequence_length": 16,
        "burn_in": 4,
        "adam_eps": 1e-5,
        "skip_steps": 2,
    },
}
BOUNDED = ("c51", "rainbow")
MAIN_TASKS = ("CartPole-v1", "Acrobot-v1")
HARD_AGENTS = ("dqn", "rainbow")


def make(agent: str, task_name: str, seed: int) -> tuple[Any, Any]:
    """Makes an agent and its environments."""
    task = TASKS[task_name]
    agent_type, params_type = AGENTS[agent]
    if agent == "pqn":
        n_env_steps, n_envs = task.pqn_steps, task.pqn_envs
        params, update = task.pqn, task.rollouts
    else:
        n_env_steps, n_envs, update = task.n_env_steps, task.n_envs, task.update
        params = {"exploration_final": 0.04, "target_update_period": 50}
        params |= task.params | OWN[agent]
        if agent in BOUNDED:
            params |= {"v_min": task.v_min, "v_max": task.v_max}
        if agent == "rainbow":
            # Noise explores.
            params["exploration_final"] = 0.0
        if agent == "r2d2":
            update = update | {"batch_size": 32}
        params |= task.own.get(agent, {})
    env = make_vec_env(task_name, n_envs)
    config = cfg.AlgoConfig(
        seed=seed,
        algo_params=params_type(**params),
        update_cfg=cfg.UpdateConfig(
            learning_rate_annealing=True, max_grad_norm=10.0, **update
        ),
        train_cfg=cfg.TrainConfig(n_env_steps),
        env_cfg=cfg.EnvConfig(
            task_name, env.single_observation_space, env.single_action_space, n_envs
        ),
    )
    return agent_type(f"{agent}-{task_name}-{seed}", config), env


def run(agent: str, task_name: str, seed: int) -> dict[str, Any]:
    """Trains once, and returns what the table needs."""
    start = time.perf_counter()
    learner, env = make(agent, task_name, seed)
    history = learner.train(env, learner.config.train_cfg.n_env_steps)
    returns = learner.evaluate(env, N_EPISODES)
    return {
        "agent": agent,
        "task": task_name,
        "seed": seed,
        "env_steps": history.env_steps,
        "updates": history.updates,
        "seconds": round(time.perf_counter() - start, 1),
        "return": float(returns.mean()),
    }


def missing(results: list[dict[str, Any]], args: argparse.Namespace) -> list[Any]:
    """Returns agent, task and seed of the runs that are asked for and not there."""
    done = {(run["agent"], run["task"], run["seed"]) for run in results}
    return [
        (agent, task, seed)
        for task in args.tasks
        for agent in args.agents
        for seed in range(args.seeds)
        if (task in MAIN_TASKS or agent in HARD_AGENTS)
        and (agent, task, seed) not in done
    ]


def run_apart(key: tuple[str, str, int]) -> dict[str, Any]:
    """Runs in a process of its own, with a core of its own."""
    command = [sys.executable, __file__, "--run", *map(str, key)]
    environ = {**os.environ, "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false"}
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            command, cwd=folder, env=environ, capture_output=True, text=True
        )
    if done.returncode:
        raise SystemExit(f"{key} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def interval(returns: np.ndarray) -> tuple[float, float, float]:
    """Returns the interquartile mean of the seeds and its 95 % interval."""
    from rliable import library, metrics

    scores = {"agent": returns[:, None]}

    def iqm(values: np.ndarray) -> np.ndarray:
        return np.array([metrics.aggregate_iqm(values)])

    point, bounds = library.get_interval_estimates(scores, iqm, reps=5_000)
    low, high = bounds["agent"][:, 0]
    return float(point["agent"][0]), float(low), float(high)


def table(results: list[dict[str, Any]], args: argparse.Namespace) -> str:
    """Returns the Markdown table of all runs."""
    columns = [
        "task",
        "agent",
        "mean greedy return of each seed",
        "mean",
        "IQM (95 %)",
        "solved",
        "env steps",
        "updates",
        "minutes a run",
    ]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for task in args.tasks:
        for agent in args.agents:
            runs = [r for r in results if (r["agent"], r["task"]) == (agent, task)]
            if not runs:
                continue
            runs.sort(key=lambda run: run["seed"])
            returns = np.array([run["return"] for run in runs])
            solved = TASKS[task].solved
            if agent == "pqn":
                solved = TASKS[task].pqn_solved or solved
            point, low, high = interval(returns)
            minutes = np.median([run["seconds"] for run in runs]) / 60
            lines.append(
                f"| {task} | {agent} | {', '.join(f'{x:.1f}' for x in returns)} "
                f"| {returns.mean():.1f} | {point:.1f} ({low:.1f} to {high:.1f}) "
                f"| {(returns >= solved).sum()} of {len(runs)} at {solved:g} "
                f"| {runs[0]['env_steps']:,} | {runs[0]['updates']:,} "
                f"| {minutes:.1f} |"
            )
    return "\n".join(lines)


def arguments() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--agents", nargs="+", choices=AGENTS, default=list(AGENTS))
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--seeds", type=int, default=5, help="0 to this, less 1")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="at once")
    parser.add_argument("--results", type=Path, default=Path("runs/learning.json"))
    parser.add_argument("--run", nargs=3, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Runs what is missing and prints the table."""
    args = arguments()
    if args.run:
        agent, task, seed = args.run
        print(json.dumps(run(agent, task, int(seed))))
        return
    results = []
    if args.results.exists():
        results = json.loads(args.results.read_text(encoding="utf-8"))
    todo = missing(results, args)
    args.results.parent.mkdir(parents=True, exist_ok=True)
    with Progress() as progress, ThreadPoolExecutor(args.jobs) as pool:
        bar = progress.add_task("runs", total=len(todo))
        for result in pool.map(run_apart, todo):
            results.append(result)
            args.results.write_text(json.dumps(results, indent=1), encoding="utf-8")
            progress.advance(bar)
    print(table(results, args))


if __name__ == "__main__":
    main()
