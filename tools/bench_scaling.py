"""How compiled training on CartPole grows with seeds and with environments.

The problem is that of `bench_compiled.py`. Two Markdown tables are printed:

- Seeds: one `agent.train_seeds` of all of them at once. The whole call, compilation
  included, and the pace after that, read from the first seed's metrics.csv: from
  20,000 steps, when the updates have begun, to the end.
- Environments: `agent.train` after a warm-up, the median of a few turns of about equal
  time. An update has 128 of the last 10,000 transitions at every vector step, however
  many environments there are, and the metrics have a row every 1,000 vector steps.

    hatch run bench:scaling
"""

import argparse
import csv
import os
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench_compiled import BATCH_SIZE, N_ENVS, START_STEP, kitae_agent
from bench_sides import seconds

SEEDS = (1, 4, 16, 64)
ENVIRONMENTS = (1, 16, 256, 4_096)
WARM_UP = 500


def row(*cells: str) -> None:
    """Prints a row of a Markdown table."""
    print("| " + " | ".join(cells) + " |", flush=True)


def heading(*cells: str) -> None:
    """Prints the heading of a Markdown table of numbers."""
    row(*cells)
    print("|" + " --: |" * len(cells), flush=True)


def seconds_per_step(run_dir: Path) -> float:
    """Reads the pace of a training from its metrics, once the updates have begun."""
    with open(run_dir / "metrics.csv", newline="") as file:
        rows = [(int(r["env_step"]), float(r["seconds"])) for r in csv.DictReader(file)]
    rows = [row for row in rows if row[0] >= 2 * START_STEP]
    (first, start), (last, end) = rows[0], rows[-1]
    return (end - start) / (last - first)


def seeds_table(n_env_steps: int, counts: Sequence[int]) -> None:
    """Prints the time against the number of seeds."""
    print(f"\n{n_env_steps:,} environment steps for each seed\n")
    names = "seeds,whole call (s),us per vector step of all,against the first,steps/s"
    heading(*names.split(","))
    alone = None
    for count in counts:
        agent, env = kitae_agent()
        runs = []
        whole = seconds(
            lambda agent=agent, env=env, runs=runs, count=count: runs.extend(
                agent.train_seeds(env, n_env_steps, seeds=range(count))
            )
        )
        pace = seconds_per_step(runs[0].agent.run_dir)
        alone = alone or pace
        each, growth, speed = 1e6 * N_ENVS * pace, pace / alone, count / pace
        timed = f"{whole:.1f}", f"{each:,.1f}", f"{growth:.2f}"
        row(f"{count}", *timed, f"{speed:,.0f}")


def environments_table(turns: int, turn_seconds: float, counts: Sequence[int]) -> None:
    """Prints the time per step against the number of environments."""
    print(f"\nAn update of {BATCH_SIZE} at every vector step\n")
    names = "environments,us per vector step,extremes,us per environment step,steps/s"
    heading(*names.split(","))
    for count in counts:
        agent, env = kitae_agent(count)
        n = max(WARM_UP, 2 * START_STEP // count)
        agent.train(env, n * count)
        n = max(1, int(n * turn_seconds / seconds(agent.train, env, n * count)))
        times = [1e6 * seconds(agent.train, env, n * count) / n for _ in range(turns)]
        middle = statistics.median(times)
        extremes = f"{min(times):,.1f} to {max(times):,.1f}"
        each, speed = middle / count, 1e6 * count / middle
        row(f"{count:,}", f"{middle:,.1f}", extremes, f"{each:,.3f}", f"{speed:,.0f}")


def numbers(text: str) -> tuple[int, ...]:
    """Reads numbers with commas between them."""
    return tuple(int(number) for number in text.split(",") if number)


def main() -> None:
    """Prints both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--envs", type=numbers, default=ENVIRONMENTS, help="1,16")
    parser.add_argument("--turns", type=int, default=3, help="for the environments")
    parser.add_argument("--seconds", type=float, default=3.0, help="a turn's length")
    parser.add_argument("--seeds", type=numbers, default=SEEDS, help="1,4; '' for none")
    parser.add_argument("--steps", type=int, default=100_000, help="for each seed")
    args = parser.parse_args()
    if args.steps < 4 * START_STEP:
        parser.error(f"--steps must be at least {4 * START_STEP}")
    print(f"CartPole-v1, {os.cpu_count()} processors")
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        if args.envs:
            environments_table(args.turns, args.seconds, args.envs)
        if args.seeds:
            seeds_table(args.steps, args.seeds)
        os.chdir("/")


if __name__ == "__main__":
    main()
