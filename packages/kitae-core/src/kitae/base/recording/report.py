"""What a training shows and writes while it runs."""

import math
import time
from collections import deque
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Self

import jax
import numpy as np

from kitae.base.algorithm.tracing import explained
from kitae.base.recording.live import REFRESH_SECONDS, Progress, open_display
from kitae.base.recording.statistics import EpisodeStatistics
from kitae.base.recording.trackers import StopTraining, TensorBoard, Tracker
from kitae.base.rundir.tables import Table, rows_until
from kitae.config.schedule import crossed
from kitae.types import Info

if TYPE_CHECKING:
    from kitae.base.agents.base import BaseAgent

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


class Report:
    """Progress where it can be seen; metrics as CSV, and for trackers if there are any.

    Used as a context manager around the training loop. What `after_update` is given
    stays on the device until a row is written.

    Args:
        agent: Who trains.
        statistics: The episodes of this training.
        until: Environment steps at which it ends.
        shown: Whether the progress is shown.

    Attributes:
        stopped: Whether a tracker raised `StopTraining`.
    """

    stopped = False

    def __init__(
        self,
        agent: "BaseAgent",
        statistics: EpisodeStatistics,
        until: int,
        *,
        shown: bool = True,
    ) -> None:
        self._info: Info = agent._told["info"]
        self._seconds_before: float = agent._told["seconds"]
        self._agent = agent
        self._statistics = statistics
        self._log_frequency = agent.config.train_cfg.log_frequency
        self._written_episodes = 0
        self._start = self._shown = self._last_time = time.perf_counter()
        self._first_step = self._last_step = agent.step
        self._first_updates = agent.updates
        self._is_shown = shown and agent.config.train_cfg.show_progress
        self._shown_metrics: dict[str, float] = {}
        self._progress = Progress(agent.run_name, agent.step, agent.step, until)

    def __enter__(self) -> Self:
        agent = self._agent
        run_dir, step = agent._own_run_dir(), agent.step
        names = sorted(self._info_names()) + list(agent.own_metrics())
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
        with ExitStack() as stack:
            self._metrics = Table(paths[0], COMMON_COLUMNS + names, rows)
            stack.callback(self._metrics.close)
            self._episodes = Table(paths[1], EPISODE_COLUMNS, episodes)
            stack.callback(self._episodes.close)
            self._trackers = _trackers(agent)
            for tracker in self._trackers:
                stack.callback(tracker.close)
                tracker.start(run_dir, agent.config, step)
            self._display = open_display(self._is_shown)
            stack.callback(self._close_display)
            self._opened = stack.pop_all()
        return self

    def __exit__(self, *_: Any) -> None:
        with self._opened:
            self._write_episodes()

    def finish(self) -> None:
        """Writes the last row."""
        if self._last_step < self._agent.step:
            self._write_row()

    def told(self) -> dict[str, Any]:
        """Puts on the disk what is told so far, and returns what a checkpoint needs.

        Raises:
            FloatingPointError: A value of the newest update is not finite.
        """
        info = self.check_finite()
        self._write_episodes()
        self._metrics.sync()
        self._episodes.sync()
        score = float(np.mean(self._recent)) if self._recent else None
        return {"seconds": self._seconds(), "info": info, "score": score}

    def after_update(self, info: Info | None) -> None:
        """Takes note of an update's info, if there was an update."""
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

    def after_step(self, before: int, after: int) -> None:
        """Takes note of one vector step, from `before` to `after` environment steps."""
        self._metrics.begin()
        self._episodes.begin()
        if crossed(before, after, self._log_frequency):
            self._write_row()
        # Reading the newest values waits for the device: only where they are seen.
        if self._display.live and time.perf_counter() - self._shown > REFRESH_SECONDS:
            self._show()

    def check_finite(self) -> dict[str, float]:
        """Reads the newest update's info.

        Raises:
            FloatingPointError: A value in it is not finite.
        """
        values = {name: float(value) for name, value in self._info.items()}
        for name, value in values.items():
            if not math.isfinite(value):
                raise FloatingPointError(
                    f"{name} is {value} at environment step {self._agent.step}, after "
                    f"{self._agent.updates} updates; it was not saved. A smaller "
                    "learning_rate or max_grad_norm may help"
                )
        return values

    def _info_names(self) -> list[str]:
        agent = self._agent
        with explained(f"{type(agent).__name__}'s process_experience or update_step"):
            shapes = agent._host.shapes_of_info()
        for name, shape in shapes.items():
            if shape.shape != ():
                raise ValueError(
                    f"update_step must return scalars in info, got {name} of shape "
                    f"{list(shape.shape)}"
                )
        return list(shapes)

    def _write_row(self) -> None:
        now, agent = time.perf_counter(), self._agent
        values = self.check_finite()
        self._write_episodes()
        fresh, self._fresh = self._fresh, []
        row: dict[str, Any] = {
            "env_step": agent.step,
            "updates": agent.updates,
            "seconds": round(self._seconds(), 3),
            "steps_per_second": round(
                (agent.step - self._last_step) / (now - self._last_time), 1
            ),
            "episodes": len(fresh),
        }
        if fresh:
            means = np.mean(fresh, axis=0)
            row["episode_return"], row["episode_length"] = means.tolist()
        own = agent.own_metrics()
        row |= values | own
        self._metrics.write([row])
        metrics = {name: row[name] for name in row if name != "env_step"}
        for tracker in self._trackers:
            self._log(tracker, metrics)
        self._shown_metrics = values | own
        self._display.row(self._updated())
        self._last_step, self._last_time = agent.step, now

    def _log(self, tracker: Tracker, metrics: dict[str, float]) -> None:
        try:
            tracker.log(self._agent.step, metrics)
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
            **self._agent.own_metrics(),
        }
        self._display.show(self._updated())

    def _close_display(self) -> None:
        self._display.close(self._updated())

    def _updated(self) -> Progress:
        """Brings what is shown up to date."""
        progress, statistics = self._progress, self._statistics
        progress.step = self._agent.step
        progress.seconds = time.perf_counter() - self._start
        progress.updates = self._agent.updates - self._first_updates
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

    def after_step(self, before: int, after: int) -> None:
        """Does nothing."""

    def finish(self) -> None:
        """Does nothing."""

    def told(self) -> dict[str, Any]:
        """Checks, and returns nothing that is written."""
        self.check_finite()
        return self._agent._told


def _trackers(agent: "BaseAgent") -> list[Tracker]:
    wanted = list(agent._trackers)
    if agent.config.train_cfg.tensorboard:
        wanted.append(TensorBoard())
    return wanted
