"""What a training shows and writes while it runs."""

import math
import time
from collections import deque
from contextlib import ExitStack
from typing import Any, Self

import jax
import numpy as np

from kitae.base.algorithm.state import Counters, Log, TrainingState
from kitae.base.recording.live import REFRESH_SECONDS, Progress, open_display
from kitae.base.recording.statistics import EpisodeStatistics
from kitae.base.recording.subject import Subject
from kitae.base.recording.trackers import StopTraining, TensorBoard, Tracker
from kitae.base.rundir.tables import Table, rows_until
from kitae.config.schedule import crossed
from kitae.types import Info

SHOWN_EPISODES = 100
COMMON_COLUMNS = [
    "env_step",
    "updates",
    "seconds",
    "steps_per_second",
    "episodes",
    "episode_return",
    "episode_length",
]
EPISODE_COLUMNS = ["env_step", "env", "return", "length"]
EVALUATION_COLUMNS = [
    "env_step",
    "updates",
    "seconds",
    "episodes",
    "return_mean",
    "return_std",
    "return_min",
    "return_max",
]


class Report:
    """Progress where it can be seen; metrics as CSV, and for trackers if there are any.

    Used as a context manager around the training loop. What `note` is given stays on
    the device until a row is written.

    Args:
        subject: Who trains.
        statistics: The episodes of this training.
        training: Where it begins.
        until: Environment steps at which it ends.
        shown: Whether the progress is shown.

    Attributes:
        stopped: Whether a tracker raised `StopTraining`.
    """

    stopped = False

    def __init__(
        self,
        subject: Subject,
        statistics: EpisodeStatistics,
        training: TrainingState,
        until: int,
        *,
        shown: bool = True,
    ) -> None:
        train_cfg, counters = subject.config.train_cfg, training.counters
        self._info: Info = training.log.info
        self._seconds_before: float = training.log.seconds
        self._subject = subject
        self._begun_with = training.log
        self._counters = counters
        self._statistics = statistics
        self._log_frequency = train_cfg.log_frequency
        self._written_episodes = 0
        self._start = self._shown = self._last_time = time.perf_counter()
        self._last_step = counters.step
        self._first_updates = counters.updates
        self._is_shown = shown and train_cfg.show_progress
        self._shown_metrics: dict[str, float] = {}
        self._progress = Progress(subject.run_name, counters.step, counters.step, until)
        self._evaluates = train_cfg.eval_frequency > 0
        self._evaluations: Table | None = None

    def __enter__(self) -> Self:
        subject, step = self._subject, self._counters.step
        run_dir = subject.run_dir()
        names = sorted(subject.info_names) + list(subject.own_metrics())
        paths = run_dir / "metrics.csv", run_dir / "episodes.csv"
        rows = rows_until(paths[0], step)
        episodes = rows_until(paths[1], step, ("return", "length"))
        row_step = int(rows[-1]["env_step"]) if rows else 0
        known = [
            (int(row["env_step"]), float(row["return"]), float(row["length"]))
            for row in episodes
        ]
        # Of a resumed run, those that are in no row of the metrics yet.
        self._fresh = [(value, length) for at, value, length in known if at > row_step]
        self._recent = deque((value for _, value, _ in known), SHOWN_EPISODES)
        evaluations = run_dir / "evaluations.csv"
        evaluated = rows_until(evaluations, step, ("return_mean",))
        if evaluated and self._evaluates:
            self._progress.evaluation = float(evaluated[-1]["return_mean"])
        with ExitStack() as stack:
            self._metrics = Table(paths[0], COMMON_COLUMNS + names, rows)
            stack.callback(self._metrics.close)
            self._episodes = Table(paths[1], EPISODE_COLUMNS, episodes)
            stack.callback(self._episodes.close)
            if self._evaluates or evaluated:
                self._evaluations = Table(evaluations, EVALUATION_COLUMNS, evaluated)
                stack.callback(self._evaluations.close)
            self._trackers = _trackers(subject)
            for tracker in self._trackers:
                stack.callback(tracker.close)
                tracker.start(run_dir, subject.config, step)
            self._display = open_display(self._is_shown)
            stack.callback(self._close_display)
            self._opened = stack.pop_all()
        return self

    def __exit__(self, *_: Any) -> None:
        with self._opened:
            self._write_episodes()

    def finish(self) -> None:
        """Writes the last row."""
        if self._last_step < self._counters.step:
            self._write_row()

    def log(self) -> Log:
        """Writes what there is to the disk; returns what a checkpoint needs of it.

        Raises:
            FloatingPointError: A value of the newest update is not finite.
        """
        info = self.check_finite()
        self._write_episodes()
        self._metrics.sync()
        self._episodes.sync()
        score = float(np.mean(self._recent)) if self._recent else None
        if self._evaluations is not None:
            self._evaluations.sync()
        if self._evaluates:
            score = self._progress.evaluation
        return Log(self._seconds(), info, score)

    def note(self, counters: Counters, info: Info | None) -> None:
        """Takes note of how far the training is, and of the newest update's info."""
        self._counters = counters
        if info is not None:
            self._info = info

    def after_updates(self, infos: dict[str, np.ndarray]) -> None:
        """Takes note of many updates, in order.

        Args:
            infos: `[n_updates]` of each name.

        Raises:
            FloatingPointError: A value is not finite.
        """
        for name, values in infos.items():
            finite = np.isfinite(values)
            worst = -1 if finite.all() else int(np.argmin(finite))
            self._info = {**self._info, name: values[worst]}
        if not all(np.isfinite(values).all() for values in infos.values()):
            self.check_finite()

    def after_step(self, before: int) -> None:
        """Writes what is due after steps since `before` environment steps."""
        self._metrics.begin()
        self._episodes.begin()
        if self._evaluations is not None:
            self._evaluations.begin()
        if crossed(before, self._counters.step, self._log_frequency):
            self._write_row()
        # Reading the newest values waits for the device: only where they are seen.
        if self._display.live and time.perf_counter() - self._shown > REFRESH_SECONDS:
            self._show()

    def after_evaluation(self, returns: np.ndarray) -> None:
        """Writes the returns of an evaluation, `[n_episodes]`."""
        assert self._evaluations is not None
        counters, mean = self._counters, float(returns.mean())
        row = {
            "env_step": counters.step,
            "updates": counters.updates,
            "seconds": round(self._seconds(), 3),
            "episodes": len(returns),
            "return_mean": mean,
            "return_std": float(returns.std()),
            "return_min": float(returns.min()),
            "return_max": float(returns.max()),
        }
        self._evaluations.write([row])
        self._progress.evaluation = mean
        metrics = {"eval_return": mean, "eval_return_std": row["return_std"]}
        for tracker in self._trackers:
            self._log(tracker, metrics)

    def check_finite(self) -> dict[str, float]:
        """Reads the newest update's info.

        Raises:
            FloatingPointError: A value in it is not finite.
        """
        values = {name: float(value) for name, value in self._info.items()}
        for name, value in values.items():
            if not math.isfinite(value):
                raise FloatingPointError(
                    f"{name} is {value} at environment step {self._counters.step}, "
                    f"after {self._counters.updates} updates; it was not saved. A "
                    "smaller learning_rate or max_grad_norm may help"
                )
        return values

    def _write_row(self) -> None:
        now, counters = time.perf_counter(), self._counters
        values = self.check_finite()
        self._write_episodes()
        fresh, self._fresh = self._fresh, []
        row: dict[str, Any] = {
            "env_step": counters.step,
            "updates": counters.updates,
            "seconds": round(self._seconds(), 3),
            "steps_per_second": round(
                (counters.step - self._last_step) / (now - self._last_time), 1
            ),
            "episodes": len(fresh),
        }
        if fresh:
            means = np.mean(fresh, axis=0)
            row["episode_return"], row["episode_length"] = means.tolist()
        own = self._subject.own_metrics()
        row |= values | own
        self._metrics.write([row])
        metrics = {name: row[name] for name in row if name != "env_step"}
        for tracker in self._trackers:
            self._log(tracker, metrics)
        self._shown_metrics = values | own
        self._display.row(self._updated())
        self._last_step, self._last_time = counters.step, now

    def _log(self, tracker: Tracker, metrics: dict[str, float]) -> None:
        try:
            tracker.log(self._counters.step, metrics)
        except StopTraining:
            if jax.process_count() > 1:
                raise RuntimeError(
                    "a tracker raised StopTraining, but the other processes of this "
                    "training would not stop"
                ) from None
            self.stopped = True

    def _write_episodes(self) -> None:
        statistics, new = self._statistics, slice(self._written_episodes, None)
        returns, lengths = statistics.returns[new], statistics.lengths[new]
        columns = statistics.env_steps[new], statistics.envs[new], returns, lengths
        self._episodes.write(
            dict(zip(EPISODE_COLUMNS, episode, strict=True))
            for episode in zip(*columns, strict=True)
        )
        self._fresh += zip(returns, lengths, strict=True)
        self._recent.extend(returns)
        self._written_episodes = len(statistics)

    def _seconds(self) -> float:
        """Of training, those before it was resumed included."""
        return self._seconds_before + time.perf_counter() - self._start

    def _show(self) -> None:
        self._shown = time.perf_counter()
        self._shown_metrics = {
            **{name: float(value) for name, value in self._info.items()},
            **self._subject.own_metrics(),
        }
        self._display.show(self._updated())

    def _close_display(self) -> None:
        self._display.close(self._updated())

    def _updated(self) -> Progress:
        """Brings what is shown up to date."""
        progress, statistics = self._progress, self._statistics
        progress.step = self._counters.step
        progress.seconds = time.perf_counter() - self._start
        progress.updates = self._counters.updates - self._first_updates
        progress.metrics = self._shown_metrics
        progress.episodes = len(statistics)
        if progress.episodes:
            newest = slice(-SHOWN_EPISODES, None)
            progress.episode_return = float(np.mean(statistics.returns[newest]))
            progress.episode_length = float(np.mean(statistics.lengths[newest]))
        progress.note_return()
        return progress


class Silent(Report):
    """Checks, but shows and writes nothing: another process does."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        pass

    def after_step(self, before: int) -> None:
        """Does nothing."""

    def finish(self) -> None:
        """Does nothing."""

    def after_evaluation(self, returns: np.ndarray) -> None:
        """Does nothing."""

    def log(self) -> Log:
        """Checks, and returns what the training began with: nothing is written."""
        self.check_finite()
        return self._begun_with


def _trackers(subject: Subject) -> list[Tracker]:
    wanted = list(subject.trackers)
    if subject.config.train_cfg.tensorboard:
        wanted.append(TensorBoard())
    return wanted
