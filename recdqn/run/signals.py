"""Graceful stop on Ctrl-C and other signals: finish the update, save, exit."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

DEADLINE = 3.0  # seconds from the first signal until a step that hangs is abandoned

# SIGHUP comes when a terminal closes, SIGBREAK is Windows' Ctrl-Break; not every system has every signal.
STOP_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK") if hasattr(signal, name)
)
POSIX = hasattr(signal, "pthread_kill")


class Stopped(KeyboardInterrupt):
    """A signal stopped the run; ``status`` is the exit status that shells expect, 130 for Ctrl-C."""

    def __init__(self, signum: int, message: str = "") -> None:
        super().__init__(message)
        self.status = 128 + signum


class Interrupted(Stopped):
    """A signal arrived inside :meth:`GracefulStop.immediate`."""


class GracefulStop:
    """Inside the context, the first signal requests a stop and a second one ends the process at once.

    The signals are SIGINT, SIGTERM and SIGHUP (SIGBREAK on Windows); a SIGHUP that the process ignores, as
    under ``nohup``, stays ignored. On POSIX systems, :class:`Stopped` abandons a step that still runs
    ``DEADLINE`` seconds after the first signal. A thread waits for that and sends the signal again: SIGALRM
    belongs to the program and its environments.

    Python handles signals in the main thread only; in another thread the context does nothing. pygame's
    library takes SIGTERM for itself unless another handler is installed, so a process that draws needs this.

    Attributes:
        signal: the signal that requested the stop, or ``None``.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._immediate = False
        self._previous: dict[int, Any] = {}
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None
        self._late = False

    def __enter__(self) -> GracefulStop:
        if threading.current_thread() is threading.main_thread():
            handlers = {number: self._request for number in STOP_SIGNALS if not _ignored_hangup(number)}
            self._previous = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        return self

    def __exit__(self, *_: object) -> None:
        self.cancel_deadline()
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def immediate(self) -> Iterator[None]:
        """Inside the context, a signal raises :class:`Interrupted` at once, for work that can be repeated."""
        self._immediate = True
        try:
            yield
        finally:
            self._immediate = False

    def cancel_deadline(self) -> None:
        """Cancel the deadline; saving may take longer."""
        with self._lock:
            timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def _request(self, number: int, _: FrameType | None) -> None:
        if self._late:
            raise Stopped(self.signal or number, f"stopped; a step took longer than {DEADLINE:g} seconds")
        if self.signal is not None:
            os._exit(128 + number)
        self.signal = number
        if POSIX:
            self._timer = threading.Timer(DEADLINE, self._abandon, [number])
            self._timer.daemon = True
            self._timer.start()
        if self._immediate:
            raise Interrupted(number)

    def _abandon(self, number: int) -> None:
        """Interrupt the main thread, from another one."""
        with self._lock:
            if self._timer is not None:
                self._late = True
                signal.pthread_kill(threading.main_thread().ident or 0, number)


def stop_at_end_of_input() -> None:
    """Stop this process when standard input ends: when another one closes its end of the pipe, or dies."""

    def watch() -> None:
        os.read(0, 1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def _ignored_hangup(number: int) -> bool:
    return number == getattr(signal, "SIGHUP", None) and signal.getsignal(number) == signal.SIG_IGN
