"""Signals that ask a run, or a command before and after its run, to stop."""

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import ClassVar


class StopSignals:
    """While entered, SIGTERM, SIGUSR1 and Ctrl-C are noted instead of obeyed, so that the update can be finished.

    A second Ctrl-C interrupts at once; a run may be cut at any moment without loss.
    """

    # 75 is EX_TEMPFAIL: schedulers requeue
    STATUS: ClassVar = {signal.SIGTERM: 75, signal.SIGUSR1: 75, signal.SIGINT: 130}

    def __init__(self) -> None:
        self.status = 0  # exit status that the signal asks for; 0 while none came

    def __enter__(self) -> "StopSignals":
        self._before = {number: signal.signal(number, self._note) for number in self.STATUS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            if signal.getsignal(number) == self._note:
                signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.status:
            raise KeyboardInterrupt
        self.status = self.STATUS[signal.Signals(number)]


def leave_on_signals() -> Callable[[], None]:
    """From now on the same signals end this process in words, unless a run notes them; returns what undoes this.

    For the time before the first update, when a scheduler that preempts a run would else see a process killed, not one
    to requeue, and for that after the last. No exception can do it: libraries swallow those that come from nowhere.
    The first Ctrl-C is left to Python.
    """
    if threading.current_thread() is not threading.main_thread():  # where no signal arrives
        return lambda: None
    before = {number: signal.signal(number, _leave) for number in StopSignals.STATUS}

    def undo() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    return undo


def _leave(number: int, frame: FrameType | None) -> None:
    if number == signal.SIGINT:
        signal.signal(signal.SIGINT, lambda number, frame: os._exit(StopSignals.STATUS[signal.SIGINT]))
        raise KeyboardInterrupt
    if os.environ.get("RANK", "0") == "0":
        os.write(2, b"\nstopped by a signal; the same command begins again, or goes on from what is saved\n")
    os._exit(StopSignals.STATUS[signal.Signals(number)])  # any moment will do: what is on the disk is whole
