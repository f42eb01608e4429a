"""Recorded runs and benchmarks in ``results/``, and learning curves over seeds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from scipy import stats

from recdqn.errors import ConfigError, UserError
from recdqn.presets import PRESETS
from recdqn.run.folder import CONFIG, MANIFEST, METRICS

RESULTS = Path(__file__).parents[2] / "results"
RESAMPLES = 2_000  # bootstrap resamples of the seeds

Record = dict[str, Any]  # the contents of a JSON file, or a part of them
Axis = Literal["frames", "minutes"]


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
    """Return the recorded runs of all presets, by the preset's name.

    Raises:
        UserError: if a preset has no recorded run.
    """
    return {preset: recorded_runs(preset, folder) for preset in PRESETS}


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


def mean_return(evaluation: Record) -> float:
    """Return the mean of an evaluation's greedy returns."""
    returns: list[float] = evaluation["returns"]
    return sum(returns) / len(returns)


def final_return(run: Record) -> float:
    """Return the mean return that confirmed a solved run, or that of an unsolved run's last evaluation."""
    return mean_return(run["final"] or run["evaluations"][-1])


@dataclass(frozen=True)
class Curve:
    """A learning curve over seeds: the interquartile mean of their greedy returns.

    Attributes:
        x: environment steps or minutes, ``[points]``.
        iqm: mean over the middle half of the seeds, ``[points]``; over all of them if there are fewer than
            four.
        low, high: ends of a 95 % bootstrap interval over seeds, ``[points]`` each; ``None`` for a single
            seed, which carries no information about the spread over seeds.
        seeds: number of seeds.
        solved: number of seeds that were solved.
    """

    x: np.ndarray
    iqm: np.ndarray
    low: np.ndarray | None
    high: np.ndarray | None
    seeds: int
    solved: int


def learning_curve(runs: Sequence[Record], axis: Axis = "frames", end: float = 0.0) -> Curve:
    """Compute the learning curve of runs that differ only in their seed.

    The value of a run at a point is that of its latest evaluation. A solved run stops early; from the
    evaluation that solved it on, its value is the mean return that confirmed it. A run that used up its
    frames keeps the value of its last evaluation. The interval resamples whole runs
    (:cite:t:`agarwal2021deep`).

    Args:
        runs: from :func:`recorded_runs`, at least one.
        axis: ``"frames"`` (environment steps) or ``"minutes"`` (wall-clock time).
        end: extend the curve to this point if all runs end before it.

    Raises:
        ConfigError: for any other axis.
    """
    histories = [_history(run, axis) for run in runs]
    start = max(x[0] for x, _ in histories)  # the first point at which every run has been evaluated
    x = np.unique(np.concatenate([x for x, _ in histories]))
    x = x[x >= start]
    if end > x[-1]:
        x = np.append(x, end)
    values = np.stack([y[np.searchsorted(at, x, side="right") - 1] for at, y in histories])  # [seeds, points]
    low, high = _interval(values) if len(runs) > 1 else (None, None)
    solved = sum(run["final"] is not None for run in runs)
    return Curve(x, _iqm(values, axis=0), low, high, len(runs), solved)


def _history(run: Record, axis: Axis) -> tuple[np.ndarray, np.ndarray]:
    """Return the points at which a run was evaluated and its values from there on, ``[evaluations]``."""
    if axis not in ("frames", "minutes"):
        raise ConfigError(f"axis={axis!r}: choose one of 'frames', 'minutes'")
    evaluations = run["evaluations"]
    at = [e["frames"] if axis == "frames" else e["seconds"] / 60 for e in evaluations]
    values = [*map(mean_return, evaluations[:-1]), final_return(run)]
    return np.array(at, dtype=float), np.array(values)


def _iqm(values: np.ndarray, axis: int) -> np.ndarray:
    return np.asarray(stats.trim_mean(values, 0.25, axis=axis))


def _interval(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the ends of a 95 % bootstrap interval over seeds, from ``[seeds, points]``."""
    result = stats.bootstrap(
        (values,),
        _iqm,
        axis=0,
        vectorized=True,
        n_resamples=RESAMPLES,
        method="percentile",
        rng=np.random.default_rng(0),
    )
    return result.confidence_interval.low, result.confidence_interval.high
