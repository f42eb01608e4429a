"""A lock on the run folder: one process at a time trains in it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from recdqn.errors import UserError

LOCK = ".lock"


@contextlib.contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Lock ``folder`` for this process; the system releases the lock if the process is killed.

    Raises:
        UserError: if another process holds the lock.
    """
    held = FileLock(folder / LOCK, blocking=False)
    try:
        held.acquire()
    except Timeout:
        raise UserError(f"another process trains in {folder}: wait for it, or stop it") from None
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # Windows does not remove an open file
            (folder / LOCK).unlink(missing_ok=True)
        held.release()
