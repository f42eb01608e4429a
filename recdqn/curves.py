"""Learning curves over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from scipy import stats

from recdqn.run.folder import mean_return

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RESAMPLES = 2_000  # bootstrap resamples of the seeds

Record = dict[str, Any]  # the contents of a JSON file, or a part of them
Axis = Literal["frames", "minutes"]


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
    frames keeps the value of its last evaluation. The interval resamples whole runs, as the paper of
    :attr:`recdqn.evaluation.Evaluation.iqm` does.

    Args:
        runs: at least one, each with ``"evaluations"`` and ``"final"`` as in ``metrics.json``.
        axis: ``"frames"`` (environment steps) or ``"minutes"`` (wall-clock time).
        end: extend the curve to this point if all runs end before it.

    Raises:
        ValueError: for any other axis.
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


def draw_curves(
    ax: Axes,
    groups: Mapping[str, Sequence[Record]],
    axis: Axis = "frames",
    colors: Sequence[str] = ("C0", "C1", "C2", "C4"),
) -> None:
    """Draw learning curves: the interquartile mean over seeds, with a band for its 95 % interval.

    Each curve is extended to the end of the longest. A single seed has no interval, and its legend says so.

    Args:
        ax: axes of Matplotlib.
        groups: runs that differ only in their seed, by label.
        axis: ``"frames"`` (environment steps), or ``"minutes"`` (wall-clock time, on a logarithmic axis).
        colors: of the curves, in turn.
    """
    end = max(learning_curve(runs, axis).x[-1] for runs in groups.values())
    for number, (label, runs) in enumerate(groups.items()):
        curve, color = learning_curve(runs, axis, end), colors[number % len(colors)]
        # so that curves differ by more than colour, and the fifth from the first
        line = ("-", "--", "-.", ":")[(number + number // len(colors)) % 4]
        seeds = f"{curve.seeds} seeds" if curve.seeds > 1 else "1 seed, no interval"
        label = f"{label}\nsolved {curve.solved} of {seeds}"
        ax.plot(curve.x, curve.iqm, line, color=color, label=label)
        if curve.low is not None and curve.high is not None:
            ax.fill_between(curve.x, curve.low, curve.high, color=color, alpha=0.2, lw=0)
    if axis == "minutes":
        ax.set_xscale("log")
        ax.xaxis.set_major_formatter("{x:g}")
    else:
        ax.set_xlim(0, None)
        ax.xaxis.set_major_formatter("{x:,.0f}")
    names = {"frames": "environment steps", "minutes": "minutes of wall-clock time"}
    ax.set(xlabel=names[axis], ylabel="IQM of the mean return")


def _history(run: Record, axis: Axis) -> tuple[np.ndarray, np.ndarray]:
    """Return the points at which a run was evaluated and its values from there on, ``[evaluations]``."""
    if axis not in ("frames", "minutes"):
        raise ValueError(f"axis={axis!r}: choose one of 'frames', 'minutes'")
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
