"""A limit on the time of a check, which other processes of the machine do not use up."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

BUSY = 5  # times the limit, in processor time: large networks are slow, and do not hang
CROWDED = 50  # times the processor time, where the system does not tell how long a process waited for one
TASKS = Path("/proc/self/task")  # of Linux: the threads of this process


class TimeUp(BaseException):
    """The limit has passed; not an ``Exception``, so that a part that catches those does not swallow it."""


@dataclass(frozen=True)
class Times:
    """Seconds until now.

    Attributes:
        passed: wall-clock time.
        worked: processor time of this process.
        queued: time in which its threads were ready and had no processor; ``None`` if this is not known.
    """

    passed: float
    worked: float
    queued: float | None


def times() -> Times:
    """Read the clocks."""
    queued = None
    with contextlib.suppress(OSError, ValueError, IndexError):  # a thread ended, or this is not Linux
        queued = sum(int((task / "schedstat").read_text().split()[1]) for task in TASKS.iterdir()) / 1e9
    return Times(time.monotonic(), time.process_time(), queued)


class Clock:
    """Counts work, and waiting for something else than a processor, since it was made."""

    def __init__(self) -> None:
        self._began = times()

    def read(self) -> tuple[float, float]:
        """Return the seconds of work, and the seconds of waiting."""
        began, now = self._began, times()
        passed, worked = now.passed - began.passed, now.worked - began.worked
        if began.queued is None or now.queued is None:
            return worked, passed - CROWDED * worked
        return worked, passed - worked - (now.queued - began.queued)


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
    clock = Clock()

    def look(number: int, frame: FrameType | None) -> None:
        worked, waited = clock.read()
        if worked > BUSY * seconds or waited > 0.9 * seconds:
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
