"""Where the metrics of a training go besides its own CSV files."""

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from kitae.base.rundir.files import check_folder, read_file, write_file
from kitae.config import AlgoConfig
from kitae.config.serial import MAX_JSON_BYTES, config_to_json, strict_json


class StopTraining(Exception):
    """Raised by a tracker's `log`: the training ends in order after this step.

    The last row is written and a checkpoint saved, and `train` returns as usual. Where
    several processes train one agent, it is an error.

    Example:
        >>> def until_solved(env_step, metrics):
        ...     if metrics.get("episode_return", 0.0) >= 475.0:
        ...         raise StopTraining
        >>> agent.train(env, 500_000, trackers=[until_solved])  # doctest: +SKIP
    """


class Tracker(ABC):
    """Is given every row of the metrics; `log` is all that it must have.

    `log` may call `agent.save()` and `agent.evaluate()`, and may raise `StopTraining`.
    Any other error ends the training, which is saved first.

    Example:
        >>> class Best(Tracker):
        ...     value = float("-inf")
        ...
        ...     def log(self, env_step, metrics):
        ...         if "episode_return" in metrics:
        ...             self.value = max(self.value, metrics["episode_return"])
        >>> best = Best()
        >>> agent.train(env, 10_000, trackers=[best])  # doctest: +SKIP
    """

    def start(self, run_dir: Path, config: AlgoConfig, env_step: int) -> None:
        """Is called before the first row.

        Args:
            run_dir: The run's directory, which exists.
            config: The agent's.
            env_step: Environment steps so far: above 0 where a run goes on, whose
                earlier rows after this step, if there were any, count no more.
        """
        return

    @abstractmethod
    def log(self, env_step: int, metrics: Mapping[str, float]) -> None:
        """Takes one row.

        Args:
            env_step: Environment steps so far, more than at the last call.
            metrics: By the names that metrics.csv has. `episode_return` and
                `episode_length` are missing where no episode ended since the last row.

        Raises:
            StopTraining: The training is to end here.
        """

    def close(self) -> None:
        """Is called after the last row, and also when a training fails."""
        return


Callback = Callable[[int, Mapping[str, float]], object]


class _Function(Tracker):
    def __init__(self, function: Callback) -> None:
        self._function = function

    def log(self, env_step: int, metrics: Mapping[str, float]) -> None:
        self._function(env_step, metrics)


def checked_trackers(trackers: Iterable[Tracker | Callback]) -> list[Tracker]:
    """Takes trackers as they are, and functions as the `log` of one.

    Raises:
        TypeError: One is neither.

    Example:
        >>> rows = []
        >>> (tracker,) = checked_trackers([lambda step, metrics: rows.append(step)])
        >>> tracker.log(10, {})
        >>> rows
        [10]
    """
    checked = []
    for tracker in trackers:
        if isinstance(tracker, type) or not (
            isinstance(tracker, Tracker) or callable(tracker)
        ):
            raise TypeError(
                "trackers must be instances of kitae.base.Tracker, or functions of "
                f"(env_step, metrics), got {tracker!r}"
            )
        checked.append(tracker if isinstance(tracker, Tracker) else _Function(tracker))
    return checked


class TensorBoard(Tracker):
    """Writes TensorBoard's files into `<run_dir>/tensorboard`.

    Needs `pip install "kitae-core[tensorboard]"`. `train_cfg.tensorboard` asks for it
    without a tracker of one's own.

    Raises:
        ImportError: The extra is not installed.
    """

    def __init__(self) -> None:
        try:
            from tensorboardX import SummaryWriter
        except ImportError:
            raise ImportError(
                "TensorBoard's files need its writer: "
                'pip install "kitae-core[tensorboard]"'
            ) from None
        self._make = SummaryWriter
        self._writer: Any = None

    def start(self, run_dir: Path, config: AlgoConfig, env_step: int) -> None:
        """Opens a new file; what an interrupted run wrote after this is not shown."""
        folder = check_folder(run_dir / "tensorboard")
        self._writer = self._make(str(folder), purge_step=env_step + 1)

    def log(self, env_step: int, metrics: Mapping[str, float]) -> None:
        """Writes each value as a scalar."""
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, env_step)

    def close(self) -> None:
        """Closes the file."""
        if self._writer is not None:
            self._writer.close()


class WandB(Tracker):
    """Sends metrics and config to Weights & Biases, or keeps them when it is offline.

    Needs `pip install "kitae-core[wandb]"`. A run that is resumed goes on as the same
    run there: its id is in `<run_dir>/wandb.json`.

    Args:
        project: The project's name there.
        **options: For `wandb.init`, such as `entity`, `tags` or `mode="offline"`.

    Raises:
        ImportError: The extra is not installed.
    """

    def __init__(self, project: str, **options: Any) -> None:
        try:
            import wandb
        except ImportError:
            raise ImportError(
                'Weights & Biases needs its client: pip install "kitae-core[wandb]"'
            ) from None
        self._wandb: Any = wandb
        self._options = {"project": project, **options}
        self._run: Any = None

    def start(self, run_dir: Path, config: AlgoConfig, env_step: int) -> None:
        """Begins the run, or goes on with the one that `run_dir` tells of."""
        known = run_dir / "wandb.json"
        run_id = _run_id(known)
        self._run = self._wandb.init(
            id=run_id,
            resume="allow",
            name=run_dir.name,
            dir=str(run_dir),
            config=strict_json(config_to_json(config)),
            **self._options,
        )
        write_file(known, json.dumps({"id": self._run.id}) + "\n")
        self._run.define_metric("*", step_metric="env_step")

    def log(self, env_step: int, metrics: Mapping[str, float]) -> None:
        """Sends one row; `env_step` is the axis it is shown over."""
        self._run.log({"env_step": env_step, **metrics})

    def close(self) -> None:
        """Ends the run there, when everything is sent."""
        if self._run is not None:
            self._run.finish()


def _run_id(path: Path) -> str | None:
    """Returns the id that a run has there; None: it has none yet.

    Raises:
        ValueError: The file is damaged.
    """
    if not os.path.lexists(path):
        return None
    try:
        run_id = strict_json(read_file(path, MAX_JSON_BYTES))["id"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged: {error!r:.300}") from None
    if not isinstance(run_id, str):
        raise ValueError(f"{path} is damaged: its id must be a string")
    return run_id
