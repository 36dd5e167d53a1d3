"""`kitae train` and `kitae resume`."""

import shlex
from collections.abc import Callable, Mapping, Sequence
from contextlib import chdir
from pathlib import Path
from typing import Any

from rich.syntax import Syntax

from kitae.algos.cli import evaluation
from kitae.algos.cli.settings import (
    SETTINGS,
    Agent,
    RunDir,
    Training,
    algo_config,
    default_run_name,
    eval_env_of,
    find_agent,
    make_env,
    said_again,
    settings_of,
    settings_toml,
    started_from,
    with_options_of,
)
from kitae.algos.cli.terminal import say, show
from kitae.base import BaseAgent, History, Tracker, WandB
from kitae.base.rundir import checkpoint
from kitae.base.rundir.directory import shown
from kitae.base.rundir.files import write_file
from kitae.base.rundir.output import visible
from kitae.config import AlgoConfig, check_int


class _Settings(Tracker):
    """Puts the settings into the run's directory as soon as there is one."""

    def __init__(self, text: str) -> None:
        self._text = text

    def start(self, run_dir: Path, config: AlgoConfig, env_step: int) -> None:
        """Writes them."""
        write_file(run_dir / SETTINGS, self._text)

    def log(self, env_step: int, metrics: Mapping[str, float]) -> None:
        """Does nothing."""


def train_command(arguments: Sequence[str]) -> Callable[..., None]:
    """Returns `train` with the options of the agent that the arguments name."""
    agent_type, start = started_from(arguments, ["train"])

    def train(
        agent: Agent,
        training: Training = start,
        config: Path | None = None,
        wandb: str | None = None,
    ) -> None:
        """Trains an agent, then plays greedy episodes and prints their mean return.

        Args:
            agent: A name that `kitae agents` lists, or your own as module:Class. The
                options below are those of DQN, unless another is named: `kitae train
                rainbow --help`. Their defaults are those for the environment.
            training: How.
            config: A TOML file of options, which flags override: such as the
                train.toml that a run leaves in its directory.
            wandb: A project of Weights & Biases that is sent the metrics.
        """
        _train(agent, training, wandb)

    return with_options_of(agent_type, train)


def _train(agent: str, training: Training, wandb: str | None) -> None:
    run_name = training.run_name or default_run_name(agent, training)
    here = Path.cwd()
    env = make_env(training, run_name)
    with chdir(here):  # an environment may change it as it is made
        learner = _make(agent, run_name, algo_config(training, env))
        eval_env = eval_env_of(training, env)
    text = settings_toml(agent, training)
    shown = "\n".join(map(visible, text.split("\n")))
    show(Syntax(shown, "toml", background_color="default"))
    say(
        f"Training {agent} on {training.env_id}: {training.n_envs} environments, "
        f"{training.train.n_env_steps:,} environment steps, seed {training.seed}"
    )
    trackers: list[Tracker] = [_Settings(text)]
    if wandb is not None:
        trackers.append(WandB(wandb))
    n_env_steps = training.train.n_env_steps
    history = _going(
        learner,
        said_again(agent, training),
        lambda: learner.train(env, n_env_steps, eval_env=eval_env, trackers=trackers),
    )
    _summarise(learner, history)
    evaluation.play(learner, env, training.train.n_eval_episodes)
    env.close()
    if eval_env is not None:
        eval_env.close()


def resume(
    run_dir: RunDir,
    n_env_steps: int | None = None,
    step: int | None = None,
    agent: str | None = None,
    env_id: str | None = None,
    wandb: str | None = None,
) -> None:
    """Continues a run from a checkpoint, as if it had never been interrupted.

    Args:
        run_dir: The run's directory, such as runs/dqn-CartPole-v1-0.
        n_env_steps: Environment steps in all. Default: as many as it was to have.
        step: Of which checkpoint. Default: the newest. Later ones are removed once this
            training has written one.
        agent: Needed for an agent of your own: module:Class.
        env_id: Needed where the environment's id names a module: module:Env-v0.
        wandb: A project of Weights & Biases that is sent the metrics.
    """
    run_dir = run_dir.absolute()
    name, agent_type, training = settings_of(run_dir, agent, env_id)
    total = training.train.n_env_steps if n_env_steps is None else n_env_steps
    check_int("n_env_steps", total, 1)
    saved = checkpoint.steps(run_dir)
    if saved and step is None and max(saved) >= total:
        raise ValueError(
            f"{shown(run_dir)} has {max(saved):,} environment steps already: to "
            "continue, ask for more in all by --n-env-steps"
        )
    env = make_env(training)
    learner = agent_type(run_dir.name, algo_config(training, env))
    eval_env = eval_env_of(training, env)
    learner.run_dir = run_dir
    trackers = [] if wandb is None else [WandB(wandb)]
    say(f"Resuming {name} on {training.env_id}, to {total:,} environment steps")
    history = _going(
        learner,
        said_again(name, training),
        lambda: learner.resume(
            env, total, step=step, eval_env=eval_env, trackers=trackers
        ),
    )
    _summarise(learner, history)
    evaluation.play(learner, env, training.train.n_eval_episodes)
    env.close()
    if eval_env is not None:
        eval_env.close()


def _make(agent: str, run_name: str, config: AlgoConfig) -> BaseAgent:
    make: Any = find_agent(agent)  # whose constructors take less than BaseAgent's
    return make(run_name, config)


def _going(learner: BaseAgent, options: str, go: Callable[[], History]) -> History:
    """Trains; if that ends early, says how to continue, with which options."""
    try:
        return go()
    except BaseException as error:
        run_dir = learner.run_dir
        if run_dir is not None and learner.step in checkpoint.steps(run_dir):
            say(
                f"Stopped and saved at {learner.step:,} environment steps; "
                f"to continue: kitae resume {shlex.quote(str(shown(run_dir)))}{options}"
            )
        elif isinstance(error, KeyboardInterrupt | SystemExit):
            say("Stopped before anything was saved")
        raise


def _summarise(learner: BaseAgent, history: History) -> None:
    assert learner.run_dir is not None  # since it has trained
    say(
        f"Trained for {history.env_steps:,} environment steps with "
        f"{history.updates:,} updates; everything is in {shown(learner.run_dir)}"
    )
