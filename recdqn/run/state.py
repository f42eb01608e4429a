"""The whole state of a training run: written so that a kill at any time leaves a usable file."""

from __future__ import annotations

import errno
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torchrl.checkpoint import Checkpoint, CheckpointRotation, StateDictCheckpointAdapter

from recdqn.config import Config
from recdqn.errors import UserError, first_line
from recdqn.run.folder import CHECKPOINTS, CONFIG

PYTORCH_WRITER = "inline_container", "PytorchStreamWriter"  # in the message of a write that failed
STATE = "state.pt"  # the only file that a part of a checkpoint may hold


class Checkpoints:
    """The two newest checkpoints of a run.

    A checkpoint is one file. ``torchrl.checkpoint`` writes it beside the older ones and renames it when it is
    complete, so a run that is killed in between keeps those. The file is a ZIP archive, whose checksums show
    damage. Its parts are read with ``weights_only=True`` only, so a file cannot bring code of its own.

    Args:
        folder: the run folder.
        cfg: the run's configuration, stored with each checkpoint.
        parts: objects with ``state_dict`` and ``load_state_dict``, by name.
    """

    def __init__(self, folder: Path, cfg: Config, **parts: Any) -> None:
        self.folder = folder
        self.cfg = cfg
        self.rotation = CheckpointRotation(folder / CHECKPOINTS, keep_last=2)
        self.checkpoint = Checkpoint(format="archive")
        for name, part in parts.items():
            self.checkpoint.register(name, part, adapter=StateDictCheckpointAdapter("torch"))

    def save(self, step: int) -> None:
        """Save all parts; of two checkpoints, the one with the higher ``step`` is newer.

        Raises:
            OSError: if the disk is full or cannot be written.
            UserError: if a part cannot be saved. The older checkpoints are still there in both cases.
        """
        try:
            path = self.rotation.save(self.checkpoint, step=step, metadata={"config": self.cfg.to_dict()})
            with path.open("rb") as file:  # the older checkpoint was synced before, should the power fail now
                os.fsync(file.fileno())
        except (OSError, UserError):
            raise
        except Exception as error:
            if any(name in str(error) for name in PYTORCH_WRITER):
                free = shutil.disk_usage(self.folder).free / 1e6
                raise OSError(errno.ENOSPC, f"a write failed, {free:.0f} MB are free") from error
            raise UserError(
                f"the state cannot be saved in {self.folder} ({first_line(error)}): look for what an "
                "environment or a policy of your own keeps; the checkpoint before remains"
            ) from error

    def load(self, say: Callable[[str], None]) -> bool:
        """Load the newest checkpoint that is whole, and tell ``say`` of those that are not.

        Returns:
            Whether there was one.

        Raises:
            UserError: if a checkpoint belongs to another configuration than the folder's, or if none
                can be loaded and one is whole but does not fit, which leaves the parts half-loaded.
        """
        half_loaded = False
        files = sorted((self.folder / CHECKPOINTS).glob("checkpoint-*.torchrl"), reverse=True)
        for path in files:
            try:
                # A resumed run may train longer than the one that was saved, and on another cluster.
                changed = {
                    "train": {"total_frames": self.cfg.train.total_frames},
                    "scale": {"address": self.cfg.scale.address},
                }
                same = self._inspect(path).replace(**changed) == self.cfg
                if same:
                    half_loaded = True
                    result = self.checkpoint.load(path)
            except Exception as error:
                say(f"{path} cannot be used ({first_line(error)}): trying the one before it")
                continue
            if not same:
                raise UserError(
                    f"{self.folder / CONFIG} is not the configuration that {path.name} was made with: "
                    "put it back, or train anew into another folder"
                )
            if result.comparison.get("version_skew"):
                say(f"{path} was made with other versions of PyTorch's libraries: the numbers may differ")
            return True
        if half_loaded:
            raise UserError(
                f"{self.folder} has no checkpoint that fits: train anew into another folder, "
                "or use the machine and the versions in manifest.json"
            )
        return False

    def prune(self) -> None:
        """Remove all but the two newest checkpoints; a kill can leave a third."""
        self.rotation.prune()

    def _inspect(self, path: Path) -> Config:
        """Return the configuration in the file; ``ValueError`` if a part is damaged or unexpected."""
        manifest = Checkpoint.manifest(path)
        if manifest["components"].keys() != self.checkpoint.components.keys():
            raise ValueError("other parts than expected")
        if any(part["files"] != [STATE] for part in manifest["components"].values()):
            raise ValueError("other files than expected")
        with zipfile.ZipFile(path) as file:
            if (damaged := file.testzip()) is not None:
                raise ValueError(f"{damaged} is damaged")
        return Config.from_dict(manifest["metadata"]["config"])
