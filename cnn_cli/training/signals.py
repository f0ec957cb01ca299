"""Ctrl-C and SIGTERM: the first stops training after the current step, the second immediately."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from cnn_cli.errors import StoppedError


class Stop(Exception):
    """Raised where the state of the run is consistent, so that it can be saved."""


class Signals:
    """The signal that has arrived. `gentle` is set once there is a state to save; before, a signal ends the program.

    together: one of several processes, whose launcher may forward a signal more than once; it then counts once.
    """

    gentle = False
    received = 0

    def __init__(self, together: bool = False) -> None:
        self.together = together

    def check(self) -> None:
        """Raise Stop if a signal has arrived."""
        if self.received:
            raise Stop

    def soon(self) -> bool:
        """Whether a signal arrives within half a second: one to the whole group may end data-loading workers first."""
        end = time.monotonic() + 0.5
        while not self.received and time.monotonic() < end:
            time.sleep(0.01)
        return bool(self.received)

    def handle(self, number: int, frame: FrameType | None) -> None:
        if self.together and self.received:
            return
        again, self.received = bool(self.received), number
        if not self.gentle:
            raise StoppedError("stopped before the first step", number)
        if again:
            raise StoppedError("stopped immediately; resume the run from its last saved state with --resume", number)
        if not self.together:  # print() is not reentrant
            os.write(2, b"\nstopping after this step; a second signal stops immediately\n")


@contextmanager
def watch_signals(together: bool = False) -> Iterator[Signals]:
    """Watch for signals inside the `with`. Outside the main thread, where Python allows no handlers, do nothing."""
    watcher = Signals(together)
    if threading.current_thread() is not threading.main_thread():
        yield watcher
        return
    before = {n: signal.signal(n, watcher.handle) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield watcher
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
