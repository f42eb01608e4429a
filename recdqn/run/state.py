"""Save a run and load it again, and keep what is needed to go on with one that stopped (chapter 5)."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import errno
import importlib.metadata
import io
import json
import os
import platform
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torchrl.checkpoint import Checkpoint, CheckpointRotation, StateDictCheckpointAdapter

from recdqn.config import Config
from recdqn.envs import make_env
from recdqn.errors import UserError
from recdqn.evaluation import Evaluation
from recdqn.policy import make_policy

if TYPE_CHECKING:
    from recdqn.training import Run

CONFIG, METRICS, WEIGHTS, MANIFEST = "config.json", "metrics.json", "policy.pt", "manifest.json"
CHECKPOINTS = "checkpoints"
SCRATCH = ".scratch-"  # what a run that was killed may have left in its folder
STATE = "state.pt"  # the one kind of file a checkpoint's parts may hold


def prepare_run(out: str | Path, cfg: Config) -> None:
    """Make the folder ``out`` and write the configuration and the manifest into it.

    The manifest says what makes the run: command, commit, versions, machine, threads, seed and date.

    Raises:
        UserError: if ``out`` is not empty, or cannot be made or written.
    """
    folder = Path(out)
    run = {"preset": cfg.name, "seed": cfg.seed, "device": cfg.device, "threads": cfg.threads}
    try:
        if (folder / CONFIG).is_file():
            raise UserError(
                f"{folder} is not empty, it holds a run: choose another folder, "
                f"or go on with it by 'recdqn train --resume {folder}'"
            )
        if folder.exists() and any(path.suffix != ".tmp" for path in folder.iterdir()):
            raise UserError(f"{folder} is not empty: choose another folder, or remove it first")
        folder.mkdir(parents=True, exist_ok=True)
        _write_json(folder / MANIFEST, manifest() | run)
        write_config(folder, cfg)
    except OSError as error:
        raise UserError(
            f"cannot write a run into {folder}: {error.strerror}; choose another folder"
        ) from None


def write_config(out: str | Path, cfg: Config) -> None:
    """Write the configuration into the folder ``out``."""
    _write_json(Path(out) / CONFIG, cfg.to_dict())


def save_checkpoint(out: str | Path, run: Run) -> None:
    """Write configuration, metrics and weights of ``run`` into the folder ``out``, replacing what is there.

    Each file is complete before the old one goes.
    """
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    write_config(folder, run.cfg)
    weights = io.BytesIO()
    torch.save({k: v.cpu() for k, v in run.policy.state_dict().items()}, weights)
    _write(folder / WEIGHTS, weights.getvalue())
    final = None if run.final is None else dataclasses.asdict(run.final)
    _write_json(folder / METRICS, {"evaluations": run.metrics, "final": final}, indent=1)


def load_checkpoint(path: str | Path, device: str = "cpu") -> Run:
    """Rebuild the policy of a saved run, with its configuration and metrics.

    Raises:
        UserError: if ``path`` is not the folder of a run, or its files cannot be read.
    """
    from recdqn.training import Run

    folder = Path(path)
    cfg = load_config(folder)
    if missing := [name for name in (METRICS, WEIGHTS) if not (folder / name).is_file()]:
        raise UserError(
            f"{folder} has no {' and no '.join(missing)}; a run has none until its first evaluation: "
            f"go on with it by 'recdqn train --resume {folder}'"
        )
    try:
        saved = json.loads((folder / METRICS).read_text())
        weights = torch.load(folder / WEIGHTS, weights_only=True, map_location=device)
        policy = make_policy(cfg.policy, make_env(cfg.env)).to(device)
        policy.load_state_dict(weights)
        final = saved["final"] and Evaluation(**{k: tuple(v) for k, v in saved["final"].items()})
        return Run(cfg, policy, saved["evaluations"], final)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{folder} holds a run that cannot be read: {_line(error)}; train it again") from None


def load_config(path: str | Path) -> Config:
    """Read the configuration of a saved run.

    Raises:
        UserError: if ``path`` is not the folder of a run, or another version of the package wrote it and this
            one does not know its settings; the message names that version.
    """
    folder = Path(path)
    if not (folder / CONFIG).is_file():
        raise UserError(
            f"{folder} is not a run: {CONFIG} not found; give the folder named by 'recdqn train --out'"
        )
    try:
        return Config.from_dict(json.loads((folder / CONFIG).read_text()))
    except Exception as error:
        here, there = importlib.metadata.version("recdqn"), None
        with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
            there = json.loads((folder / MANIFEST).read_text())["versions"]["recdqn"]
        if there not in (None, here):
            raise UserError(
                f"{folder} was written by recdqn {there}, and this is {here} ({_line(error)}): "
                f"pip install recdqn=={there}"
            ) from None
        raise UserError(f"{folder} holds a run that cannot be read: {_line(error)}; train it again") from None


class Checkpoints:
    """Keeps the two newest states of a running training in its folder, and finds the newest that is whole.

    One file a state, written by ``torchrl.checkpoint`` beside the old ones and then given its name, so that
    a run killed in between keeps those. The file is a ZIP archive, whose checksums tell damage; its parts
    are read with ``weights_only=True`` and no other way, so that a file cannot bring code of its own.

    Args:
        out: the run's folder.
        cfg: its configuration, stored with each state.
        parts: objects with ``state_dict`` and ``load_state_dict``, by name.
    """

    def __init__(self, out: str | Path, cfg: Config, **parts: Any) -> None:
        self.folder = Path(out)
        self.cfg = cfg
        self.rotation = _rotation(self.folder)
        self.checkpoint = Checkpoint(format="archive")
        for name, part in parts.items():
            self.checkpoint.register(name, part, adapter=StateDictCheckpointAdapter("torch"))

    def save(self, step: int) -> None:
        """Save all parts; a higher ``step`` is newer.

        Raises:
            OSError: if the disk is full or cannot be written. The states saved before are still there.
        """
        try:
            path = self.rotation.save(self.checkpoint, step=step, metadata={"config": self.cfg.to_dict()})
            # What was saved before is on the disk already, should the power fail now.
            with path.open("rb") as file:
                os.fsync(file.fileno())
        except RuntimeError as error:  # how PyTorch says that it could not write
            free = shutil.disk_usage(self.folder).free / 1e6
            raise OSError(errno.ENOSPC, f"a write failed, {free:.0f} MB are free") from error

    def load(self, say: Callable[[str], None]) -> bool:
        """Load the newest state that is whole, and tell ``say`` of those that are not.

        Returns:
            Whether there was one.

        Raises:
            UserError: if a state belongs to another configuration than the folder's, or the parts are left
                half-loaded from one that is whole and does not fit.
        """
        half = False
        files = sorted((self.folder / CHECKPOINTS).glob("checkpoint-*.torchrl"), reverse=True)
        for path in files:
            try:
                longer = {"total_frames": self.cfg.train.total_frames}  # may be more than it was
                same = self._inspect(path).replace(train=longer) == self.cfg
                if same:
                    half = True
                    result = self.checkpoint.load(path)
            except Exception as error:
                say(f"{path} cannot be used ({_line(error)}): trying the one before it")
                continue
            if not same:
                raise UserError(
                    f"{self.folder / CONFIG} is not the configuration that {path.name} was made with: "
                    "put it back, or train anew into another folder"
                )
            if result.comparison.get("version_skew"):
                say(f"{path} was made with other versions of PyTorch's libraries: the numbers may differ")
            return True
        if half:
            raise UserError(
                f"{self.folder} has no checkpoint that fits: train anew into another folder, "
                "or use the machine and the versions in manifest.json"
            )
        return False

    def _inspect(self, path: Path) -> Config:
        """Return the configuration in the file, if nothing of it is damaged or foreign."""
        manifest = Checkpoint.manifest(path)
        if manifest["components"].keys() != self.checkpoint.components.keys():
            raise ValueError("other parts than expected")
        if any(part["files"] != [STATE] for part in manifest["components"].values()):
            raise ValueError("other files than expected")
        with zipfile.ZipFile(path) as file:
            if (damaged := file.testzip()) is not None:
                raise ValueError(f"{damaged} is damaged")
        return Config.from_dict(manifest["metadata"]["config"])


def _rotation(folder: Path) -> CheckpointRotation:
    return CheckpointRotation(folder / CHECKPOINTS, keep_last=2)


def sweep(out: str | Path) -> None:
    """Remove from a run's folder what a killed run has left half-written, or not come to removing."""
    _rotation(Path(out)).prune()
    for pattern in ("*.tmp", f"{SCRATCH}*", f"{CHECKPOINTS}/.*"):
        for path in Path(out).glob(pattern):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def manifest() -> dict[str, Any]:
    """What made something that is recorded: command, date, commit, versions, machine, threads."""
    packages = ("recdqn", "torch", "torchvision", "torchrl", "tensordict", "gymnasium", "pygame", "numpy")
    return {
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in packages},
        "machine": {"system": platform.platform(), "processor": _processor(), "cores": os.cpu_count()},
        "threads": torch.get_num_threads(),
    }


def _write_json(path: Path, value: dict[str, Any], indent: int = 2) -> None:
    _write(path, json.dumps(value, indent=indent).encode() + b"\n")


def _write(path: Path, data: bytes) -> None:
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def _line(error: Exception) -> str:
    """Say what went wrong in one line."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _commit() -> str | None:
    """Return the commit of the source, marked where it was changed since; ``None`` outside a repository.

    What recording itself writes, the folder ``results``, is no change of the source.
    """
    git = ["git", "-C", str(Path(__file__).parent)]
    source = [":/", ":(top,exclude)results"]
    try:
        name = [*git, "describe", "--always", "--abbrev=12"]
        commit = subprocess.run(name, capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", *source], capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{commit}-dirty" if changed.returncode else commit


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
