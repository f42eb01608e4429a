"""What each piece of R2D2 is worth, from the recorded runs of ``python -m benchmarks.r2d2``."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import stats

from recdqn.book.prices import rank
from recdqn.book.recorded import RESULTS, Record, recorded_runs
from recdqn.curves import RESAMPLES

TASKS = (
    "corridor-100",
    "corridor-30",
    "t-maze-10",
    "masked-cartpole",
    "minigrid-memory-s7",
    "flickering-cartpole",
)
COMPLETE, PLAIN = "complete", "plain"
EVERYWHERE = {  # agents of every task: by folder, what one has in the place of the piece
    COMPLETE: "complete agent",
    "priority": "no priorities",
    "importance": "no importance weights",
    "rescaling": "values not rescaled",
    "n-step": "one-step targets",
    "double": "no double Q-learning",
    "dueling": "one head",
    "target-copies": "target moves at each update",
    "previous": "no previous action and reward",
    "ladder": "one schedule of epsilon",
}
LABELS = EVERYWHERE | {
    "whole-episodes": "slices of 60 steps",
    "burn-in": "no burn-in",
    "stored-state": "slices start from zeros",
    "fixed-places": "slices at any step",
    PLAIN: "the task's own preset",
}
# Pieces that agents without the ladder also lack, one each; the preset corridor-100 has none of them.
BESIDE_LADDER = ("previous", "dueling", "priority", "importance", "target-copies", "rescaling")
BOTH = "ladder-and-target-copies-and-rescaling"
NO_LADDER = {  # agents without the ladder
    "ladder": EVERYWHERE["ladder"],
    **{f"ladder-and-{piece}": f"… and {EVERYWHERE[piece]}" for piece in BESIDE_LADDER},
    BOTH: "… and both of the last two",
}
FEWEST = 3  # seeds that are shown
TESTED = 4  # seeds of both agents; with fewer the test could tell nothing from chance
LEVEL = 0.05  # of the test that tells an effect from chance


def recorded_pieces(task: str) -> dict[str, list[Record]]:
    """Return the recorded runs of a task by agent of ``LABELS``, those with three seeds or more.

    Empty if one of ``EVERYWHERE`` is missing. The task's own preset is the agent without the pieces.
    """
    plain = task if task == "masked-cartpole" else f"memory/{task}/lstm"
    folders = {name: plain if name == PLAIN else f"r2d2/{task}/{name}" for name in LABELS}
    found = {}
    for name, folder in folders.items():
        if len(list((RESULTS / folder).glob("seed-*/metrics.json"))) >= FEWEST:
            found[name] = recorded_runs(folder)
    return found if EVERYWHERE.keys() <= found.keys() else {}


def frames(run: Record) -> int:
    """Return the environment steps until a run was solved; of an unsolved run, all that it took."""
    return int(run["evaluations"][-1]["frames"])


def mean_interval(runs: Sequence[Record]) -> tuple[float, float, float]:
    """Return the mean of :func:`frames` over seeds and its 95 % bootstrap interval."""
    counts = np.array([frames(run) for run in runs], float)
    if np.ptp(counts) == 0.0:
        return float(counts[0]), float(counts[0]), float(counts[0])
    rng = np.random.default_rng(0)
    result = stats.bootstrap((counts,), np.mean, n_resamples=RESAMPLES, method="percentile", rng=rng)
    low, high = result.confidence_interval
    return float(counts.mean()), float(low), float(high)


def verdict(complete: Sequence[Record], without: Sequence[Record]) -> str:
    """Return ``"helps"``, ``"harms"``, ``"no difference seen"`` or ``"too few runs"``: what the piece does.

    A Mann-Whitney test at the level of 5 % compares the runs; a solved run ranks above one that is not, then
    the earlier above the later.
    """
    if min(len(complete), len(without)) < TESTED:
        return "too few runs"
    ours, theirs = ([rank(run) for run in runs] for runs in (complete, without))
    if stats.mannwhitneyu(ours, theirs, alternative="two-sided").pvalue >= LEVEL:
        return "no difference seen"
    mean = statistics.mean(stats.rankdata(ours + theirs)[: len(ours)])
    return "helps" if mean > (len(ours) + len(theirs) + 1) / 2 else "harms"


def overview(found: Mapping[str, Mapping[str, Sequence[Record]]]) -> list[tuple[str, ...]]:
    """Return a table row for each agent, with a cell for each task.

    A cell has the mean of :func:`frames`, the number of solved runs where some were not, and what the piece
    does where that is known.

    Args:
        found: by task, what :func:`recorded_pieces` returns.
    """
    names = [name for name in LABELS if any(name in agents for agents in found.values())]
    return [(LABELS[name], *(_cell(agents, name) for agents in found.values())) for name in names]


def without_ladder(agents: Mapping[str, Sequence[Record]]) -> list[tuple[str, ...]]:
    """Return a table row for each agent of ``NO_LADDER``.

    A row has the number of seeds, the mean of :func:`frames`, and whether the agent solves its task later or
    sooner than the complete agent, and than the agent that lacks the ladder only.

    Args:
        agents: runs by name, those of the complete agent among them.
    """
    words = {"helps": "later", "harms": "sooner"}
    rows = []
    for name, label in NO_LADDER.items():
        runs = agents[name]
        effects = [verdict(agents[other], runs) for other in (COMPLETE, "ladder")]
        if name == "ladder":
            effects[1] = "–"
        cells = [words.get(effect, effect) for effect in effects]
        rows.append((label, str(len(runs)), f"{mean_interval(runs)[0]:,.0f}", *cells))
    return rows


def _cell(agents: Mapping[str, Sequence[Record]], name: str) -> str:
    if name not in agents:
        return "–"
    runs = agents[name]
    solved = sum(run["final"] is not None for run in runs)
    parts = [f"{mean_interval(runs)[0]:,.0f}"]
    if solved < len(runs):
        parts.append(f"{solved} of {len(runs)}")
    effect = "" if name in (COMPLETE, PLAIN) else verdict(agents[COMPLETE], runs)
    return ", ".join(parts + [effect] * (effect not in ("", "no difference seen")))
