"""A lock on the run folder: one process at a time trains in it."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from recdqn.errors import UserError

LOCK = ".lock"
UNSUPPORTED = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL}


@contextlib.contextmanager
def lock(folder: Path, say: Callable[[str], None] = print) -> Iterator[None]:
    """Lock ``folder`` for this process; the system releases the lock if the process is killed.

    Some network disks know no locks. Then ``say`` is told so, and the folder is not locked.

    Raises:
        UserError: if another process holds the lock.
    """
    held = FileLock(folder / LOCK, blocking=False, fallback_to_soft=False)
    try:
        held.acquire()
    except Timeout:
        raise UserError(f"another process trains in {folder}: wait for it, or stop it") from None
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
        say(f"{folder} cannot be locked ({error.strerror}): let no other process train there")
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # Windows does not remove an open file
            (folder / LOCK).unlink(missing_ok=True)
        held.release()
