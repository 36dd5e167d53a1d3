"""λ-returns and advantages, beside rlax's in one run.

T = 1,000 steps of 64 sequences, float32, each function compiled by itself. rlax's are
of one sequence: mapped over the batch, once with time and once with the batch as the
first axis, and the faster of the two is what Kitae's are compared with.

    hatch run bench:targets
"""

import argparse
import sys
import time
from collections.abc import Callable
from typing import Any

from bench_sides import Row, add_arguments, measured, python_of, report, serve

N_STEPS, BATCH_SIZE, LAMBDA = 1_000, 64, 0.95
ASKED = {"λ-returns": 1.5, "GAE": 1.5}


def arrays(*shape: int) -> dict[str, Any]:
    """Draws rewards, discounts and values of the same sequences."""
    import jax
    import jax.numpy as jnp

    keys = jax.random.split(jax.random.key(0), 3)
    ends = jax.random.bernoulli(keys[1], 0.01, shape)
    return {
        "rewards": jax.random.normal(keys[0], shape),
        "discounts": jnp.where(ends, 0.0, 0.99),
        "values": jax.random.normal(keys[2], shape),
        "next_values": jax.random.normal(keys[2], shape),
    }


def kitae_functions() -> dict[str, Callable[[], Any]]:
    """Makes Kitae's functions of no arguments."""
    from kitae.timesteps import compute_gae, compute_lambda_returns

    given = arrays(N_STEPS, BATCH_SIZE)
    r, d, v, n = given.values()
    return {
        "λ-returns": lambda: compute_lambda_returns(r, d, n, LAMBDA),
        "GAE": lambda: compute_gae(r, d, v, n, LAMBDA),
    }


def rlax_functions() -> dict[str, Callable[[], Any]]:
    """Makes rlax's functions of no arguments, two of each."""
    import jax
    import jax.numpy as jnp
    import rlax

    functions = {}
    for name, axis in {"": 1, ", batch first": 0}.items():
        shape = (N_STEPS, BATCH_SIZE) if axis else (BATCH_SIZE, N_STEPS)
        r, d, v, _ = arrays(*shape).values()
        values = jnp.concatenate([v, v[:, :1] if axis == 0 else v[:1]], 1 - axis)
        returns = jax.jit(jax.vmap(rlax.lambda_returns, (axis, axis, axis, None), axis))
        gae = jax.jit(
            jax.vmap(
                rlax.truncated_generalized_advantage_estimation,
                (axis, axis, None, axis),
                axis,
            )
        )
        functions[f"λ-returns{name}"] = lambda f=returns, r=r, d=d, v=v: f(
            r, d, v, LAMBDA
        )
        functions[f"GAE{name}"] = lambda f=gae, r=r, d=d, v=values: f(r, d, LAMBDA, v)
    return functions


SIDES = {"kitae": kitae_functions, "rlax": rlax_functions}


def timed(functions: dict[str, Callable[[], Any]]) -> Callable[[int], dict[str, float]]:
    """Makes a turn: each function some times; milliseconds of a call."""
    import jax

    def turn(n_calls: int) -> dict[str, float]:
        taken = {}
        for name, function in functions.items():
            start = time.perf_counter()
            for _ in range(n_calls):
                jax.block_until_ready(function())
            taken[name] = 1e3 * (time.perf_counter() - start) / n_calls
        return taken

    return turn


def main() -> None:
    """Runs both sides in turns and prints the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--calls", type=int, default=200, help="in a turn")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    add_arguments(parser)
    args = parser.parse_args()
    if args.side:
        serve(timed(SIDES[args.side]()))
        return
    pythons = {"kitae": sys.executable, "rlax": python_of("peers")}
    found, versions = measured(pythons, __file__, args.turns, args.calls, first=10)
    rows = [
        Row(
            f"{name}, T = {N_STEPS:,}, batch {BATCH_SIZE}",
            "rlax",
            "ms",
            [turn[name] for turn in found["kitae"]],
            [min(turn[name], turn[f"{name}, batch first"]) for turn in found["rlax"]],
            asked,
        )
        for name, asked in ASKED.items()
    ]
    report(rows, versions, args)


if __name__ == "__main__":
    main()
