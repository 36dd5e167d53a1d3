"""The loop of a training, whatever the driver."""

import threading
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from kitae.base.algorithm.state import TrainingState
from kitae.base.recording.recorder import Recorder
from kitae.base.training.driver import Driver

Commit = Callable[[TrainingState], None]


class Loop:
    """Advances a driver until a training ends; records and saves in between.

    Args:
        driver: Steps and learns.
        recorder: Shows, writes and saves, and says when.
        commit: Is given the newest state: what trackers and errors see of the agent.
        until: Environment steps at which the training ends.
        evaluate: `(training) -> returns`, plays episodes with a state. None: never.
    """

    def __init__(
        self,
        driver: Driver,
        recorder: Recorder,
        commit: Commit,
        until: int,
        evaluate: Callable[[TrainingState], np.ndarray] | None = None,
    ) -> None:
        self._driver = driver
        self._recorder = recorder
        self._commit = commit
        self._until = until
        self._evaluate = evaluate
        self._thread = threading.get_ident()

    def run(self) -> None:
        """Trains to the end. After an error, what was trained is saved if it is sound.

        Raises:
            FloatingPointError: A value to be written or saved is not finite.
            OSError: A checkpoint could not be written.
            KeyboardInterrupt: Ctrl-C was pressed; the agent was saved first.
            SystemExit: SIGTERM or SIGHUP came; the agent was saved first.
        """
        try:
            self._run()
        except KeyboardInterrupt:
            raise  # saved already; or pressed twice, by somebody who will not wait
        except BaseException as error:
            self._recorder.after_error(error, lambda: self._save(wait=True))
            raise

    def save(self) -> None:
        """Saves the newest state now, between two steps: a tracker may ask for it.

        Raises:
            FloatingPointError: The state is not finite.
            OSError: The checkpoint could not be written.
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

    def _run(self) -> None:
        driver, recorder = self._driver, self._recorder
        while driver.step < self._until and not recorder.stopped:
            before, infos = self._advanced()
            self._check(infos)
            recorder.after_step(before)
            if self._evaluate is not None and recorder.evaluation_due(before):
                recorder.after_evaluation(self._evaluate(driver.training))
            if recorder.save_due(before):
                self._save(wait=recorder.interrupted)
            recorder.raise_if_interrupted()
            if recorder.is_saved and recorder.resets_on_save:
                driver.reset()
        driver.finish()
        self._take_over()
        recorder.write_last_row()
        if not recorder.is_saved:
            self._save(wait=True)

    def _advanced(self) -> tuple[int, dict[str, Any]]:
        """Advances. The newest state is committed also after an error.

        The arrays of the state before were given up to the programs.
        """
        try:
            return self._driver.advance(self._until, self._is_interrupted)
        finally:
            self._take_over()

    def _is_interrupted(self) -> bool:
        return self._recorder.interrupted

    def _take_over(self) -> None:
        driver, recorder = self._driver, self._recorder
        training = driver.training._replace(log=recorder.log)
        self._commit(training)
        recorder.note(training, driver.info)
        recorder.is_sound = driver.is_sound

    def _check(self, infos: dict[str, Any]) -> None:
        """Refuses a state whose updates gave values that are not finite."""
        if infos:
            self._recorder.is_sound = False
            self._recorder.after_updates(infos)
            self._recorder.is_sound = True

    def _save(self, *, wait: bool) -> None:
        self._driver.settle()
        self._take_over()
        self._recorder.save(self._driver.training, wait=wait)
        self._take_over()
