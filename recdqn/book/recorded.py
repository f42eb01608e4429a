"""Recorded runs and benchmarks in ``results/``."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from recdqn.curves import Record
from recdqn.errors import UserError
from recdqn.run.folder import CONFIG, MANIFEST, METRICS, mean_return

__all__ = [
    "CARTPOLES",
    "RESULTS",
    "Record",
    "fingerprint",
    "mean_return",
    "recorded_benchmarks",
    "recorded_presets",
    "recorded_runs",
]
RESULTS = Path(__file__).parents[2] / "results"
CARTPOLES = ("masked-cartpole", "pixel-cartpole")  # the presets of the first part


def recorded_runs(name: str, folder: Path = RESULTS) -> list[Record]:
    """Return the recorded runs in ``folder / name``, ordered by seed.

    Each has ``"path"``, ``"seed"``, ``"config"``, ``"manifest"``, ``"evaluations"`` and ``"final"`` (``None``
    for a run that was not solved), as :func:`recdqn.run.folder.save_checkpoint` wrote them. ``"config"`` is
    ``None`` for a run of another program.

    Args:
        name: a preset, or another folder of runs, such as ``"classic-tutorial/0"``.
        folder: where the recorded runs are.

    Raises:
        UserError: if there is no recorded run.
    """
    runs = []
    for path in sorted((folder / name).glob("seed-*")):
        metrics, manifest = (json.loads((path / file).read_text()) for file in (METRICS, MANIFEST))
        config = json.loads((path / CONFIG).read_text()) if (path / CONFIG).is_file() else None
        run = {"path": path, "seed": manifest["seed"], "config": config, "manifest": manifest, "final": None}
        runs.append(run | metrics)
    if not runs:
        raise UserError(
            f"no recorded run of {name!r} in {folder}: clone the repository, or run 'make results'"
        )
    return sorted(runs, key=lambda run: run["seed"])


def recorded_presets(folder: Path = RESULTS) -> dict[str, list[Record]]:
    """Return the recorded runs of the two presets for CartPole, by the preset's name.

    Raises:
        UserError: if a preset has no recorded run.
    """
    return {preset: recorded_runs(preset, folder) for preset in CARTPOLES}


def recorded_benchmarks(folder: Path = RESULTS) -> dict[str, Record]:
    """Return the rows of the last ``make bench``, by name.

    Raises:
        UserError: if no benchmarks are recorded.
    """
    path = folder / "bench.json"
    if not path.is_file():
        raise UserError(f"no recorded benchmarks in {folder}: clone the repository, or run 'make bench'")
    rows: dict[str, Record] = json.loads(path.read_text(encoding="utf-8"))
    return rows


def fingerprint(presets: Mapping[str, Sequence[Record]]) -> str:
    """Return a short hash of the runs' evaluations, to tell whether a figure was drawn from them."""
    content = {
        preset: [[run[key] for key in ("seed", "evaluations", "final")] for run in runs]
        for preset, runs in presets.items()
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
