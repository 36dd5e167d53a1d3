"""Ctrl-C, SIGTERM and SIGHUP between two steps, never within one."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# SIGHUP comes when a terminal is closed, and is not known everywhere.
HELD_BACK = [
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP")
    if hasattr(signal, name)
]


class Interrupt:
    """Whether Ctrl-C was pressed, or the process was asked to end.

    Attributes:
        signal: Which came first; None: none.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    def raise_if_pressed(self) -> None:
        """Raises what was held back.

        Raises:
            KeyboardInterrupt: Ctrl-C was pressed.
            SystemExit: SIGTERM or SIGHUP came; the exit status is the one that shells
                give, 143 or 129.
        """
        if self.signal is signal.SIGINT:
            raise KeyboardInterrupt
        if self.signal is not None:
            raise SystemExit(128 + self.signal)


@contextmanager
def held_back() -> Iterator[Interrupt]:
    """Holds back signals that end a process, for the body to ask after.

    An interrupt between a compiled call, which takes its arguments' memory, and the
    assignment of what it returns would leave nothing of either. Only Ctrl-C is raised
    at once where a signal came before: `timeout` sends SIGTERM twice, to the process
    and to its group. A signal that is ignored, as SIGHUP by `nohup`, stays ignored. In
    another thread than the main one there is nothing to hold back.
    """
    interrupt = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield interrupt
        return

    def handler(number: int, frame: FrameType | None) -> None:
        if interrupt.signal is None:
            interrupt.signal = signal.Signals(number)
        elif number == signal.SIGINT:
            raise KeyboardInterrupt

    before = {number: signal.getsignal(number) for number in HELD_BACK}
    # None: something other than Python handles it.
    before = {n: old for n, old in before.items() if old not in (signal.SIG_IGN, None)}
    for number in before:
        signal.signal(number, handler)
    try:
        yield interrupt
    finally:
        for number, old in before.items():
            signal.signal(number, old)
