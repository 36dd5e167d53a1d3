"""From a cold process: imports, and CartPole solved, beside the peers' in one run.

- Importing: `import kitae.algos` beside `import sbx`, from a process's start until
  it is there, and less the time of a Python that imports nothing. `kitae.algos` imports
  an agent when it is first named: so `from kitae.algos import DQN` is timed as well.
- Solved: from a process's start until greedy episodes of CartPole-v1 return 475 in the
  mean of 20, imports and compilation included, without a compilation cache on disk.
  Kitae's is DQN as `kitae.algos.presets` has it; Stable-Baselines3's is DQN with the
  values that its Zoo gives for the task. Both are asked every so many steps whether
  the task is solved; a seed that does not solve it counts with all of its time.

    hatch run bench:start
"""

import argparse
import sys

from bench_sides import (
    Row,
    add_arguments,
    from_cold,
    python_of,
    report,
    versions_of,
)

SOLVED, N_EPISODES, LOOK_EVERY = 475.0, 20, 5_000
TASK = "CartPole-v1"


def kitae_solves(seed: int) -> tuple[float, int]:
    """Trains until it is solved; returns the return and the steps."""
    from bench_learning import make

    agent, env = make("dqn", TASK, seed)
    n, mean = 0, 0.0
    while mean < SOLVED and n < agent.config.train_cfg.n_env_steps:
        agent.train(env, LOOK_EVERY)
        n += LOOK_EVERY
        mean = float(agent.evaluate(env, N_EPISODES).mean())
    return mean, n


def sb3_solves(seed: int) -> tuple[float, int]:
    """Trains until it is solved; returns the return and the steps."""
    from stable_baselines3 import DQN
    from stable_baselines3.common.callbacks import (
        EvalCallback,
        StopTrainingOnRewardThreshold,
    )
    from stable_baselines3.common.env_util import make_vec_env

    solved = EvalCallback(
        make_vec_env(TASK, n_envs=1, seed=1_000 + seed),
        callback_on_new_best=StopTrainingOnRewardThreshold(SOLVED, verbose=0),
        n_eval_episodes=N_EPISODES,
        eval_freq=LOOK_EVERY,
        verbose=0,
        warn=False,
    )
    agent = DQN(
        "MlpPolicy",
        make_vec_env(TASK, n_envs=1, seed=seed),
        learning_rate=2.3e-3,
        batch_size=64,
        buffer_size=100_000,
        learning_starts=1_000,
        gamma=0.99,
        target_update_interval=10,
        train_freq=256,
        gradient_steps=128,
        exploration_fraction=0.16,
        exploration_final_eps=0.04,
        policy_kwargs={"net_arch": [256, 256]},
        seed=seed,
        device="cpu",
    )
    agent.learn(50_000, callback=solved)
    return float(solved.last_mean_reward), int(agent.num_timesteps)


SOLVERS = {"kitae": kitae_solves, "stable-baselines3": sb3_solves}


def importing(pythons: dict[str, str], rounds: int) -> list[Row]:
    """Times the imports."""
    rows = []
    for asked, *imports in (
        (3.0, "import kitae.algos", "import sbx"),
        (None, "from kitae.algos import DQN", "from sbx import DQN"),
    ):
        times: list[list[float]] = [[], []]
        for _ in range(rounds + 1):  # the first writes bytecode
            for python, line, found in zip(
                pythons.values(), imports, times, strict=True
            ):
                bare, _ = from_cold([python, "-c", "print()"])
                whole, _ = from_cold([python, "-c", f"{line}; print()"])
                found.append(whole - bare)
        ours, theirs = (values[1:] for values in times)
        rows.append(Row(", ".join(imports), "sbx", "s", ours, theirs, asked))
    return rows


def solving(pythons: dict[str, str], seeds: int) -> list[Row]:
    """Times solving."""
    times: dict[str, list[float]] = {name: [] for name in SOLVERS}
    for seed in (seeds, *range(seeds)):  # the first writes bytecode
        for name in SOLVERS:
            python = pythons["kitae" if name == "kitae" else "peers"]
            command = [python, __file__, "--side", name, "--seeds", str(seed)]
            taken, last = from_cold(command)
            if seed < seeds:
                times[name].append(taken)
                print(f"seed {seed}, {name}: {taken:.1f} s, {last}")
    what = f"cold process until {TASK} is solved (greedy {SOLVED:g})"
    return [Row(what, "stable-baselines3", "s", *times.values(), target=7.0)]


def main() -> None:
    """Runs both sides in turns and prints the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7, help="of imports, or 0")
    parser.add_argument("--seeds", type=int, default=5, help="0 to this, less 1; or 0")
    parser.add_argument("--side", choices=SOLVERS, help=argparse.SUPPRESS)
    add_arguments(parser)
    args = parser.parse_args()
    if args.side:
        mean, n = SOLVERS[args.side](args.seeds)
        print(f"return {mean:.1f} after {n:,} steps")
        return
    pythons = {"kitae": sys.executable, "peers": python_of("peers")}
    rows = []
    if args.rounds:
        rows += importing(pythons, args.rounds)
    if args.seeds:
        rows += solving(pythons, args.seeds)
    report(rows, {n: versions_of(python) for n, python in pythons.items()}, args)


if __name__ == "__main__":
    main()
