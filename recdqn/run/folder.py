"""The run folder: configuration, manifest, metrics and weights of a run."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import io
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tensordict.nn import TensorDictSequential

from recdqn.agent import Agent
from recdqn.config import Config
from recdqn.envs import make_env
from recdqn.envs.statistics import Statistics
from recdqn.errors import NotFinite, UserError, first_line
from recdqn.evaluation import Evaluation
from recdqn.policy import make_policy
from recdqn.run.lock import LOCK
from recdqn.run.provenance import manifest

CONFIG, METRICS, WEIGHTS, MANIFEST = "config.json", "metrics.json", "policy.pt", "manifest.json"
CHECKPOINTS = "checkpoints"  # a folder of its own, see recdqn.run.state
LOG = "log"  # a folder of its own, see recdqn.run.loggers
NOT_FINITE = "not-finite.pt"  # batch and networks that gave a value that is not finite
SCRATCH = ".scratch-"  # prefix of the replay buffer's folder while a run trains
BUFFER_COPIES = 5  # peak number of buffer copies on disk: itself, two checkpoints, and a third in two forms


@dataclass
class Run:
    """A trained or partly trained agent: what :func:`recdqn.train` returns.

    Attributes:
        cfg: the configuration it trained with.
        policy: the policy, with the running average of its weights.
        metrics: one dictionary per evaluation: ``"frames"`` and ``"updates"`` so far, ``"seconds"`` of
            training, ``"returns"`` (one per greedy episode), the means of ``"loss"`` and ``"grad_norm"``
            since the evaluation before, ``"clipped"``, the share of gradients that were longer than
            ``max_grad_norm``, and ``"eps"``, the mean share of random actions of all environments.
        final: the evaluation that confirmed the solution, or ``None`` where training was not solved.
        statistics: what wrappers such as Gymnasium's ``NormalizeObservation`` had learned of observations at
            the last evaluation; empty without such wrappers.
    """

    cfg: Config
    policy: TensorDictSequential
    metrics: list[dict[str, Any]] = field(default_factory=list)
    final: Evaluation | None = None
    statistics: Statistics = field(default_factory=dict)


def mean_return(row: dict[str, Any]) -> float:
    """Mean greedy return of a row of :attr:`~recdqn.run.folder.Run.metrics`, or of a saved evaluation."""
    return float(sum(row["returns"]) / len(row["returns"]))


def create_folder(out: str | Path, cfg: Config) -> list[Path]:
    """Make the folder ``out`` and write the configuration and the manifest into it.

    The manifest says what makes the run: command, commit, versions, machine, threads, seed and date.

    Returns:
        The folders that were made, inner ones first.

    Raises:
        UserError: if ``out`` is not empty, or cannot be made or written.
    """
    folder = Path(out)
    run = {"preset": cfg.name, "seed": cfg.seed, "device": cfg.device, "threads": cfg.threads}
    try:
        if (folder / CONFIG).is_file():
            raise UserError(
                f"{folder} is not empty, it holds a run: choose another folder, "
                f"or resume with 'recdqn resume {folder}'"
            )
        # a run that was killed between the manifest and the configuration leaves the manifest alone
        if folder.exists() and any(
            path.suffix != ".tmp" and path.name != MANIFEST for path in folder.iterdir()
        ):
            raise UserError(f"{folder} is not empty: choose another folder, or remove it first")
        made = [path for path in (folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        _write_json(folder / MANIFEST, manifest() | run)
        write_config(folder, cfg)
    except OSError as error:
        raise UserError(
            f"cannot write a run into {folder}: {error.strerror}; choose another folder"
        ) from None
    return made


@contextlib.contextmanager
def removed_if_empty(out: Path, made: list[Path]) -> Iterator[None]:
    """Remove a new run folder if the run fails before it has saved anything, so that it can start again.

    A run that was stopped, or could not write, is resumed, and keeps its folder; so does one that met a
    value that is not finite, which is saved there. Files that an environment has written stay.

    Args:
        out: the folder, locked by this process.
        made: the folders to remove, inner ones first.
    """
    try:
        yield
    except Exception as error:
        saved = [
            path
            for pattern in (METRICS, NOT_FINITE, f"{CHECKPOINTS}/checkpoint-*")
            for path in out.glob(pattern)
        ]
        if not saved and not isinstance(error, OSError | NotFinite):
            for name in (CONFIG, MANIFEST, LOCK):
                (out / name).unlink(missing_ok=True)
            for name in (LOG, CHECKPOINTS):
                shutil.rmtree(out / name, ignore_errors=True)
            with contextlib.suppress(OSError):  # not empty
                for path in made:
                    path.rmdir()
        raise


def write_config(out: str | Path, cfg: Config) -> None:
    """Write the configuration into the folder ``out``."""
    _write_json(Path(out) / CONFIG, cfg.to_dict())


def save_checkpoint(out: str | Path, run: Run) -> None:
    """Write configuration, metrics and weights of ``run`` into the folder ``out``, and replace older files.

    Each file is complete before it replaces the old one.
    """
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    write_config(folder, run.cfg)
    weights = io.BytesIO()
    torch.save({k: v.cpu() for k, v in run.policy.state_dict().items()}, weights)
    _write(folder / WEIGHTS, weights.getvalue())
    final = None if run.final is None else dataclasses.asdict(run.final)
    learned = {"statistics": run.statistics} if run.statistics else {}
    _write_json(folder / METRICS, {"evaluations": run.metrics, "final": final} | learned, indent=1)


def load_checkpoint(path: str | Path, device: str = "cpu") -> Run:
    """Rebuild the policy of a saved run, with its configuration and metrics.

    Raises:
        UserError: if ``path`` is not a run folder, its files cannot be read, or ``device`` cannot be used.
    """
    folder = Path(path)
    cfg = load_config(folder)
    check_device(device)
    if missing := [name for name in (METRICS, WEIGHTS) if not (folder / name).is_file()]:
        raise UserError(
            f"{folder} has no {' and no '.join(missing)}; a run has none until its first evaluation: "
            f"resume with 'recdqn resume {folder}'"
        )
    try:
        saved = json.loads((folder / METRICS).read_text())
        weights = torch.load(folder / WEIGHTS, weights_only=True, map_location=device)
        policy = make_policy(cfg.policy, make_env(cfg.env)).to(device)
        policy.load_state_dict(weights)
        final = saved["final"] and Evaluation(**{k: tuple(v) for k, v in saved["final"].items()})
        return Run(cfg, policy, saved["evaluations"], final, saved.get("statistics", {}))
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"{folder} holds a run that cannot be read: {first_line(error)}; train it again"
        ) from None


def check_device(device: str) -> None:
    """Check that tensors can be made there.

    Raises:
        UserError: if not.
    """
    try:
        torch.zeros(1, device=device).item()  # "meta" makes tensors without data
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"device={device!r} cannot be used here ({first_line(error)}): try device='cpu'"
        ) from None


def load_agent(path: str | Path) -> Agent:
    """Load the policy of a saved run as a function: see :class:`recdqn.agent.Agent`.

    Raises:
        UserError: as :func:`load_checkpoint`.
    """
    run = load_checkpoint(path)
    return Agent(run.policy, run.cfg.env)


def load_config(path: str | Path) -> Config:
    """Read the configuration of a saved run.

    Raises:
        UserError: if ``path`` is not a run folder, or another version of the package wrote it and this one
            does not know its settings; the message names that version.
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
        with contextlib.suppress(LookupError, TypeError):
            there = load_manifest(folder)["versions"]["recdqn"]
        if there not in (None, here):
            raise UserError(
                f"{folder} was written by recdqn {there}, and this is {here} ({first_line(error)}): "
                f"pip install recdqn=={there}"
            ) from None
        raise UserError(
            f"{folder} holds a run that cannot be read: {first_line(error)}; train it again"
        ) from None


def load_manifest(path: str | Path) -> dict[str, Any]:
    """Read the manifest of a saved run; empty where there is none that can be read."""
    with contextlib.suppress(OSError, ValueError):
        made: dict[str, Any] = json.loads((Path(path) / MANIFEST).read_text())
        return made
    return {}


def remove_leftovers(folder: Path) -> None:
    """Remove half-written files and the replay buffer's folder, which a killed run left behind."""
    for pattern in ("*.tmp", f"{SCRATCH}*", f"{CHECKPOINTS}/.*"):
        for path in folder.glob(pattern):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def check_room(place: Path, buffer_bytes: int, copies: int = BUFFER_COPIES) -> None:
    """Check that the disk has room for the replay buffer and its copies in checkpoints.

    The checkpoints that are already in ``place`` count as free: new ones replace them.

    Raises:
        UserError: with the sizes in megabytes, if it has not.
    """
    needed = copies * buffer_bytes
    disk = place
    while not disk.exists():
        disk = disk.absolute().parent
    held = sum(path.stat().st_size for path in place.glob(f"{CHECKPOINTS}/checkpoint-*"))
    free = shutil.disk_usage(disk).free + held
    if needed > free:
        raise UserError(
            f"{disk} has {free / 1e6:.0f} MB free; a replay buffer of {buffer_bytes / 1e6:.0f} MB and its "
            f"copies need {needed / 1e6:.0f} MB: choose another folder, or a smaller replay.capacity"
        )


def _write_json(path: Path, value: dict[str, Any], indent: int = 2) -> None:
    _write(path, json.dumps(value, indent=indent, allow_nan=False).encode() + b"\n")


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
