"""Where the time of a vector step goes, in training on the host.

Training is a program of many vector steps, which calls back for each: the whole, and
the answers to these calls, are timed on the problems of `bench:host`. Then each part is
timed alone, again and again, until its result is there. With an update at every step,
the program runs it while it waits for an answer.

    hatch run bench:profile
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any
from unittest import mock

import jax
import numpy as np
from bench_host import PROBLEMS, Problem, kitae_agent
from bench_sides import seconds

from kitae.base.training.functions import act_arguments
from kitae.base.training.host_calls import Stepper
from kitae.base.training.host_environments import host_env
from kitae.envs.host import HostEnv

MICRO = 1e6
# Vector steps, and calls of each part.
N_WARM_UP, N_STEPS, N_ALONE = 1_500, 6_000, 2_000
ALL, ANSWERS = "all", "answering the program's calls"
ENVS, GYM = "of this, the environments", "of these, Gymnasium's step"
PARTS: dict[str, tuple[Any, str]] = {
    ANSWERS: (Stepper, "reply"),
    ENVS: (HostEnv, "step"),
}


def in_the_loop(problem: Problem, agent: Any, env: Any) -> dict[str, float]:
    """Trains with timers in place of functions; µs per vector step."""
    spent = dict.fromkeys(PARTS, 0.0)

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                spent[name] += time.perf_counter() - start

        return call

    with ExitStack() as stack:
        for name, place in PARTS.items():
            timer = timed(name, getattr(*place))
            stack.enter_context(mock.patch.object(*place, timer))
        whole = seconds(agent.train, env, N_STEPS * problem.n_envs)
    spent = {ALL: whole} | spent
    return {name: MICRO * total / N_STEPS for name, total in spent.items()}


def alone(problem: Problem, agent: Any, env: Any) -> dict[str, float]:
    """Times each part by itself; medians in µs per vector step."""
    envs = host_env(agent.config, env)
    observation = envs.reset(np.random.SeedSequence(0))
    actions = np.zeros(problem.n_envs, np.int64)
    functions, training = agent.functions, agent.training_state
    rows, keys = functions.empty_rows(training), training.keys
    args = act_arguments(training, observation, None, None)

    def act() -> None:
        np.asarray(functions.act(*args).actions)

    def update() -> None:
        nonlocal training
        state, memory, _ = functions.learn(
            keys.learn, 0, training.state, training.memory, *rows
        )
        training = training._replace(state=state, memory=memory)
        jax.block_until_ready(state)

    return {
        ENVS: median(lambda: envs.step(actions)),
        GYM: median(lambda: env.step(actions)),
        "choosing actions, as a call": median(act),
        "an update, as a call": median(update) / problem.every,
    }


def median(function: Callable[[], Any]) -> float:
    """Calls a function often, and returns the median time in µs."""
    return MICRO * statistics.median(seconds(function) for _ in range(N_ALONE))


def print_profile(problem: Problem) -> None:
    """Prints the table of a problem."""
    agent, env = kitae_agent(problem)
    agent.train(env, N_WARM_UP * problem.n_envs)
    looped = in_the_loop(problem, agent, env)
    by_itself = alone(problem, agent, env)
    print(f"\n| {problem.what} | µs, in the loop | µs, alone |")
    print("|---|--:|--:|")
    for part in dict.fromkeys([*looped, *by_itself]):
        cells = [
            f"{found[part]:.0f}" if part in found else ""
            for found in (looped, by_itself)
        ]
        print(f"| {part} | {' | '.join(cells)} |")


def main() -> None:
    """Prints a table for each problem."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problems", nargs="+", choices=PROBLEMS, default=PROBLEMS)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # where its runs go
        for name in args.problems:
            print_profile(PROBLEMS[name])


if __name__ == "__main__":
    main()
