"""Interrupts of the user, made to wait where they would do harm."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Ctrl-C in this block takes effect at its end.

    One that strikes while a process is being started leaves that process running with nobody to
    end it; one that strikes inside a callback from C is lost, and takes with it what the
    callback should have recorded. Keep the block short.
    """
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield
        return
    came: list[FrameType | None] = []
    signal.signal(signal.SIGINT, lambda number, frame: came.append(frame))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if came:
        before(signal.SIGINT, came[0])
