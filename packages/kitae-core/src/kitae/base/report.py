"""What a training shows and writes while it runs."""

import csv
import io
import math
import os
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TextIO

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from kitae.base.files import replace_text
from kitae.base.statistics import EpisodeStatistics
from kitae.base.tracing import explained
from kitae.config.schedule import crossed
from kitae.types import Info

if TYPE_CHECKING:
    from kitae.base.agent import BaseAgent

REFRESH_SECONDS = 0.25
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
    """Progress on the terminal; metrics as CSV, and for TensorBoard if asked.

    Used as a context manager around the training loop. What `after_update` is given
    stays on the device until a row is written.

    Args:
        agent: Who trains.
        statistics: The episodes of this training.
        until: Environment steps at which it ends.
        shown: Whether there is a progress bar on the terminal.
    """

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
        self._until = until
        self._log_frequency = agent.config.train_cfg.log_frequency
        self._written_episodes = 0
        self._start = self._shown = self._last_time = time.perf_counter()
        self._first_step = self._last_step = agent.step
        self._progress = _progress(shown)
        self._task = self._progress.add_task(
            agent.run_name, total=until, completed=agent.step, stats=""
        )

    def __enter__(self) -> Self:
        agent = self._agent
        run_dir, step = agent._own_run_dir(), agent.step
        names = sorted(self._info_names())
        paths = run_dir / "metrics.csv", run_dir / "episodes.csv"
        rows, episodes = (_rows_until(path, step) for path in paths)
        row_step = int(rows[-1]["env_step"]) if rows else 0
        known = [
            (int(row["env_step"]), float(row["return"]), int(row["length"]))
            for row in episodes
        ]
        self._metrics = _Table(paths[0], COMMON_COLUMNS + names, rows)
        self._episodes = _Table(paths[1], EPISODE_COLUMNS, episodes)
        # Of a resumed run, those that are in no row of the metrics yet.
        self._fresh = [(value, length) for at, value, length in known if at > row_step]
        self._recent = deque((value for _, value, _ in known), SHOWN_EPISODES)
        self._tensorboard = None
        if agent.config.train_cfg.tensorboard:
            self._tensorboard = _tensorboard_writer(run_dir, step)
        self._progress.start()
        return self

    def __exit__(self, *_: Any) -> None:
        try:
            self._write_episodes()
            self._show()
        finally:
            self._progress.stop()
            self._metrics.close()
            self._episodes.close()
            if self._tensorboard is not None:
                self._tensorboard.close()

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
        if crossed(before, after, self._log_frequency):
            self._write_row()
        if time.perf_counter() - self._shown > REFRESH_SECONDS:
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
            shapes = agent._learn.eval_shape(
                agent.state,
                agent.memory,
                agent.learn_key,
                np.uint32(0),
                *agent._no_rows,
            )
        for name, shape in shapes[2].items():
            if shape.shape != ():
                raise ValueError(
                    f"update_step must return scalars in info, got {name} of shape "
                    f"{list(shape.shape)}"
                )
        return list(shapes[2])

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
        row |= values
        self._metrics.write([row])
        if self._tensorboard is not None:
            for name, value in row.items():
                self._tensorboard.add_scalar(name, value, agent.step)
        self._last_step, self._last_time = agent.step, now

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
        now, step = time.perf_counter(), self._agent.step
        self._shown = now
        speed = (step - self._first_step) / max(now - self._start, 1e-9)
        stats = f"{speed:,.0f} steps/s"
        if len(self._statistics):
            returns = np.mean(self._statistics.returns[-SHOWN_EPISODES:])
            lengths = np.mean(self._statistics.lengths[-SHOWN_EPISODES:])
            stats = f"return {returns:,.1f}  length {lengths:,.1f}  {stats}"
        self._progress.update(self._task, completed=min(step, self._until), stats=stats)
        self._progress.refresh()


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


def _progress(shown: bool) -> Progress:
    console = Console()
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,.0f}/{task.total:,.0f}"),
        TextColumn("{task.fields[stats]}"),
        TimeRemainingColumn(),
        console=console,
        auto_refresh=False,
        disable=not (shown and console.is_terminal),
    )


class _Table:
    """A CSV file that a resumed run goes on writing.

    Args:
        path: The file, which is written anew.
        columns: Its header.
        kept: The rows it begins with.
    """

    def __init__(
        self, path: Path, columns: list[str], kept: list[dict[str, str]]
    ) -> None:
        content = io.StringIO()
        writer = csv.DictWriter(content, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(kept)
        replace_text(path, content.getvalue())
        self._file: TextIO = path.open("a", newline="", encoding="utf-8")
        self._writer = csv.DictWriter(self._file, columns, extrasaction="ignore")

    def write(self, rows: Any) -> None:
        """Writes rows, and hands them to the operating system."""
        self._writer.writerows(rows)
        self._file.flush()

    def sync(self) -> None:
        """Waits until they are on the disk."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def _rows_until(path: Path, env_step: int) -> list[dict[str, str]]:
    """Reads the rows of a CSV file that belong to a run as it was at `env_step`.

    The run that wrote the others went on past the checkpoint it is resumed from.

    Raises:
        ValueError: The file is damaged.
    """
    if not path.exists():
        return []
    try:
        content = path.read_text(encoding="utf-8")
        # A killed run may have left a part of its last line.
        whole = io.StringIO(content[: content.rfind("\n") + 1])
        return [
            row for row in csv.DictReader(whole) if int(row["env_step"]) <= env_step
        ]
    except (ValueError, KeyError, TypeError, csv.Error) as error:
        raise ValueError(f"{path} is damaged: {error!r}") from None


def _tensorboard_writer(run_dir: Path, env_step: int) -> Any:
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        raise ImportError(
            "train_cfg.tensorboard needs TensorBoard's writer: "
            'pip install "kitae-core[tensorboard]"'
        ) from None
    # What an interrupted run wrote after this step is not shown.
    return SummaryWriter(str(run_dir / "tensorboard"), purge_step=env_step + 1)
