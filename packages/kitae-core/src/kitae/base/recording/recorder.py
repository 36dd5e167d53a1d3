"""One call of `train`: its run's directory, report, checkpoints and interrupts."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np

from kitae.base.algorithm.state import Log, TrainingState
from kitae.base.common.interrupts import Interrupt, held_back
from kitae.base.recording.report import Report, Silent
from kitae.base.recording.saving import Saver, facts_of, go_back
from kitae.base.recording.statistics import EpisodeStatistics
from kitae.base.recording.subject import Subject
from kitae.base.rundir import checkpoint
from kitae.base.rundir.directory import CONFIG, locked, shown
from kitae.base.rundir.files import write_file
from kitae.base.rundir.system import write_system
from kitae.config.schedule import crossed
from kitae.config.serial import config_to_json
from kitae.types import Info


class Recorder:
    """What a training reports its steps to, and asks what follows from them.

    Args:
        subject: Who trains.
        report: Shows and writes.
        saver: Writes checkpoints.
        interrupt: Whether the training is to end early.
        training: Where it begins.
        saved_at: The environment step at which it was saved as it is.
        run_dir: Where it is written. None: another process writes it.

    Attributes:
        is_sound: Whether the newest state may be saved. A driver that holds a state
            before it has checked it says so meanwhile.
        log: What the log carries, as it was last saved.
    """

    def __init__(
        self,
        subject: Subject,
        report: Report,
        saver: Saver,
        interrupt: Interrupt,
        training: TrainingState,
        saved_at: int | None,
        run_dir: Path | None,
    ) -> None:
        self.is_sound = True
        self.log: Log = training.log
        self._subject = subject
        self._report = report
        self._saver = saver
        self._interrupt = interrupt
        self._counters = training.counters
        self._first_step = training.counters.step
        self._saved_at = saved_at
        self._run_dir = run_dir

    @property
    def interrupted(self) -> bool:
        """Whether Ctrl-C was pressed, or SIGTERM or SIGHUP came."""
        return self._interrupt.signal is not None

    @property
    def stopped(self) -> bool:
        """Whether a tracker has ended the training."""
        return self._report.stopped

    @property
    def is_saved(self) -> bool:
        """Whether there is a checkpoint of the newest step."""
        return self._saved_at == self._counters.step

    @property
    def resets_on_save(self) -> bool:
        """Whether a checkpoint comes with a reset of the environments."""
        return self._subject.config.train_cfg.reset_on_save

    def note(self, training: TrainingState, info: Info | None) -> None:
        """Takes note of the newest state, and of the newest update's info."""
        self._counters = training.counters
        self._report.note(training.counters, info)

    def after_updates(self, infos: dict[str, Any]) -> None:
        """Takes note of many updates; see `Report.after_updates`."""
        self._report.after_updates(infos)

    def after_step(self, before: int) -> None:
        """Writes what is due after steps since `before`.

        Raises:
            FloatingPointError: A value to be written is not finite.
            OSError: An earlier checkpoint could not be written.
        """
        self.leave_branch()
        self._report.after_step(before)
        self._saver.check()

    def evaluation_due(self, before: int) -> bool:
        """Whether to evaluate now, after steps since `before`."""
        return self._is_due(before, self._subject.config.train_cfg.eval_frequency)

    def after_evaluation(self, returns: np.ndarray) -> None:
        """Writes what an evaluation gave, `[n_episodes]`."""
        self._report.after_evaluation(returns)

    def save_due(self, before: int) -> bool:
        """Whether to save now, after steps since `before`."""
        due = self._is_due(before, self._subject.config.train_cfg.save_frequency)
        # One of several processes cannot save alone.
        ends = self.interrupted and jax.process_count() == 1
        return (due or ends) and not self.is_saved

    def _is_due(self, before: int, period: int) -> bool:
        return period > 0 and crossed(before, self._counters.step, period)

    def raise_if_interrupted(self) -> None:
        """Raises what was held back.

        Raises:
            KeyboardInterrupt: Ctrl-C was pressed.
            SystemExit: SIGTERM or SIGHUP came.
        """
        self._interrupt.raise_if_pressed()

    def leave_branch(self) -> None:
        """Sets later checkpoints aside, once a step was taken.

        Not before: a training that is refused changes nothing.
        """
        if self._run_dir is not None and self._counters.step > self._first_step:
            checkpoint.retire(self._run_dir, self._first_step)
            self._run_dir = None

    def write_last_row(self) -> None:
        """Writes the last row of the metrics."""
        self._report.finish()

    def save(self, training: TrainingState, *, wait: bool) -> None:
        """Writes a checkpoint, with what the log carries by now.

        Args:
            training: Settled: with no pending rows.
            wait: Whether to wait until it is on the disk.
        """
        self.log = self._report.log()
        training = training._replace(log=self.log)
        subject = self._subject
        facts = facts_of(training, subject.agent, subject.config, subject.row)
        self._saver.save(training, facts, wait=wait)
        self._saved_at = training.counters.step

    def after_error(self, error: BaseException, save: Callable[[], None]) -> None:
        """Saves what was trained before an error, if it is sound; adds a note to it."""
        step, run_name = self._counters.step, self._subject.run_name
        if step == self._first_step or jax.process_count() > 1:
            return
        self.leave_branch()
        if not self.is_saved:
            try:
                if not self.is_sound:
                    raise ValueError("its state is not sound after this error")
                save()
            except Exception as failed:
                error.add_note(
                    f"{run_name} was not saved at environment step {step:,}: {failed}"
                )
                return
        error.add_note(
            f"{run_name} was saved at environment step {step:,} in "
            f"{shown(self._subject.run_dir())}: resume continues from there"
        )


@contextmanager
def recording(
    subject: Subject,
    statistics: EpisodeStatistics,
    training: TrainingState,
    until: int,
    *,
    is_saved: bool,
) -> Iterator[Recorder]:
    """Opens the run's directory for the training in the body.

    Args:
        subject: Who trains.
        statistics: The episodes of this training.
        training: Where it begins, settled.
        until: Environment steps at which it ends.
        is_saved: Whether there is a checkpoint of where it begins.

    Raises:
        RuntimeError: Another process trains in this directory.
    """
    train_cfg, step = subject.config.train_cfg, training.counters.step
    saved_at = step if is_saved else None
    keep = train_cfg.keep_last, train_cfg.keep_best
    if jax.process_index() != 0:
        silent = Silent(subject, statistics, training, until)
        with Saver(None, *keep) as saver, held_back() as interrupt:
            yield Recorder(subject, silent, saver, interrupt, training, saved_at, None)
        return
    run_dir = subject.run_dir()
    with locked(run_dir):
        checkpoint.clean(run_dir)
        if step < until:
            facts = facts_of(training, subject.agent, subject.config, subject.row)
            go_back(training, facts, run_dir)
        write_file(run_dir / CONFIG, config_to_json(subject.config))
        write_system(run_dir, subject.agent, step)
        with (
            Saver(run_dir, *keep) as saver,
            Report(subject, statistics, training, until) as report,
            held_back() as interrupt,
        ):
            recorder = Recorder(
                subject, report, saver, interrupt, training, saved_at, run_dir
            )
            try:
                yield recorder
            finally:
                recorder.leave_branch()  # before the report writes its episodes
