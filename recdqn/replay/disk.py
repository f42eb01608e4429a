"""Disk space of the replay buffer."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from torchrl.envs import TransformedEnv

from recdqn.config import Config
from recdqn.errors import UserError
from recdqn.replay.make import UNUSED


def stored_bytes(cfg: Config, env: TransformedEnv) -> int:
    """Return the size of a full replay buffer in bytes, for an ``env`` with the policy's primer."""
    step = env.fake_tensordict().exclude(*UNUSED)
    if cfg.env.observation == "pixels":
        step = step.exclude(("next", "pixels"))  # PixelReplayBuffer stores each image once
    added = 4 * env.action_spec_unbatched.shape[-1] + 8 + 8  # action values, episode number, index
    return cfg.replay.capacity * (step.bytes() // step.numel() + added)


def preallocate(scratch: str | Path) -> None:
    """Preallocate the files of a memory-mapped buffer, then unlink them.

    A memory-mapped file starts sparse, and writing to it on a full disk kills the process. An unlinked file
    frees its space when the process ends, even if it is killed. Without files in ``scratch`` this function
    does nothing. macOS and Windows cannot preallocate; Windows cannot unlink an open file either.

    Raises:
        UserError: if there is not enough space.
    """
    files = list(Path(scratch).rglob("*.memmap"))
    for path in files:
        try:
            with path.open("r+b") as file:
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        except OSError as error:
            raise UserError(f"no room for the replay buffer in {scratch}: {error.strerror}") from None
    if files:
        shutil.rmtree(scratch, ignore_errors=True)
