"""Save a run and load it again (chapter 5)."""

from __future__ import annotations

import dataclasses
import datetime
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from recdqn.config import Config, UserError
from recdqn.envs import make_env
from recdqn.evaluate import Evaluation
from recdqn.policy import make_policy

if TYPE_CHECKING:
    from recdqn.train import Run

CONFIG, METRICS, WEIGHTS, MANIFEST = "config.json", "metrics.json", "policy.pt", "manifest.json"


def prepare_run(out: str | Path, cfg: Config) -> None:
    """Make the folder ``out`` and write the configuration and the manifest into it.

    The manifest says what makes the run: command, commit, versions, machine, threads, seed and date.

    Raises:
        UserError: if ``out`` is not empty, or cannot be made or written.
    """
    folder = Path(out)
    run = {"preset": cfg.name, "seed": cfg.seed, "device": cfg.device, "threads": cfg.threads}
    try:
        if folder.exists() and any(folder.iterdir()):
            raise UserError(f"{folder} is not empty: choose another folder, or remove it first")
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder / CONFIG, json.dumps(cfg.to_dict(), indent=2).encode())
        _write(folder / MANIFEST, json.dumps(manifest() | run, indent=2).encode())
    except OSError as error:
        raise UserError(
            f"cannot write a run into {folder}: {error.strerror}; choose another folder"
        ) from None


def save_checkpoint(out: str | Path, run: Run) -> None:
    """Write configuration, metrics and weights of ``run`` into the folder ``out``, replacing what is there.

    Each file is complete before the old one goes.
    """
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / CONFIG, json.dumps(run.cfg.to_dict(), indent=2).encode())
    final = None if run.final is None else dataclasses.asdict(run.final)
    _write(folder / METRICS, json.dumps({"evaluations": run.metrics, "final": final}, indent=1).encode())
    temporary = folder / (WEIGHTS + ".tmp")
    torch.save({k: v.cpu() for k, v in run.policy.state_dict().items()}, temporary)
    os.replace(temporary, folder / WEIGHTS)


def load_checkpoint(path: str | Path, device: str = "cpu") -> Run:
    """Rebuild the policy of a saved run, with its configuration and metrics.

    Raises:
        UserError: if ``path`` is not the folder of a run, or its files cannot be read.
    """
    from recdqn.train import Run

    folder = Path(path)
    missing = [name for name in (CONFIG, METRICS, WEIGHTS) if not (folder / name).is_file()]
    if missing:
        raise UserError(
            f"{folder} is not a run: {', '.join(missing)} not found; "
            "give the folder named by 'recdqn train --out'"
        )
    try:
        cfg = Config.from_dict(json.loads((folder / CONFIG).read_text()))
        saved = json.loads((folder / METRICS).read_text())
        weights = torch.load(folder / WEIGHTS, weights_only=True, map_location=device)
        policy = make_policy(cfg.policy, make_env(cfg.env)).to(device)
        policy.load_state_dict(weights)
    except UserError:
        raise
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{folder} holds a run that cannot be read: {reason}; train it again") from None
    final = None if saved["final"] is None else Evaluation(**{k: tuple(v) for k, v in saved["final"].items()})
    return Run(cfg, policy, saved["evaluations"], final)


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


def _write(path: Path, data: bytes) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(data + b"\n")
    os.replace(temporary, path)


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
