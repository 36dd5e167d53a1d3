"""Compiled training on CartPole: beside a bare update, beside rejax, and from cold.

CleanRL's problem: a 120-84 network, 10 environments or 100, one update on 128 of the
last 10,000 transitions at every vector step, the target moved every 50 updates. What is
timed:

- Steady state. Every turn is the same number of environment steps, after a first that
  does not count: it compiles and fills the replay. Kitae's turn is one `agent.train`:
  resets, replay, exploration, statistics, rows of metrics, and the checkpoint that ends
  a training, whose time is also told by itself. rejax's turn is its jitted `train`,
  which goes on from the state of the last turn; what it would call for evaluation does
  nothing here, and it keeps no statistics and writes nothing.
- The bare update: nothing but forward, target forward, backward and Adam, in a compiled
  loop in Kitae's process, on batches already at hand. It rotates among eight of them:
  with one, and a target that stays, XLA computes the targets once, before the loop.
  That form is timed too, as "hoisted"; it does less than an update must.
- From cold, with 10 environments: from the start of a process until 500,000 steps are
  done, imports and compilation included, without a compilation cache on disk.

Turns alternate, ratios are of turns next to each other, and figures are medians with
their extremes. Ratios within one run mean something, times on a busy machine do not.

    hatch run bench:compiled
"""

import argparse
import sys
from collections.abc import Callable
from typing import Any

from bench_sides import (
    Row,
    add_arguments,
    from_cold,
    measured,
    python_of,
    report,
    seconds,
    serve,
    spread,
)

N_ENVS, BATCH_SIZE, TRANSITIONS, START_STEP = 10, 128, 10_000, 10_000
HIDDEN_SIZES, LEARNING_RATE, GAMMA, N_ENV_STEPS = (120, 84), 2.5e-4, 0.99, 500_000
TARGET_UPDATES = 50
N_BATCHES = 8
BARE, HOISTED = "bare update", "bare update, hoisted"
FASTER_THAN_REJAX = {10: 1.8, 100: 1.5}


def kitae_agent(n_envs: int = N_ENVS) -> tuple[Any, Any]:
    """Makes Kitae's DQN and its environments."""
    import kitae.config as cfg
    from kitae.algos import DQN, DQNParams
    from kitae.envs.make import make_vec_env

    env = make_vec_env("phys2d/CartPole-v1", n_envs)
    config = cfg.AlgoConfig(
        seed=0,
        algo_params=DQNParams(
            gamma=GAMMA,
            hidden_sizes=HIDDEN_SIZES,
            target_update_period=TARGET_UPDATES,
            exploration_steps=N_ENV_STEPS // 2,
            start_step=START_STEP,
        ),
        update_cfg=cfg.UpdateConfig(
            learning_rate=LEARNING_RATE,
            max_buffer_size=TRANSITIONS // n_envs,
            batch_size=BATCH_SIZE,
        ),
        train_cfg=cfg.TrainConfig(
            N_ENV_STEPS, log_frequency=1_000 * n_envs, show_progress=False
        ),
        env_cfg=cfg.EnvConfig(
            "phys2d/CartPole-v1",
            env.single_observation_space,
            env.single_action_space,
            n_envs,
        ),
    )
    return DQN("bench", config), env


def bare_update() -> Callable[[int, bool], None]:
    """Makes `run(n, rotate)`: `n` updates and nothing else, plainly written."""
    import jax
    import jax.numpy as jnp
    import optax
    from flax import linen as nn

    hidden = [layer for size in HIDDEN_SIZES for layer in (nn.Dense(size), nn.relu)]
    network = nn.Sequential([*hidden, nn.Dense(2)])
    optimizer = optax.adam(LEARNING_RATE)
    keys = jax.random.split(jax.random.key(0), 5)
    shape = (N_BATCHES, BATCH_SIZE)
    batches = (
        jax.random.normal(keys[0], (*shape, 4)),
        jax.random.randint(keys[1], shape, 0, 2),
        jnp.ones(shape),
        jax.random.bernoulli(keys[2], 0.05, shape),
        jax.random.normal(keys[3], (*shape, 4)),
    )
    params = network.init(keys[4], jnp.zeros((1, 4)))

    def update(params: Any, moments: Any, target: Any, batch: Any) -> Any:
        observations, actions, rewards, dones, next_observations = batch
        next_values = network.apply(target, next_observations).max(axis=-1)
        targets = rewards + GAMMA * (1.0 - dones) * next_values

        def loss_fn(params: Any) -> jax.Array:
            values = network.apply(params, observations)
            chosen = jnp.take_along_axis(values, actions[:, None], axis=-1)[:, 0]
            return optax.l2_loss(chosen, targets).mean()

        loss, grads = jax.value_and_grad(loss_fn)(params)
        updates, moments = optimizer.update(grads, moments)
        return optax.apply_updates(params, updates), moments, loss

    def many(rotate: bool, params: Any, target: Any, batches: Any, n: Any) -> Any:
        def body(i: jax.Array, carry: Any) -> Any:
            params, moments, _ = carry
            at = i % N_BATCHES if rotate else 0
            batch = jax.tree.map(lambda leaf: leaf[at], batches)
            return update(params, moments, target, batch)

        carry = params, optimizer.init(params), jnp.float32(0)
        return jax.lax.fori_loop(0, n, body, carry)

    program = jax.jit(many, static_argnums=0)
    return lambda n, rotate: (
        jax.block_until_ready(program(rotate, params, params, batches, n)) and None
    )


def kitae_turns(n_envs: int) -> Callable[[int], dict[str, float]]:
    """Makes a turn of Kitae and of the bare update, all in this process.

    Half of the bare updates come before Kitae's training and half after it, so that a
    machine that gets slower or faster meanwhile does not change the ratio.
    """
    agent, env = kitae_agent(n_envs)
    bare = bare_update()

    def turn(n_env_steps: int) -> dict[str, float]:
        n_updates = n_env_steps // n_envs
        before = seconds(bare, n_updates // 2, True)
        whole = seconds(agent.train, env, n_env_steps)
        after = seconds(bare, n_updates - n_updates // 2, True)
        return {
            "kitae": whole,
            BARE: before + after,
            HOISTED: seconds(bare, n_updates, False),
            "checkpoint": seconds(agent.save),
        }

    return turn


def rejax_algorithm(n_env_steps: int, n_envs: int = N_ENVS) -> Any:
    """Makes rejax's DQN, for `n_env_steps` environment steps a call."""
    from flax import linen as nn
    from rejax import DQN
    from rejax.networks import DiscreteQNetwork, EpsilonGreedyPolicy

    algorithm = DQN.create(
        env="CartPole-v1",
        num_envs=n_envs,
        buffer_size=TRANSITIONS,
        fill_buffer=START_STEP,
        batch_size=BATCH_SIZE,
        learning_rate=LEARNING_RATE,
        total_timesteps=n_env_steps,
        eval_freq=n_env_steps,
        skip_initial_evaluation=True,
        target_update_freq=TARGET_UPDATES * n_envs,
        polyak=0.0,  # how much the target keeps of itself
        num_epochs=1,
        eps_start=1.0,
        eps_end=0.05,
        exploration_fraction=0.5,
        gamma=GAMMA,
        ddqn=False,
        max_grad_norm=1e9,
    )
    network = EpsilonGreedyPolicy(DiscreteQNetwork)(
        hidden_layer_sizes=HIDDEN_SIZES, action_dim=2, activation=nn.relu
    )
    return algorithm.replace(agent=network, eval_callback=lambda *_: ())


def rejax_turns(n_envs: int) -> Callable[[int], dict[str, float]]:
    """Makes a turn of rejax, which goes on from the last one's state."""
    import jax

    first = rejax_algorithm(N_ENV_STEPS, n_envs)
    state = jax.jit(first.init_state)(jax.random.key(0))
    programs: dict[int, Any] = {}

    def train(n_env_steps: int) -> None:
        nonlocal state
        if n_env_steps not in programs:
            algorithm = rejax_algorithm(n_env_steps, n_envs)
            programs[n_env_steps] = jax.jit(
                lambda state: algorithm.train(train_state=state)[0]
            )
        state = jax.block_until_ready(programs[n_env_steps](state))

    return lambda n_env_steps: {"rejax": seconds(train, n_env_steps)}


def kitae_from_cold() -> None:
    """Trains once."""
    agent, env = kitae_agent()
    agent.train(env, N_ENV_STEPS)


def rejax_from_cold() -> None:
    """Trains once."""
    import jax

    train = jax.jit(rejax_algorithm(N_ENV_STEPS).train)
    jax.block_until_ready(train(jax.random.key(0)))


TURNS = {"kitae": kitae_turns, "rejax": rejax_turns}
FROM_COLD = {"kitae": kitae_from_cold, "rejax": rejax_from_cold}
TIMED = {
    "kitae": "agent.train, with resets, statistics, metrics and a checkpoint",
    "rejax": "jitted train from where the last turn ended, without its evaluations",
}


def steady(
    pythons: dict[str, str], turns: int, n_env_steps: int, n_envs: int
) -> tuple[dict[str, list[float]], dict[str, dict[str, str]]]:
    """Returns the seconds of every turn, by what had it, and the sides' versions."""
    found, versions = measured(
        pythons, __file__, turns, n_env_steps, "--envs", str(n_envs)
    )
    answers = [answer for side in found.values() for answer in side]
    names = dict.fromkeys(name for answer in answers for name in answer)
    times = {n: [answer[n] for answer in answers if n in answer] for n in names}
    return times, versions


def rows_of(times: dict[str, list[float]], n_env_steps: int, n_envs: int) -> list[Row]:
    """Returns the rows of the steady state."""
    what = f"compiled training, {n_envs} environments"
    n_updates = n_env_steps // n_envs
    each = {n: [1e6 * t / n_updates for t in taken] for n, taken in times.items()}
    loop = [
        t - saved for t, saved in zip(each["kitae"], each["checkpoint"], strict=True)
    ]
    speeds = {n: [n_env_steps / t for t in taken] for n, taken in times.items()}
    per = "µs per vector step"
    asked = 1 / 1.15 if n_envs == N_ENVS else None
    rows = [
        Row(f"{what}, whole loop", BARE, per, each["kitae"], each[BARE], asked),
        Row(f"{what}, less its checkpoint", BARE, per, loop, each[BARE]),
        Row(f"{what}, whole loop", HOISTED, per, each["kitae"], each[HOISTED]),
    ]
    if "rejax" in times:
        asked = FASTER_THAN_REJAX.get(n_envs)
        ours, theirs = speeds["kitae"], speeds["rejax"]
        rows.insert(
            0, Row(f"{what}, steady state", "rejax", "steps/s", ours, theirs, asked)
        )
    return rows


def arguments() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=5, help="of steady state, or 0")
    parser.add_argument("--steps", type=int, default=200_000, help="in a turn")
    parser.add_argument("--rounds", type=int, default=3, help="from cold, or 0")
    parser.add_argument("--envs", nargs="+", type=int, default=[N_ENVS, 100])
    parser.add_argument("--alone", action="store_true", help="without rejax")
    add_arguments(parser)
    parser.add_argument("--side", choices=TURNS, help=argparse.SUPPRESS)
    parser.add_argument("--once", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.steps < 2 * START_STEP or any(args.steps % n for n in args.envs):
        parser.error(
            f"--steps must be a multiple of {args.envs}, {2 * START_STEP} at least"
        )
    return args


def main() -> None:
    """Runs what was asked for and prints medians, extremes and ratios."""
    args = arguments()
    if args.once:
        FROM_COLD[args.side]()
        print("done", flush=True)
        return
    if args.side:
        serve(TURNS[args.side](args.envs[0]))
        return

    pythons = {"kitae": sys.executable}
    if not args.alone:
        pythons["rejax"] = python_of("rejax")
    print(f"CartPole-v1, an update of {BATCH_SIZE} per vector step")
    for name in pythons:
        print(f"{name}: {TIMED[name]}")
    rows, versions = [], {}
    for n_envs in args.envs if args.turns else ():
        times, versions = steady(pythons, args.turns, args.steps, n_envs)
        rows += rows_of(times, args.steps, n_envs)
    if args.rounds:
        times = {name: [] for name in pythons}
        for _ in range(args.rounds + 1):
            for name, python in pythons.items():
                command = [python, __file__, "--side", name, "--once"]
                times[name].append(from_cold(command)[0])
        times = {name: found[1:] for name, found in times.items()}  # see `from_cold`
        what = f"compiled training, from cold to {N_ENV_STEPS:,} steps"
        if "rejax" in times:
            rows.append(Row(what, "rejax", "s", times["kitae"], times["rejax"], 2.0))
        else:
            print(f"{what}: {spread(times['kitae'], 2)} s")
    report(rows, versions, args)


if __name__ == "__main__":
    main()
