"""What each speed trick gains: whole trainings with it and without, in turns.

    tools/hatch run bench:tricks host16 callback
    tools/hatch run bench:tricks start quick-compile

Two agents train in one process, one of them with a trick switched off, and take turns.
Printed is how many times as long a turn without the trick takes: the median of the
ratios of turns next to each other, with their quartiles, in processor time and by the
clock. Above 1 the trick gains. Python keeps its state for a thread for both agents:
so `threads` is measured between two processes, and so is the time until the first
training is done (`start`).
"""

import argparse
import contextlib
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

from golden import Case, _makers

CARTPOLE, COMPILED = "CartPole-v1", "phys2d/CartPole-v1"
UPDATE = {"max_buffer_size": 10_000, "batch_size": 128}
ROLLOUT = {"max_buffer_size": 16, "batch_size": 128, "n_epochs": 2}
NET = {"hidden_sizes": (120, 84)}
RAINBOW = {"hidden_sizes": (64,), "n_atoms": 51, "v_min": 0.0, "v_max": 100.0}
# By name: the training, and the environment steps of a turn.
TRAININGS = {
    "host1": (Case("DQN", CARTPOLE, 1, {**NET, "skip_steps": 4}, update=UPDATE), 1_500),
    "host16": (Case("DQN", CARTPOLE, 16, NET, update=UPDATE), 8_000),
    "compiled": (Case("DQN", COMPILED, 10, NET, update=UPDATE), 10_000),
    "rainbow": (Case("Rainbow", COMPILED, 16, RAINBOW, update=UPDATE), 3_200),
    "frames": (
        Case("DQN", "phys2d-images", 2, {"hidden_sizes": (32,), "frame_stack": 2}),
        100,
    ),
    "pqn": (Case("PQN", COMPILED, 16, NET, update=ROLLOUT), 20_000),
}


class Side:
    """An agent that trains with some tricks off.

    Args:
        name: Of the training.
        off: What `KITAE_XLA` is.
    """

    def __init__(self, name: str, off: str) -> None:
        case, self._n_steps = TRAININGS[name]
        self._off = off
        os.environ["KITAE_XLA"] = off
        make_agent, make_env = _makers(case)
        self._env = make_env()
        self._agent = make_agent(self._env)

    def turn(self) -> tuple[float, float]:
        """Trains; returns the seconds of processor time, and by the clock."""
        os.environ["KITAE_XLA"] = self._off
        clock, processor = time.perf_counter(), time.process_time()
        with contextlib.redirect_stdout(io.StringIO()):
            self._agent.train(self._env, self._n_steps)
        return time.process_time() - processor, time.perf_counter() - clock

    def close(self) -> None:
        """Closes the environments."""
        self._env.close()


class Process:
    """A `Side` in a process of its own, with the same methods."""

    def __init__(self, name: str, off: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, name, "as-set", "--serve"],
            env={**os.environ, "KITAE_XLA": off},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def turn(self) -> tuple[float, float]:
        """Has it take a turn."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write("\n")
        stdin.flush()
        return tuple(json.loads(stdout.readline()))

    def close(self) -> None:
        """Ends the process."""
        self._process.communicate()


def main() -> None:
    """Measures one trick by one training, or its start."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("training", choices=(*TRAININGS, "start"))
    parser.add_argument("trick", help="a name that KITAE_XLA knows, or `all`")
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        if args.serve:
            _serve(args.training, os.environ["KITAE_XLA"])
            return
        off = "off" if args.trick == "all" else f"-{args.trick}"
        pairs = list(_pairs(args.training, off, args.turns))
    for what, pair in (("processor", 0), ("clock", 1)):
        ratios = [without[pair] / within[pair] for within, without in pairs]
        low, middle, high = statistics.quantiles(ratios, n=4)
        print(f"{what}: {middle:.2f} times as long without ({low:.2f} to {high:.2f})")


def _pairs(name: str, off: str, turns: int) -> Any:
    """Yields the times of turns next to each other, with the trick and without."""
    if name == "start":
        for _ in range(turns):
            yield _first("host16", ""), _first("host16", off)
        return
    kind = Process if off in ("-threads", "off") else Side
    sides = [kind(name, ""), kind(name, off)]
    for side in sides * 2:
        side.turn()  # compiles, fills the replay
    for i in range(turns):
        order = sides if i % 2 else sides[::-1]
        times = {side: side.turn() for side in order}
        yield times[sides[0]], times[sides[1]]
    for side in sides:
        side.close()


def _first(name: str, off: str) -> tuple[float, float]:
    """Returns the times of a first turn in a new process."""
    process = Process(name, off)
    times = process.turn()
    process.close()
    return times


def _serve(name: str, off: str) -> None:
    """Takes a turn for each line of standard input."""
    side = None
    for _ in sys.stdin:
        # The first turn has the agent made too.
        clock, processor = time.perf_counter(), time.process_time()
        if side is None:
            side = Side(name, off)
        side.turn()
        times = time.process_time() - processor, time.perf_counter() - clock
        print(json.dumps(times), flush=True)


if __name__ == "__main__":
    main()
