"""Ctrl-C and SIGTERM between two steps, never within one."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

HELD_BACK = (signal.SIGINT, signal.SIGTERM)


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
            SystemExit: SIGTERM came; the exit status is the one that shells give, 143.
        """
        if self.signal is signal.SIGINT:
            raise KeyboardInterrupt
        if self.signal is not None:
            raise SystemExit(128 + self.signal)


@contextmanager
def held_back() -> Iterator[Interrupt]:
    """Holds back Ctrl-C and SIGTERM, for the body to ask after; a second time not.

    An interrupt between a compiled call, which takes its arguments' memory, and the
    assignment of what it returns would leave nothing of either. In another thread than
    the main one there is nothing to hold back.
    """
    interrupt = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield interrupt
        return

    def handler(number: int, frame: FrameType | None) -> None:
        if interrupt.signal is not None:
            raise KeyboardInterrupt
        interrupt.signal = signal.Signals(number)

    before = {number: signal.signal(number, handler) for number in HELD_BACK}
    try:
        yield interrupt
    finally:
        for number, old in before.items():
            signal.signal(number, old)
