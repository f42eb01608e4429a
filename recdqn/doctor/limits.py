"""A limit on the time of a check."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

IDLE = 0.02  # share of processor time below which a check waits for something; a busy machine gives more
BUSY = 5  # times the limit, in processor time: large networks are slow, and do not hang
LONGEST = 12  # times the limit, in wall-clock time, however busy the machine is


class TimeUp(BaseException):
    """The limit has passed; not an ``Exception``, so that a part that catches those does not swallow it."""


@contextlib.contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raise :class:`TimeUp` in the block after ``seconds`` of waiting, or ``BUSY`` times as much of work.

    It has no effect outside the main thread, where Python delivers no signals, or where there is no timer.
    A timer of the caller's own goes on afterwards.
    """
    timer = getattr(signal, "setitimer", None)
    if timer is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    began, worked = time.monotonic(), time.process_time()

    def look(number: int, frame: FrameType | None) -> None:
        passed, used = time.monotonic() - began, time.process_time() - worked
        if used > BUSY * seconds or used < IDLE * passed or passed > LONGEST * seconds:
            raise TimeUp

    handler = signal.signal(signal.SIGALRM, look)
    before = timer(signal.ITIMER_REAL, seconds, seconds / 2)
    try:
        yield
    finally:
        timer(signal.ITIMER_REAL, *before)
        signal.signal(signal.SIGALRM, handler)


def was_cut_off(error: BaseException | None) -> bool:
    """Whether an error hides a :class:`TimeUp`: TorchRL 0.14.1's losses raise another one on the way out."""
    while error is not None:
        if isinstance(error, TimeUp):
            return True
        error = error.__context__
    return False
