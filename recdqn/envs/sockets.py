"""Folders for temporary files whose names leave room for a socket's."""

from __future__ import annotations

import os
import tempfile

SHORT = ("/tmp", "/var/tmp", "/dev/shm")
PATH = 107  # bytes that the path of a socket may have


def socket_folder(inside: int) -> str | None:
    """Return the usual folder for temporary files, or a shorter one if sockets need it.

    Args:
        inside: bytes of a socket's path below the folder.

    Returns:
        The first folder that is short enough and can be written; ``None`` if there is none.
    """
    places = (tempfile.gettempdir(), *SHORT)
    return next((place for place in places if fits_socket(place, inside)), None)


def fits_socket(place: str, inside: int) -> bool:
    """Return whether a folder can be written, and its name leaves ``inside`` bytes for a socket."""
    return len(os.fsencode(place)) + inside <= PATH and os.access(place, os.W_OK)
