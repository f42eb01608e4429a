"""Ctrl-C, SIGTERM and a terminal that closes: finish the update, save, stop (chapter 5)."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

PATIENCE = 3.0  # seconds from the first signal until even a step that hangs is given up


class Stopped(KeyboardInterrupt):
    """A run was asked to stop; ``status`` is the exit status that shells expect, 130 for Ctrl-C."""

    def __init__(self, signum: int, message: str = "") -> None:
        super().__init__(message)
        self.status = 128 + signum


class Stop:
    """While it is entered, the first of some signals is noted, and a second one ends the process at once.

    They are SIGINT, SIGTERM, and SIGHUP, which comes when a terminal closes, unless ``nohup`` ignores it.

    Signals reach only the main thread; in another one this does nothing. pygame's library takes SIGTERM for
    itself where nobody else does, so a process that draws needs this to be stopped by ``kill``.

    Attributes:
        signal: the signal that asked to stop, or ``None``.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._now = False
        self._before: dict[int, object] = {}

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():
            handlers = {signal.SIGINT: self._note, signal.SIGTERM: self._note, signal.SIGALRM: self._give_up}
            if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
                handlers[signal.SIGHUP] = self._note
            self._before = {signum: signal.signal(signum, handler) for signum, handler in handlers.items()}
        return self

    def __exit__(self, *_: object) -> None:
        if self._before:
            signal.setitimer(signal.ITIMER_REAL, 0)
        for signum, handler in self._before.items():
            signal.signal(signum, handler)

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """Leave what is inside as soon as a signal comes: nothing there needs to be finished."""
        self._now = True
        try:
            yield
        except Stopped:
            pass
        finally:
            self._now = False

    def rest(self) -> None:
        """Wait no longer for what hangs: what comes now ends by itself."""
        if self._before:
            signal.setitimer(signal.ITIMER_REAL, 0)

    def _note(self, signum: int, _: FrameType | None) -> None:
        if self.signal is not None:
            os._exit(128 + signum)
        self.signal = signum
        signal.setitimer(signal.ITIMER_REAL, PATIENCE)
        if self._now:
            raise Stopped(signum)

    def _give_up(self, signum: int, _: FrameType | None) -> None:
        raise Stopped(self.signal, f"stopped; a step took longer than {PATIENCE:g} seconds")
