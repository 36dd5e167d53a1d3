"""One call of `train`: its run's directory, report, checkpoints and interrupts."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import jax

from kitae.base import checkpoint
from kitae.base.files import write_file
from kitae.base.interrupts import Interrupt, held_back
from kitae.base.report import Report, Silent
from kitae.base.run_dir import CONFIG, locked
from kitae.base.saving import Saver, go_back
from kitae.base.statistics import EpisodeStatistics
from kitae.base.system import write_system
from kitae.config.schedule import crossed
from kitae.config.serial import config_to_json

if TYPE_CHECKING:
    from kitae.base.agent import BaseAgent


class Run:
    """What a driver tells of its steps, and which is asked what follows from them.

    Args:
        agent: Who trains.
        report: What is shown and written of it.
        saver: Writes its checkpoints.
        interrupt: Whether it is to end early.
        saved_at: The environment step at which the agent was saved as it is.
        run_dir: Where the run is written. None: another process writes it.
    """

    def __init__(
        self,
        agent: "BaseAgent",
        report: Report,
        saver: Saver,
        interrupt: Interrupt,
        saved_at: int | None,
        run_dir: Path | None,
    ) -> None:
        self.report = report
        self._agent = agent
        self._saver = saver
        self._interrupt = interrupt
        self._saved_at = saved_at
        self._run_dir = run_dir
        self._first_step = agent.step

    @property
    def interrupted(self) -> bool:
        """Whether Ctrl-C was pressed, or SIGTERM came."""
        return self._interrupt.signal is not None

    def after_step(self, before: int) -> bool:
        """Takes note of steps since `before`; returns whether a checkpoint was due.

        Raises:
            FloatingPointError: A value to be written or saved is not finite.
            OSError: A checkpoint could not be written.
            KeyboardInterrupt: Ctrl-C was pressed; the agent was saved first.
            SystemExit: SIGTERM came; the agent was saved first.
        """
        agent, frequency = self._agent, self._agent.config.train_cfg.save_frequency
        self.begin()
        self.report.after_step(before, agent.step)
        self._saver.check()
        due = frequency > 0 and crossed(before, agent.step, frequency)
        # One of several processes cannot save alone.
        ends = self.interrupted and jax.process_count() == 1
        if due or ends:
            self._save(wait=ends)
        self._interrupt.raise_if_pressed()
        return due

    def begin(self) -> None:
        """Once a step was taken, leaves the branch of later checkpoints behind.

        Not before: a training that is refused changes nothing.
        """
        if self._run_dir is not None and self._agent.step > self._first_step:
            checkpoint.retire(self._run_dir, self._first_step)
            self._run_dir = None

    def finish(self) -> None:
        """Writes the last row of the metrics and the last checkpoint."""
        self.report.finish()
        if self._saved_at != self._agent.step:
            self._save(wait=True)

    def _save(self, wait: bool) -> None:
        self._agent._told = self.report.told()
        self._saver.save(self._agent, wait=wait)
        self._saved_at = self._agent.step


@contextmanager
def running(
    agent: "BaseAgent",
    statistics: EpisodeStatistics,
    until: int,
    saved: checkpoint.Saved | None,
) -> Iterator[Run]:
    """Opens the agent's run directory for the training in the body.

    Args:
        agent: Who trains.
        statistics: The episodes of this training.
        until: Environment steps at which it ends.
        saved: What it goes on from. None: it is no resumed one.

    Raises:
        RuntimeError: Another process trains in this directory.
    """
    train_cfg = agent.config.train_cfg
    saved_at = None if saved is None else agent.step
    keep = train_cfg.keep_last, train_cfg.keep_best
    if jax.process_index() != 0:
        with Saver(None, *keep) as saver, held_back() as interrupt:
            silent = Silent(agent, statistics, until)
            yield Run(agent, silent, saver, interrupt, saved_at, None)
        return
    run_dir = agent._own_run_dir()
    with locked(run_dir):
        checkpoint.clean(run_dir)
        if agent.step < until:
            go_back(agent, run_dir)
        write_file(run_dir / CONFIG, config_to_json(agent.config))
        write_system(run_dir, agent)
        with (
            Saver(run_dir, *keep) as saver,
            Report(agent, statistics, until) as report,
            held_back() as interrupt,
        ):
            run = Run(agent, report, saver, interrupt, saved_at, run_dir)
            try:
                yield run
            finally:
                run.begin()  # before the report writes the episodes of a step
