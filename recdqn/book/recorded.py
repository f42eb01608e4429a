"""Read the recorded runs in ``results/`` (chapter 5, the welcome page and the README)."""

from __future__ import annotations

import hashlib
import json
import math
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from scipy import stats

from recdqn.config import PRESETS, Config
from recdqn.errors import ConfigError, UserError
from recdqn.run.state import CONFIG, MANIFEST, METRICS

RESULTS = Path(__file__).parents[2] / "results"
CURVES = RESULTS.parent / "book" / "_static" / "learning-curves.svg"  # the README's figure

Axis = Literal["frames", "minutes"]
RESAMPLES = 2_000  # of the seeds, for an interval


def recorded_runs(preset: str, folder: Path = RESULTS) -> list[dict]:
    """Return the recorded runs of ``preset``, ordered by seed.

    Each has ``"path"``, ``"seed"``, ``"config"``, ``"manifest"``, ``"evaluations"`` and ``"final"`` (``None``
    where the run was not solved), as :func:`recdqn.run.state.save_checkpoint` wrote them.

    Raises:
        UserError: if there is none.
    """
    runs = []
    for path in sorted((folder / preset).glob("seed-*")):
        config, metrics, manifest = (json.loads((path / n).read_text()) for n in (CONFIG, METRICS, MANIFEST))
        runs.append({"path": path, "seed": config["seed"], "config": config, "manifest": manifest} | metrics)
    if not runs:
        raise UserError(
            f"no recorded run of {preset!r} in {folder}: clone the repository, or run 'make results'"
        )
    return sorted(runs, key=lambda run: run["seed"])


def recorded_presets(folder: Path = RESULTS) -> dict[str, list[dict]]:
    """Return the recorded runs of every preset, by its name.

    Raises:
        UserError: if a preset has none.
    """
    return {preset: recorded_runs(preset, folder) for preset in PRESETS}


def mean_return(evaluation: dict) -> float:
    """Mean of an evaluation's greedy returns."""
    return sum(evaluation["returns"]) / len(evaluation["returns"])


def final_return(run: dict) -> float:
    """Mean greedy return a run ended with: of its confirmation, or of its last evaluation where unsolved."""
    return mean_return(run["final"] or run["evaluations"][-1])


@dataclass(frozen=True)
class Curve:
    """How several seeds learned: the interquartile mean of their greedy returns (chapter 5).

    Attributes:
        x: ``[points]``, environment steps or minutes.
        iqm: ``[points]``, the mean over the middle half of the seeds; with fewer than four, over all.
        low, high: ``[points]``, the ends of a 95 % bootstrap interval over seeds at each point; ``None`` with
            one seed, which says nothing about another.
        seeds: how many.
        solved: how many of them were solved.
    """

    x: np.ndarray
    iqm: np.ndarray
    low: np.ndarray | None
    high: np.ndarray | None
    seeds: int
    solved: int


def learning_curve(runs: Sequence[dict], axis: Axis = "frames", end: float = 0.0) -> Curve:
    """Compute the curve of runs that differ in nothing but their seed (chapter 5).

    At each point a run counts with its latest evaluation there. A solved run stops early; from the evaluation
    that solved it on, it counts with the mean return that confirmed it. Where the frames of a run are used
    up, its last evaluation stands. The interval resamples whole runs (:cite:t:`agarwal2021deep`).

    Args:
        runs: from :func:`recorded_runs`, at least one.
        axis: ``"frames"`` (environment steps) or ``"minutes"`` (of wall-clock time).
        end: carry the curve on to here, if no run comes so far.

    Raises:
        ConfigError: for another axis.
    """
    histories = [_history(run, axis) for run in runs]
    # It begins where every run was evaluated once.
    start = max(x[0] for x, _ in histories)
    x = np.unique(np.concatenate([x for x, _ in histories]))
    x = x[x >= start]
    if end > x[-1]:
        x = np.append(x, end)
    values = np.stack([y[np.searchsorted(at, x, side="right") - 1] for at, y in histories])  # [seeds, points]
    low, high = _interval(values) if len(runs) > 1 else (None, None)
    solved = sum(run["final"] is not None for run in runs)
    return Curve(x, _iqm(values, axis=0), low, high, len(runs), solved)


def _history(run: dict, axis: Axis) -> tuple[np.ndarray, np.ndarray]:
    """Where a run was evaluated, and what it counts with from there on: ``[evaluations]`` each."""
    if axis not in ("frames", "minutes"):
        raise ConfigError(f"axis={axis!r}: choose one of 'frames', 'minutes'")
    evaluations = run["evaluations"]
    at = [e["frames"] if axis == "frames" else e["seconds"] / 60 for e in evaluations]
    values = [*map(mean_return, evaluations[:-1]), final_return(run)]
    return np.array(at, dtype=float), np.array(values)


def _iqm(values: np.ndarray, axis: int) -> np.ndarray:
    return stats.trim_mean(values, 0.25, axis=axis)


def _interval(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A 95 % bootstrap interval over seeds at every point, from ``[seeds, points]``."""
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


def results_table(folder: Path = RESULTS) -> str:
    """Return the recorded runs as a Markdown table: what each reached, in how many frames and seconds."""
    lines = [
        "| preset | seed | frames | seconds | best evaluation | final mean return | solved |",
        "|---|---|---|---|---|---|---|",
    ]
    for preset, runs in recorded_presets(folder).items():
        for run in runs:
            best = max(map(mean_return, run["evaluations"]))
            final = run["final"]
            reached = "" if final is None else f"{mean_return(final):.1f}, {len(final['returns'])} episodes"
            last = run["evaluations"][-1]
            lines.append(
                f"| {preset} | {run['seed']} | {last['frames']:,} | {last['seconds']:,.0f} | {best:.1f} "
                f"| {reached or '–'} | {'yes' if final else 'no'} |"
            )
    return "\n".join(lines)


def summary_table(folder: Path = RESULTS) -> str:
    """Return a Markdown table of each preset over its seeds: median, worst and best.

    A run that was not solved needed more frames and seconds than any that was, so it counts among the worst,
    and a median that falls on one reads "unsolved". It has no confirmation; its final mean return is that of
    its last evaluation.
    """
    lines = ["| preset | solved | | median | worst | best |", "|---|---|---|---|---|---|"]
    for preset, runs in recorded_presets(folder).items():
        solved = sum(run["final"] is not None for run in runs)
        head = f"| {preset} | {solved} of {len(runs)} seed{'s' * (len(runs) > 1)} |"
        for what in ("frames", "seconds"):
            needed = [run["evaluations"][-1][what] if run["final"] else math.inf for run in runs]
            cells = (_needed(f(needed)) for f in (statistics.median, max, min))
            lines.append(f"{head} {what} until solved | {' | '.join(cells)} |")
            head = "| | |"
        reached = [final_return(run) for run in runs]
        cells = (f"{f(reached):.1f}" for f in (statistics.median, min, max))
        lines.append(f"{head} final mean return | {' | '.join(cells)} |")
    return "\n".join(lines)


def _needed(amount: float) -> str:
    return "unsolved" if amount == math.inf else f"{amount:,.0f}"


def recorded_benchmarks(folder: Path = RESULTS) -> dict[str, dict]:
    """Return the rows of the last ``make bench``, by name, as ``benchmarks`` wrote them (chapter 6).

    Raises:
        UserError: if none is recorded.
    """
    path = folder / "bench.json"
    if not path.is_file():
        raise UserError(f"no recorded benchmarks in {folder}: clone the repository, or run 'make bench'")
    return json.loads(path.read_text(encoding="utf-8"))


def bench_table(folder: Path = RESULTS) -> str:
    """Return the recorded benchmarks as a Markdown table: ours, the other side, what must be reached."""
    lines = ["| row | what | ours | against | ratio | must reach | met |", "|---|---|---|---|---|---|---|"]
    for name, row in recorded_benchmarks(folder).items():
        ours = f"{_figure(row['ours'])} {row['unit']}"
        other = "–" if row["other"] is None else f"{row['against']}: {_figure(row['other'])} {row['unit']}"
        ratio = "–" if row["ratio"] is None else _figure(row["ratio"])
        met = "yes" if row["met"] else "no"
        lines.append(f"| {name} | {row['what']} | {ours} | {other} | {ratio} | {row['must']} | {met} |")
    return "\n".join(lines)


def _figure(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:.3g}"


def fingerprint(presets: Mapping[str, Sequence[dict]]) -> str:
    """Return a short text that changes whenever the evaluations of the runs do."""
    content = {
        preset: [[run[key] for key in ("seed", "evaluations", "final")] for run in runs]
        for preset, runs in presets.items()
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def promises(folder: Path = RESULTS) -> str:
    """Return what is promised of a run that something happens to, and what is not, in four lines."""
    stop, seconds = recorded_benchmarks(folder)["stop"], Config().train.save_seconds
    lines = [
        "A run that was killed or stopped goes on with `--resume`: on one CPU thread and with the same "
        "versions, bit for bit as if it had never stopped. It is saved every "
        f"{seconds:g} seconds, and what came after that is repeated. 50 kills at random moments test it.",
        "Ctrl-C and SIGTERM save and end within five seconds, unless a step of the environment hangs. "
        f"Recorded: {_figure(stop['ours'])} s {stop['what']}.",
        "A disk that is full, a damaged file, a number that is not finite or an environment that fails ends "
        "the run with one line, and its last checkpoint is whole. No file that is loaded can run code. What "
        "a killed run leaves half-written, a resume removes.",
        "Not promised: the same bits on a GPU, with more threads or other versions; episodes that go on "
        "where an environment holds more than plain values (they begin anew, and a line says so), or keeps "
        'a state in a class or a module (nobody can see it); the `"seconds"` in the metrics.',
    ]
    return "\n".join(f"- {line}" for line in lines)


def write_tables(readme: Path, folder: Path = RESULTS) -> None:
    """Put what is read from ``folder`` between its markers in ``readme``.

    :func:`results_table` stands between ``<!-- results -->`` and ``<!-- /results -->``,
    :func:`summary_table` between ``<!-- summary -->`` and ``<!-- /summary -->``, :func:`promises` between
    ``<!-- promises -->`` and ``<!-- /promises -->``.

    Raises:
        UserError: if ``readme`` lacks a marker.
    """
    text = readme.read_text(encoding="utf-8")
    tables = {"results": results_table, "summary": summary_table, "promises": promises}
    for name, table in ((name, function(folder)) for name, function in tables.items()):
        opening, closing = f"<!-- {name} -->", f"<!-- /{name} -->"
        before, found, rest = text.partition(opening)
        _, closed, after = rest.partition(closing)
        if not (found and closed):
            raise UserError(f"{readme} needs the lines {opening} and {closing}: the table goes between them")
        text = f"{before}{opening}\n{table}\n{closing}{after}"
    readme.write_text(text, encoding="utf-8")


def write_curves(path: Path = CURVES, folder: Path = RESULTS) -> None:
    """Draw the learning curves of all presets into an SVG file; its description has their fingerprint."""
    # Figures are drawn by few who read results, and plots reads this module.
    from recdqn.book.plots import save_svg, seed_curves

    presets = recorded_presets(folder)
    save_svg(seed_curves(presets), path, description=f"recorded runs {fingerprint(presets)}")


if __name__ == "__main__":
    write_tables(Path(sys.argv[1]))
    write_curves()
