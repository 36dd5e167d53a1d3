"""One call of `train`: its run's directory, report, checkpoints and interrupts."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import jax

from kitae.base.common.interrupts import Interrupt, held_back
from kitae.base.recording.report import Report, Silent
from kitae.base.recording.saving import Saver, go_back
from kitae.base.recording.statistics import EpisodeStatistics
from kitae.base.rundir import checkpoint
from kitae.base.rundir.directory import CONFIG, locked, shown
from kitae.base.rundir.files import write_file
from kitae.base.rundir.system import write_system
from kitae.config.schedule import crossed
from kitae.config.serial import config_to_json

if TYPE_CHECKING:
    from kitae.base.agents.base import BaseAgent


class Run:
    """What a driver reports its steps to, and asks what follows from them.

    Args:
        agent: Who trains.
        report: What is shown and written of it.
        saver: Writes its checkpoints.
        interrupt: Whether it is to end early.
        saved_at: The environment step at which the agent was saved as it is.
        run_dir: Where the run is written. None: another process writes it.

    Attributes:
        is_sound: Whether the agent's state may be saved; a driver that takes over a
            state before it has checked it says so meanwhile.
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
        self.is_sound = True
        self._agent = agent
        self._saver = saver
        self._interrupt = interrupt
        self._saved_at = saved_at
        self._first_step = agent.step
        self._thread = threading.get_ident()
        self._run_dir = run_dir

    @property
    def interrupted(self) -> bool:
        """Whether Ctrl-C was pressed, or SIGTERM or SIGHUP came."""
        return self._interrupt.signal is not None

    @property
    def stopped(self) -> bool:
        """Whether a tracker has ended the training."""
        return self.report.stopped

    def after_step(self, before: int) -> bool:
        """Takes note of steps since `before`; returns whether the agent was saved.

        Raises:
            FloatingPointError: A value to be written or saved is not finite.
            OSError: A checkpoint could not be written.
            KeyboardInterrupt: Ctrl-C was pressed; the agent was saved first.
            SystemExit: SIGTERM or SIGHUP came; the agent was saved first.
        """
        agent, frequency = self._agent, self._agent.config.train_cfg.save_frequency
        self.begin()
        self.report.after_step(before, agent.step)
        self._saver.check()
        due = frequency > 0 and crossed(before, agent.step, frequency)
        # One of several processes cannot save alone.
        ends = self.interrupted and jax.process_count() == 1
        if (due or ends) and self._saved_at != agent.step:
            self._save(wait=ends)
        self._interrupt.raise_if_pressed()
        return self._saved_at == agent.step

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

    def save(self) -> None:
        """Saves the agent now, between two steps: what a tracker may ask for.

        Raises:
            FloatingPointError: The agent's state is not finite.
            OSError: A checkpoint could not be written.
            RuntimeError: Another thread trains, or other processes train too.
        """
        if threading.get_ident() != self._thread:
            raise RuntimeError(
                "save() was called while another thread trains this agent: call it in "
                "a tracker, or between two calls of train"
            )
        if jax.process_count() > 1:
            raise RuntimeError(
                "save() was called in a training of several processes, which can only "
                "save together: set train_cfg.save_frequency"
            )
        self._save(wait=True)

    def save_after(self, error: BaseException) -> None:
        """Saves what was trained before an error, if it is sound; adds a note to it."""
        agent = self._agent
        if agent.step == self._first_step or jax.process_count() > 1:
            return
        self.begin()
        if self._saved_at != agent.step:
            try:
                if not self.is_sound:
                    raise ValueError("its state is not sound after this error")
                self._save(wait=True)
            except Exception as failed:
                error.add_note(
                    f"{agent.run_name} was not saved at environment step "
                    f"{agent.step:,}: {failed}"
                )
                return
        error.add_note(
            f"{agent.run_name} was saved at environment step {agent.step:,} in "
            f"{shown(agent._own_run_dir())}: resume continues from there"
        )

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

    If the body raises, what was trained is saved first, as far as it is sound.

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
        silent = Silent(agent, statistics, until)
        with (
            Saver(None, *keep) as saver,
            held_back() as interrupt,
            _current(
                Run(agent, silent, saver, interrupt, saved_at, None), agent
            ) as run,
        ):
            yield run
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
            _current(
                Run(agent, report, saver, interrupt, saved_at, run_dir), agent
            ) as run,
        ):
            yield run


@contextmanager
def _current(run: Run, agent: "BaseAgent") -> Iterator[Run]:
    agent._run = run
    try:
        yield run
    except KeyboardInterrupt:
        raise  # saved already; or pressed twice, by somebody who will not wait
    except BaseException as error:
        run.save_after(error)
        raise
    finally:
        run.begin()  # before the report writes the episodes of a step
        agent._run = None
