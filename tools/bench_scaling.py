"""How the cost of a step grows: with environments, seeds, transitions and devices.

- environments: compiled training of `bench_compiled.py`'s problem, an update of 128 at
  every vector step, however many environments there are;
- seeds: `train_seeds` of that problem, 10 environments each, from when the updates have
  begun, as the metrics tell it; the whole call, compiling included, is told too;
- transitions: a replay that is full. One iteration adds 10 rows and draws 128, and
  where they are prioritised sets their priorities, in a compiled loop;
- devices: 16 environments, the replay and the batch of 128 split over devices that XLA
  is forced to see in one processor: what splitting costs, not what it gains.

Each point is the median of a few turns. With `--json` the points go to a file, and
`hatch run bench:scaling --plot` draws those of `docs/scaling.json`.

    hatch run bench:scaling
    hatch run bench:scaling --axes environments --json docs/scaling.json
"""

import argparse
import csv
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from bench_compiled import BATCH_SIZE, N_ENVS, START_STEP, kitae_agent
from bench_sides import ROOT, seconds, spread

from kitae.runs.figures import COLOURS, label_axes, render

WARM_UP = 500
STORED = ROOT / "docs/scaling.json"
PLOT = ROOT / "docs/_static/scaling.svg"


class Axis(NamedTuple):
    """What is made larger.

    Attributes:
        counts: How many there are at each point.
        points: `points(count, turns, seconds)` gives, of each series, its name and
            microseconds, one for each turn.
        of: What takes these.
    """

    counts: tuple[int, ...]
    points: Callable[[int, int, float], Iterator[tuple[str, list[float]]]]
    of: str


def paced(
    train: Callable[[int], Any], n_envs: int, turns: int, turn_seconds: float
) -> list[float]:
    """Times turns of about equal time, after one that does not count.

    Args:
        train: Takes environment steps.
        n_envs: Of a vector step.
        turns: How many.
        turn_seconds: How long each is.

    Returns:
        Microseconds of a vector step.
    """
    n = max(WARM_UP, 2 * START_STEP // n_envs)
    train(n * n_envs)
    n = max(1, int(n * turn_seconds / seconds(train, n * n_envs)))
    return [1e6 * seconds(train, n * n_envs) / n for _ in range(turns)]


def environments(
    count: int, turns: int, turn_seconds: float
) -> Iterator[tuple[str, list[float]]]:
    """Trains with more environments."""
    agent, env = kitae_agent(count)
    yield (
        "compiled training",
        paced(lambda n: agent.train(env, n), count, turns, turn_seconds),
    )


def seeds(count: int, turns: int, _: float) -> Iterator[tuple[str, list[float]]]:
    """Trains more seeds at once."""
    n_env_steps = START_STEP * (10 if count < 64 else 4)
    times = []
    for _ in range(turns if count < 64 else 1):
        agent, env = kitae_agent()
        runs: list[Any] = []
        whole = seconds(
            lambda agent=agent, env=env, runs=runs: runs.extend(
                agent.train_seeds(env, n_env_steps, seeds=range(count))
            )
        )
        times.append(1e6 * N_ENVS * seconds_per_step(runs[0].agent.run_dir))
    print(f"{count} seeds of {n_env_steps:,} steps: {whole:.1f} s in all", flush=True)
    yield "all seeds together", times


def seconds_per_step(run_dir: Path) -> float:
    """Reads the pace of a training from its metrics, once the updates have begun."""
    with open(run_dir / "metrics.csv", newline="") as file:
        rows = [(int(r["env_step"]), float(r["seconds"])) for r in csv.DictReader(file)]
    rows = [row for row in rows if row[0] >= 2 * START_STEP]
    (first, start), (last, end) = rows[0], rows[-1]
    return (end - start) / (last - first)


def transitions(
    count: int, turns: int, turn_seconds: float
) -> Iterator[tuple[str, list[float]]]:
    """Adds to, and draws from, a larger replay."""
    import jax
    import jax.numpy as jnp

    from kitae.buffer import prioritised_replay, uniform_replay

    sizes = count // N_ENVS, N_ENVS, BATCH_SIZE
    row = {"observation": jnp.zeros(4), "reward": 0.0, "next_observation": jnp.zeros(4)}
    rows = jax.tree.map(lambda x: jnp.ones((N_ENVS, *jnp.shape(x))), row)
    for name, replay in (
        ("uniform", uniform_replay(*sizes)),
        ("prioritised", prioritised_replay(*sizes, exponent=0.6)),
    ):
        state = filled(replay.init(row), sizes[0])

        def step(i: jax.Array, carry: Any, replay: Any = replay) -> Any:
            state, total = carry
            state = replay.add(state, rows)
            sample = replay.sample(state, jax.random.fold_in(jax.random.key(0), i))
            if replay.update_priorities is not None:
                new = sample.importance
                state = replay.update_priorities(state, sample.index, new)
            return state, total + sum(map(jnp.sum, jax.tree.leaves(sample)))

        @partial(jax.jit, donate_argnums=0)
        def run(state: Any, n: int, step: Any = step) -> Any:
            return jax.lax.fori_loop(0, n, step, (state, 0.0))

        held = [state]
        del state  # it is given up

        def wait(n: int, run: Any = run, held: Any = held) -> None:
            held[0], _ = jax.block_until_ready(run(held[0], n))

        wait(10)
        n = max(10, int(1_000 * turn_seconds / seconds(wait, 1_000)))
        yield name, [1e6 * seconds(wait, n) / n for _ in range(turns)]


def filled(state: Any, capacity: int) -> Any:
    """Takes all places of an empty replay as held, with priorities of 1."""
    import jax.numpy as jnp

    from kitae.buffer._tree import FAN_OUT

    state = state._replace(size=jnp.full_like(state.size, capacity))
    if state.priorities is None:
        return state
    n_envs, levels = state.size.size, []
    sums = jnp.ones((n_envs, capacity))
    for level in state.priorities.levels:
        room = level.shape[1] - sums.shape[1]
        levels.append(jnp.pad(sums, ((0, 0), (0, room))))
        sums = levels[-1].reshape(n_envs, -1, FAN_OUT).sum(axis=2)
    priorities = state.priorities._replace(levels=tuple(levels))
    return state._replace(priorities=priorities)


def devices(
    count: int, turns: int, turn_seconds: float
) -> Iterator[tuple[str, list[float]]]:
    """Trains on more devices that are one processor."""
    import jax

    agent, env = kitae_agent(16)
    some = jax.devices()[:count]
    yield (
        "16 environments, one processor",
        paced(lambda n: agent.train(env, n, devices=some), 16, turns, turn_seconds),
    )


AXES = {
    "environments": Axis(
        (1, 4, 16, 64, 256, 1_024, 4_096), environments, "a vector step"
    ),
    "seeds": Axis((1, 4, 16, 64, 256), seeds, "a vector step of all seeds"),
    "transitions": Axis((10**4, 10**5, 10**6, 10**7), transitions, "an iteration"),
    "devices": Axis((1, 2, 4, 8), devices, "a vector step"),
}


def measured(name: str, turns: int, turn_seconds: float) -> list[dict[str, Any]]:
    """Measures along one axis, in this process."""
    points = []
    for count in AXES[name].counts:
        for series, times in AXES[name].points(count, turns, turn_seconds):
            points.append({"axis": name, "series": series, "n": count, "us": times})
            print(f"{count:,} {name}, {series}: {spread(times, 1)} µs", flush=True)
    return points


def in_a_process(name: str, arguments: list[str]) -> list[dict[str, Any]]:
    """Measures along one axis in a process of its own, where devices are forced."""
    environment = dict(os.environ)
    if name == "devices":
        flags = environment.get("XLA_FLAGS", "")
        forced = "--xla_force_host_platform_device_count=8"
        environment["XLA_FLAGS"] = f"{flags} {forced}"
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder, "points.json")
        command = [sys.executable, __file__, "--alone", name, "--json", str(found)]
        subprocess.run([*command, *arguments], cwd=folder, env=environment, check=True)
        return json.loads(found.read_text(encoding="utf-8"))


def slope(points: list[dict[str, Any]]) -> float:
    """Returns d log(time) / d log(n) between the last two points: 1 if it is linear."""
    (n, time), (more, longer) = (
        (point["n"], statistics.median(point["us"])) for point in points[-2:]
    )
    return math.log(longer / time) / math.log(more / n)


def series_of(points: list[dict[str, Any]]) -> dict[tuple[str, str], list[Any]]:
    """Puts points of one axis and name together, the smallest first."""
    found: dict[tuple[str, str], list[Any]] = {}
    for point in sorted(points, key=lambda point: point["n"]):
        found.setdefault((point["axis"], point["series"]), []).append(point)
    return {key: found[key] for key in sorted(found, key=lambda k: [*AXES].index(k[0]))}


def as_table(points: list[dict[str, Any]]) -> str:
    """Returns a Markdown table of medians, with their extremes."""
    lines = ["| of | how many | µs | each | slope |", "|---|--:|--:|--:|--:|"]
    for (axis, name), line in series_of(points).items():
        for point in line:
            middle, last = statistics.median(point["us"]), point is line[-1]
            lines.append(
                f"| {axis}: {AXES[axis].of}, {name} | {point['n']:,} "
                f"| {spread(point['us'], 1)} | {middle / point['n']:,.3g} "
                f"| {f'{slope(line):.2f}' if last else ''} |"
            )
    return "\n".join(lines)


def draw(figure_axes: Any, points: list[dict[str, Any]]) -> None:
    """Draws the time of each axis against how many there are, on logarithmic scales."""
    figure = figure_axes.figure
    figure_axes.remove()
    panels = dict(zip(AXES, figure.subplots(2, 2).ravel(), strict=True))
    for (axis, name), line in series_of(points).items():
        panel, counts = panels[axis], [point["n"] for point in line]
        colour = COLOURS[len(panel.lines)]
        middle = [statistics.median(point["us"]) for point in line]
        panel.plot(counts, middle, "o-", color=colour, label=name)
        low, high = ([f(point["us"]) for point in line] for f in (min, max))
        panel.fill_between(counts, low, high, color=colour, alpha=0.2)
    for axis, panel in panels.items():
        panel.set(xscale="log", yscale="log")
        label_axes(panel, axis, f"µs, {AXES[axis].of}")
        panel.set_xticks(AXES[axis].counts)
        low, high = panel.get_ylim()
        ticks = [n * 10**k for k in range(6) for n in (1, 2, 5)]
        panel.set_yticks([tick for tick in ticks if low <= tick <= high])
        panel.minorticks_off()
        panel.legend(fontsize=8)


def main() -> None:
    """Measures, and prints the table; or draws what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--axes", nargs="+", choices=AXES, default=list(AXES))
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0, help="a turn's length")
    parser.add_argument("--json", type=Path, help="also write the points to this file")
    parser.add_argument("--plot", action="store_true", help="draw docs/scaling.json")
    parser.add_argument("--alone", choices=AXES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.plot:
        points = json.loads(STORED.read_text(encoding="utf-8"))
        PLOT.write_bytes(render(lambda axes: draw(axes, points), "svg", (9, 6)))
        print(as_table(points))
        return
    if args.alone:
        points = measured(args.alone, args.turns, args.seconds)
        args.json.write_text(json.dumps(points), encoding="utf-8")
        return
    print(f"CartPole-v1, {os.cpu_count()} processors")
    actual = ["--turns", str(args.turns), "--seconds", str(args.seconds)]
    points = [point for axis in args.axes for point in in_a_process(axis, actual)]
    print(as_table(points))
    if args.json:
        kept = []
        if args.json.exists():
            kept = json.loads(args.json.read_text(encoding="utf-8"))
        kept = [point for point in kept if point["axis"] not in args.axes]
        text = json.dumps(kept + points, indent=1)
        args.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
