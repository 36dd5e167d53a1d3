"""Rainbow on an Atari game, beside a player that acts at random.

The game is ale-py's own, eight at a time; rewards are clipped for training and the
game's own score is what is told. Single frames are kept once each. As it is, it takes
about twenty minutes on two processors: by `--steps` it can be less or more.

    hatch run learning:atari
    hatch run learning:atari --game Breakout --steps 20000
"""

import argparse
import time
from typing import Any

import jax
import numpy as np

import kitae.config as cfg
from kitae.algos import Rainbow, RainbowParams
from kitae.envs.make import make_vec_env

N_ENVS = 8
N_EPISODES = 16


def make(game: str, n_env_steps: int, seed: int) -> tuple[Rainbow, Any, Any]:
    """Makes the agent, its environment, and one that tells the game's own score."""
    task = f"ALE/{game}-v5"
    env = make_vec_env(task, N_ENVS, reward_clipping=True)
    config = cfg.AlgoConfig(
        seed=seed,
        algo_params=RainbowParams(
            hidden_sizes=(256,),
            start_step=4_000,
            target_update_period=250,
            frame_stack=4,
        ),
        update_cfg=cfg.UpdateConfig(
            learning_rate=2.5e-4,
            max_grad_norm=10.0,
            max_buffer_size=max(n_env_steps // N_ENVS, 1_000),
            batch_size=32,
        ),
        train_cfg=cfg.TrainConfig(n_env_steps, log_frequency=5_000),
        env_cfg=cfg.EnvConfig(
            task, env.single_observation_space, env.single_action_space, N_ENVS
        ),
    )
    scored = make_vec_env(task, N_ENVS)
    return Rainbow(f"rainbow-{game}-{seed}", config), env, scored


class Random(Rainbow):
    """The same agent, but for its actions."""

    def select_action(self, observation: Any) -> tuple[jax.Array, jax.Array]:
        """Returns random actions."""
        key = self.interact_keys(observation)
        n_actions = self.config.env_cfg.action_space.n
        actions = jax.random.randint(key, (observation.shape[0],), 0, n_actions)
        return actions, jax.numpy.zeros(actions.shape)


def main() -> None:
    """Trains, and prints the scores of both."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--game", default="RoadRunner", help="as in ALE/<game>-v5")
    parser.add_argument("--steps", type=int, default=120_000, help="of the agent")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    agent, env, scored = make(args.game, args.steps, args.seed)
    chance = Random("random", agent.config).evaluate(scored, N_EPISODES)
    print(f"random: {chance.mean():.1f}, standard deviation {np.std(chance):.1f}")
    start = time.perf_counter()
    history = agent.train(env, args.steps)
    minutes = (time.perf_counter() - start) / 60
    held = sum(leaf.nbytes for leaf in jax.tree.leaves(agent.memory))
    print(
        f"{history.env_steps:,} steps and {history.updates:,} updates in "
        f"{minutes:.1f} minutes; the replay takes {held / 1e9:.2f} GB"
    )
    returns = agent.evaluate(scored, N_EPISODES)
    print(f"rainbow: {returns.mean():.1f}, standard deviation {np.std(returns):.1f}")


if __name__ == "__main__":
    main()
