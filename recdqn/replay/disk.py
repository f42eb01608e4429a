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
    """Return how many bytes a full replay buffer takes, for an ``env`` that has the policy's primer."""
    step = env.fake_tensordict().exclude(*UNUSED)
    if cfg.env.observation == "pixels":
        step = step.exclude(("next", "pixels"))  # see PictureReplayBuffer
    added = 4 * env.action_spec_unbatched.shape[-1] + 8 + 8  # action values, number of the episode, index
    return cfg.replay.capacity * (step.bytes() // cfg.env.num_envs + added)


def preallocate(scratch: str | Path) -> None:
    """Take all the disk space that a buffer's files may need at once, and remove their names.

    Files on disk begin as holes, and a disk that is full when one is filled kills the process. And without
    names, nothing is left behind, however the process ends: the space is free when it does. Calling it again
    does nothing.

    Raises:
        UserError: if the space is not there.
    """
    files = list(Path(scratch).rglob("*.memmap"))
    for path in files:
        try:
            with path.open("r+b") as file:
                if hasattr(os, "posix_fallocate"):  # not on macOS
                    os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        except OSError as error:
            raise UserError(f"no room for the replay buffer in {scratch}: {error.strerror}") from None
    if files:
        shutil.rmtree(scratch, ignore_errors=True)
