"""The `kitae` command."""

import re
import sys
from dataclasses import dataclass, field
from typing import Annotated, Literal

import gymnasium as gym
import jax
import numpy as np
import tyro
from rich.console import Console

import kitae.config as cfg
from kitae.algos.dqn import DQN, DQNParams
from kitae.base import checkpoint
from kitae.envs.make import make_vec_env

AGENTS = {
    "dqn": "Deep Q-Network (Mnih et al., 2015), with double-Q targets as an option"
}

REFUSED = (
    ValueError,
    TypeError,
    OSError,
    MemoryError,
    RuntimeError,
    FloatingPointError,
    gym.error.Error,
)

app = tyro.extras.SubcommandApp()


@dataclass(frozen=True)
class Training:
    """What to train, and on what.

    Attributes:
        env_id: An environment of Gymnasium's registry.
        n_envs: Parallel environments, at least 1.
        seed: In [0, 2**32 - 1]; the same seed gives the same run.
        run_name: The run's directory under runs/. Default: agent, environment and seed.
        n_eval_episodes: Greedy episodes played at the end, at least 1.
        capture_video: Whether to film episodes while training.
        resume: Whether to go on from the last checkpoint of runs/<run_name>, to
            n_env_steps in all.
    """

    env_id: str = "CartPole-v1"
    n_envs: int = 16
    seed: int = 0
    run_name: str | None = None
    n_eval_episodes: int = 100
    capture_video: bool = False
    resume: bool = False
    algo: DQNParams = field(default_factory=DQNParams)
    update: cfg.UpdateConfig = field(
        default_factory=lambda: cfg.UpdateConfig(
            learning_rate=1e-3,
            learning_rate_annealing=True,
            max_grad_norm=10.0,
            max_buffer_size=1_000,
            batch_size=256,
        )
    )
    train: cfg.TrainConfig = field(
        default_factory=lambda: cfg.TrainConfig(n_env_steps=500_000)
    )


@app.command(name="train")
def train(
    agent: tyro.conf.Positional[Literal["dqn"]],
    training: Annotated[Training, tyro.conf.arg(name=""), tyro.conf.OmitArgPrefixes],
) -> None:
    """Trains an agent, then plays greedy episodes and prints their mean return.

    Args:
        agent: Which agent.
        training: How.
    """
    run_name = training.run_name or _run_name(agent, training)
    env = make_vec_env(
        training.env_id,
        training.n_envs,
        capture_video=training.capture_video,
        run_name=run_name,
    )
    config = cfg.AlgoConfig(
        seed=training.seed,
        algo_params=training.algo,
        update_cfg=training.update,
        train_cfg=training.train,
        env_cfg=cfg.EnvConfig(
            task_name=training.env_id,
            observation_space=env.single_observation_space,
            action_space=env.single_action_space,
            n_envs=training.n_envs,
        ),
    )
    learner = DQN(run_name, config)
    print(
        f"Training {agent} on {training.env_id}: {training.n_envs} environments, "
        f"{training.train.n_env_steps:,} environment steps, seed {training.seed}"
    )
    go = learner.resume if training.resume else learner.train
    try:
        history = go(env, training.train.n_env_steps)
    except (KeyboardInterrupt, SystemExit):
        _tell_how_to_go_on(learner)
        raise
    print(
        f"Trained for {history.env_steps:,} environment steps with "
        f"{history.updates:,} updates; everything is in {learner.run_dir}"
    )
    returns = learner.evaluate(env, training.n_eval_episodes)
    print(
        f"Greedy evaluation over {len(returns)} episodes: mean return "
        f"{returns.mean():.1f}, standard deviation {np.std(returns):.1f}"
    )
    env.close()


@app.command(name="agents")
def agents() -> None:
    """Lists the agents that can be trained."""
    for name, what in AGENTS.items():
        print(f"{name}  {what}")


def _tell_how_to_go_on(learner: DQN) -> None:
    run_dir = learner.run_dir
    if run_dir is None or learner.step not in checkpoint.steps(run_dir):
        print("Stopped before anything was saved")
        return
    print(
        f"Stopped and saved at {learner.step:,} environment steps; to go on: the same "
        f"command with --run-name {run_dir.relative_to('runs').as_posix()} --resume"
    )


def _run_name(agent: str, training: Training) -> str:
    task = re.sub(r"[^A-Za-z0-9.]+", "-", training.env_id)
    return f"{agent}-{task}-{training.seed}"


def main() -> None:
    """Runs the command; what the user got wrong is told in one line."""
    try:
        app.cli(prog="kitae")
    except jax.errors.JaxRuntimeError:
        raise  # no user's mistake: all of it is shown
    except REFUSED as error:
        Console(stderr=True, highlight=False).print(f"kitae: {error}", markup=False)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
