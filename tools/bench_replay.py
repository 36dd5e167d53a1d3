"""Replay, beside flashbax's in one run: adding, sampling, setting priorities.

Both sides hold 100,000 transitions, add 16 at a time (those of 16 environments) and
draw 256. Each function is compiled by itself with the replay donated, and its result
waited for. Three replays:

- vectors: `(4,)` float32 and the next one, action, reward, end;
- frames: observations of four stacked frames of 84 by 84 bytes, with the next ones.
  flashbax keeps the stacks, Kitae keeps each frame once and stacks when it samples;
- prioritised: vectors, drawn by priorities, which are then set anew.

    hatch run bench:replay
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from itertools import count, islice, repeat
from typing import Any, NamedTuple

from bench_sides import Row, add_arguments, measured, python_of, report, serve

N_ROWS, N_ENVS, BATCH_SIZE, EXPONENT = 100_000, 16, 256, 0.6
CAPACITY = N_ROWS // N_ENVS
FRAME, STACK, EPISODE = (84, 84), 4, 200
KINDS = ("vectors", "frames", "prioritised")


class Functions(NamedTuple):
    """A replay, full, and what is timed.

    Attributes:
        state: The replay.
        add: Of the replay and rows; gives the replay.
        sample: Of the replay and a key; gives a batch.
        update: Of the replay and a batch, whose priorities it sets; gives the replay.
    """

    state: Any
    add: Callable[[Any, Any], Any]
    sample: Callable[[Any, Any], Any]
    update: Callable[[Any, Any], Any] | None = None


def vector_rows() -> dict[str, Any]:
    """Makes the rows of a step."""
    import jax
    import jax.numpy as jnp

    seen = jax.random.normal(jax.random.key(0), (2, N_ENVS, 4))
    return {
        "observation": seen[0],
        "action": jnp.zeros(N_ENVS, jnp.int32),
        "reward": jnp.ones(N_ENVS),
        "done": jnp.zeros(N_ENVS, bool),
        "next_observation": seen[1],
    }


def frame_rows(axis: int) -> Iterator[dict[str, Any]]:
    """Gives the rows of one step after the other, frames stacked along `axis`."""
    import numpy as np

    rng = np.random.default_rng(0)
    window = [rng.integers(0, 256, (N_ENVS, *FRAME), np.uint8) for _ in range(STACK)]
    for step in count():
        before = np.stack(window, axis)
        ends = step % EPISODE == EPISODE - 1
        window = [*window[1:], rng.integers(0, 256, (N_ENVS, *FRAME), np.uint8)]
        yield {
            "observation": before,
            "action": np.zeros(N_ENVS, np.int32),
            "reward": np.ones(N_ENVS, np.float32),
            "done": np.full(N_ENVS, ends),
            "next_observation": np.stack(window, axis),
        }
        if ends:
            window = [window[-1]] * STACK


def steps(kind: str, axis: int) -> Iterator[dict[str, Any]]:
    """Gives the rows of one step after the other."""
    return frame_rows(axis) if kind == "frames" else repeat(vector_rows())


def filled(add: Callable[[Any, Any], Any], state: Any, kind: str, axis: int) -> Any:
    """Adds until the replay is full."""
    for rows in islice(steps(kind, axis), CAPACITY):
        state = add(state, rows)
    return state


def some_rows(kind: str, axis: int) -> dict[str, Any]:
    """Makes the rows of a step, on the device."""
    import jax

    return jax.device_put(next(steps(kind, axis)))


def kitae_functions(kind: str) -> Functions:
    """Makes Kitae's."""
    import jax

    from kitae.buffer import prioritised_replay, uniform_replay

    if kind == "prioritised":
        replay = prioritised_replay(CAPACITY, N_ENVS, BATCH_SIZE, exponent=EXPONENT)
    else:
        stack = STACK if kind == "frames" else None
        replay = uniform_replay(CAPACITY, N_ENVS, BATCH_SIZE, frame_stack=stack)
    row = jax.tree.map(lambda leaf: leaf[0], some_rows(kind, 1))
    add = jax.jit(replay.add, donate_argnums=0)
    update = None
    if replay.update_priorities is not None:
        change = replay.update_priorities
        update = jax.jit(
            lambda state, sample: change(state, sample.index, sample.importance),
            donate_argnums=0,
        )
    state = filled(add, replay.init(row), kind, 1)
    return Functions(state, add, jax.jit(replay.sample), update)


def flashbax_functions(kind: str) -> Functions:
    """Makes flashbax's."""
    import flashbax
    import jax

    sizes = {
        "max_length": N_ROWS,
        "min_length": BATCH_SIZE,
        "sample_batch_size": BATCH_SIZE,
        "add_batches": True,
    }
    update = None
    if kind == "prioritised":
        replay = flashbax.make_prioritised_item_buffer(
            **sizes, priority_exponent=EXPONENT, device="cpu"
        )
        update = jax.jit(
            lambda state, sample: replay.set_priorities(
                state, sample.indices, sample.probabilities
            ),
            donate_argnums=0,
        )
    else:
        replay = flashbax.make_item_buffer(**sizes)
    row = jax.tree.map(lambda leaf: leaf[0], some_rows(kind, -1))
    add = jax.jit(replay.add, donate_argnums=0)
    state = filled(add, jax.jit(replay.init)(row), kind, -1)
    return Functions(state, add, jax.jit(replay.sample), update)


SIDES = {"kitae": (kitae_functions, 1), "flashbax": (flashbax_functions, -1)}


def timed(side: str, kind: str) -> Callable[[int], dict[str, float]]:
    """Makes a turn: microseconds of a call of each function, and bytes held."""
    import jax

    functions, axis = SIDES[side]
    state, add, sample, update = functions(kind)
    rows = some_rows(kind, axis)
    n_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(state))

    def turn(n_calls: int) -> dict[str, float]:
        nonlocal state
        keys = list(jax.random.split(jax.random.key(0), n_calls))
        jax.block_until_ready((state, keys))
        start = time.perf_counter()
        for _ in keys:
            state = jax.block_until_ready(add(state, rows))
        added = time.perf_counter()
        for key in keys:
            batch = None  # whoever uses a batch is done with it before the next
            batch = jax.block_until_ready(sample(state, key))
        sampled = time.perf_counter()
        if update is not None:
            for _ in keys:
                state = jax.block_until_ready(update(state, batch))
        end = time.perf_counter()
        each = 1e6 / n_calls
        return {
            "add": each * (added - start),
            "sample": each * (sampled - added),
            "set priorities": each * (end - sampled),
            "bytes": n_bytes,
        }

    return turn


def rows_of(kind: str, found: dict[str, list[dict[str, float]]]) -> list[Row]:
    """Returns the rows of the table of one kind."""

    def row(what: str, names: tuple[str, ...], asked: float | None = None) -> Row:
        ours, theirs = (
            [sum(turn[name] for name in names) for turn in turns]
            for turns in found.values()
        )
        return Row(f"{what}, {kind}, 100k", "flashbax", "µs", ours, theirs, asked)

    if kind == "frames":
        sizes = [turns[0]["bytes"] for turns in found.values()]
        print(f"frames: {sizes[1] / sizes[0]:.2f} times the memory of Kitae's")
        return [
            row("add 16", ("add",)),
            row("sample 256 stacked 84×84×4 with next", ("sample",), 1.5),
        ]
    alone = [row("add 16", ("add",)), row("sample 256", ("sample",))]
    if kind == "vectors":
        return [*alone, row("add 16 / sample 256", ("add", "sample"), 2.0)]
    every = "add", "sample", "set priorities"
    return [
        *alone,
        row("set priorities of 256", ("set priorities",)),
        row("add 16 + sample 256 + set priorities", every, 1.5),
    ]


def main() -> None:
    """Runs both sides in turns and prints the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=11)
    parser.add_argument("--calls", type=int, default=300, help="in a turn")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    add_arguments(parser)
    args = parser.parse_args()
    if args.side:
        serve(timed(args.side, args.kinds[0]))
        return
    pythons = {"kitae": sys.executable, "flashbax": python_of("peers")}
    rows, versions = [], {}
    for kind in args.kinds:
        found, versions = measured(
            pythons, __file__, args.turns, args.calls, "--kinds", kind, first=10
        )
        rows += rows_of(kind, found)
    report(rows, versions, args)


if __name__ == "__main__":
    main()
