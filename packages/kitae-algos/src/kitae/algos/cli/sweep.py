"""`kitae sweep`: a search over fields of the settings, by Optuna."""

import csv
import dataclasses
import io
import json
import shlex
from collections.abc import Callable, Sequence
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kitae.algos.cli.settings import (
    Agent,
    Training,
    algo_config,
    changed,
    default_run_name,
    make_env,
    settings_toml,
    started_from,
    with_options_of,
)
from kitae.algos.cli.terminal import say
from kitae.base.rundir.directory import runs_root
from kitae.base.rundir.files import write_file
from kitae.config import check_int
from kitae.config.run_name import checked_run_name
from kitae.config.serial import plain
from kitae.envs.functional import as_jax_env

PARTS = ("algo", "update", "train")


@dataclass(frozen=True)
class Searched:
    """A field that is searched over.

    Attributes:
        name: Its path, such as `algo.gamma`.
        choices: The values to choose from; else `low` and `high` bound them.
        low: The lowest value; an int where the field is one.
        high: The highest.
        log: Whether values are as frequent in each order of magnitude.
    """

    name: str
    choices: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False

    def suggest(self, trial: Any) -> Any:
        """Returns a trial's value."""
        if self.choices:
            return trial.suggest_categorical(self.name, self.choices)
        if isinstance(self.low, int):
            return trial.suggest_int(self.name, self.low, self.high, log=self.log)
        return trial.suggest_float(self.name, self.low, self.high, log=self.log)


def searched(text: str, training: Training) -> Searched:
    """Reads what is searched over: `field=low:high`, `field=low:high:log`, `field=a,b`.

    Args:
        text: What the user typed; a field may be named without its part.
        training: The settings whose fields may be searched over.

    Raises:
        ValueError: There is no such field, or the range is not valid.

    Example:
        >>> from kitae.algos.cli.settings import defaults
        >>> from kitae.algos import DQN
        >>> start = defaults("dqn", DQN, "CartPole-v1")
        >>> searched("learning_rate=1e-4:1e-2:log", start).name
        'update.learning_rate'
        >>> searched("algo.double_q=true,false", start).choices
        (True, False)
    """
    name, equals, values = text.partition("=")
    name = _path(name.strip().replace("-", "_"), plain(training))
    if not equals or not values:
        raise ValueError(f"search must be field=low:high or field=a,b,c, got {text!r}")
    if ":" not in values:
        choices = tuple(_value(part) for part in values.split(","))
        if any(not isinstance(choice, bool | int | float | str) for choice in choices):
            raise ValueError(f"search must have numbers, words or bools, got {text!r}")
        return Searched(name, choices=choices)
    low, high, *rest = values.split(":")
    bounds = [_value(low), _value(high)]
    numbers = all(type(bound) in (int, float) for bound in bounds)
    if not numbers or bounds[0] >= bounds[1] or rest not in ([], ["log"]):
        raise ValueError(f"search must be field=low:high or :log behind, got {text!r}")
    part, field = name.split(".")
    if type(plain(training)[part][field]) is not int:
        bounds = [float(bound) for bound in bounds]
    return Searched(name, low=bounds[0], high=bounds[1], log=bool(rest))


def _path(name: str, fields: dict[str, Any]) -> str:
    known = [f"{part}.{field}" for part in PARTS for field in fields[part]]
    found = [path for path in known if name in (path, path.partition(".")[2])]
    if len(found) != 1:
        raise ValueError(f"search must name one of {', '.join(known)}, got {name!r}")
    return found[0]


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def sweep_command(arguments: Sequence[str]) -> Callable[..., None]:
    """Returns `sweep` with the options of the agent that the arguments name."""
    agent_type, start = started_from(arguments, ["sweep"])

    def sweep(
        agent: Agent,
        training: Training = start,
        search: tuple[str, ...] = (),
        n_trials: int = 20,
        n_seeds: int = 1,
        config: Path | None = None,
    ) -> None:
        """Searches for the settings of the highest mean greedy return.

        Args:
            agent: A name that `kitae agents` lists, or your own as module:Class. The
                options other than those of the search are those of `kitae train`.
            training: How.
            search: Fields and their values: learning_rate=1e-4:1e-2:log, n_epochs=1:4,
                batch_size=64,128,256. runs/<run_name> will have trials.csv, and
                best.toml, which `kitae train --config` reads.
            n_trials: Of the search in all, at least 1; the same call continues a search
                that was interrupted.
            n_seeds: Trainings in each trial, whose seeds follow on `seed`, at least 1;
                all in one program where the environments are JAX functions.
            config: A TOML file of options, which flags override.
        """
        _sweep(agent, agent_type, training, search, n_trials, n_seeds)

    return with_options_of(agent_type, sweep)


def _sweep(
    agent: str,
    agent_type: Any,
    training: Training,
    search: Sequence[str],
    n_trials: int,
    n_seeds: int,
) -> None:
    check_int("n_trials", n_trials, 1)
    check_int("n_seeds", n_seeds, 1)
    if not search:
        raise ValueError("search must name at least one field, such as gamma=0.9:0.999")
    fields = [searched(text, training) for text in search]
    name = training.run_name or f"sweep-{default_run_name(agent, training)}"
    here = Path.cwd()  # an environment may change it
    folder = runs_root() / checked_run_name(name)
    optuna = _optuna()
    study = _study(optuna, folder, training.seed)

    def objective(trial: Any) -> float:
        values = {field.name: field.suggest(trial) for field in fields}
        run_name = f"{name}/trial-{trial.number:03}"
        label = f"trial {trial.number + 1}/{n_trials}"
        shown = "  ".join(f"{name} {value}" for name, value in values.items())
        try:
            mine = _with_values(training, values)
            returns = _returns(agent_type, mine, here, run_name, n_seeds, trial)
        except (ValueError, FloatingPointError) as error:
            # Of a search, some values may not go together.
            say(f"{label}: {error}  {shown}")
            raise optuna.TrialPruned from None
        mean = float(np.mean(returns))
        say(f"{label}: mean return {mean:.1f}  {shown}")
        return mean

    left = n_trials - sum(trial.state.is_finished() for trial in study.trials)
    if left > 0:
        study.optimize(objective, n_trials=left)
    if not any(trial.value is not None for trial in study.trials):
        raise ValueError("no trial came to its end: see what each was refused for")
    _write(folder, study, agent, training)
    best = study.best_trial
    say(f"Best: trial {best.number + 1}, mean return {best.value:.1f}")
    path = shlex.quote(str(folder / "best.toml"))
    module = f" --env-id {training.env_id}" if ":" in training.env_id else ""
    say(f"  kitae train {agent} --config {path}{module}")


def _optuna() -> Any:
    try:
        import optuna
        import optuna.storages.journal
    except ImportError:
        raise ImportError(
            'sweep needs Optuna: pip install "kitae-algos[sweep]"'
        ) from None
    return optuna


def _study(optuna: Any, folder: Path, seed: int) -> Any:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    folder.mkdir(parents=True, exist_ok=True)
    storages = optuna.storages
    journal = storages.journal.JournalFileBackend(str(folder / "sweep.log"))
    return optuna.create_study(
        storage=storages.JournalStorage(journal),
        sampler=optuna.samplers.TPESampler(seed=seed),
        pruner=optuna.pruners.MedianPruner(),
        study_name=folder.name,
        direction="maximize",
        load_if_exists=True,
    )


def _with_values(training: Training, values: dict[str, Any]) -> Training:
    changes: dict[str, Any] = {part: {} for part in PARTS}
    for path, value in values.items():
        part, field = path.split(".")
        changes[part][field] = value
    return changed(training, changes)


def _returns(
    agent_type: Any,
    training: Training,
    here: Path,
    run_name: str,
    n_seeds: int,
    trial: Any,
) -> list[float]:
    """Trains with each seed; a trial that is worse than most is given up early."""
    quiet = dataclasses.replace(training.train, show_progress=False, eval_frequency=-1)
    env = make_env(dataclasses.replace(training, train=quiet))
    config = algo_config(dataclasses.replace(training, train=quiet), env)
    n_env_steps, n_episodes = training.train.n_env_steps, training.train.n_eval_episodes
    seeds = range(training.seed, training.seed + n_seeds)
    returns = []
    try:
        if as_jax_env(env, training.n_envs) is not None:
            with chdir(here):
                template = agent_type(run_name, config)
            for run in template.train_seeds(env, n_env_steps, seeds):
                returns.append(float(run.agent.evaluate(env, n_episodes).mean()))
            return returns
        for seed in seeds:
            mine = dataclasses.replace(config, seed=seed)
            with chdir(here):
                learner = agent_type(f"{run_name}-seed{seed}", mine)
            learner.train(env, n_env_steps)
            returns.append(float(learner.evaluate(env, n_episodes).mean()))
            trial.report(float(np.mean(returns)), step=len(returns))
            if len(returns) < n_seeds and trial.should_prune():
                return returns
        return returns
    finally:
        env.close()


def _write(folder: Path, study: Any, agent: str, training: Training) -> None:
    best = settings_toml(agent, _with_values(training, study.best_trial.params))
    write_file(folder / "best.toml", best)
    names = sorted({name for trial in study.trials for name in trial.params})
    table = io.StringIO()
    writer = csv.writer(table)
    writer.writerow(["trial", "mean_return", *names])
    for trial in study.trials:
        values = [trial.params.get(name, "") for name in names]
        writer.writerow([trial.number + 1, trial.value, *values])
    write_file(folder / "trials.csv", table.getvalue())
