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
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import Progress

from kitae.algos.presets import AGENTS
from kitae.envs.make import make_vec_env

N_EPISODES = 100


# The mean greedy return that counts as solved; of PQN less, where it is told apart.
SOLVED = {
    "CartPole-v1": 475,
    "Acrobot-v1": -100,
    "MountainCar-v0": -115,
    "LunarLander-v3": 200,
}
PQN_SOLVED = {"Acrobot-v1": -110}
MAIN_TASKS = ("CartPole-v1", "Acrobot-v1")
HARD_AGENTS = ("dqn", "rainbow")


def make(agent: str, task: str, seed: int) -> tuple[Any, Any]:
    """Makes an agent and its environments."""
    learner = AGENTS[agent].from_preset(task, seed=seed)
    return learner, make_vec_env(task, learner.config.env_cfg.n_envs)


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

    np.random.seed(0)  # rliable draws its samples from here
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
            solved = SOLVED[task]
            if agent == "pqn":
                solved = PQN_SOLVED.get(task, solved)
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
    parser.add_argument("--tasks", nargs="+", choices=SOLVED, default=list(SOLVED))
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
