"""What each silent bug costs, from the recorded runs of ``python -m benchmarks.bugs``."""

from __future__ import annotations

import json
import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import stats

from recdqn.book.recorded import RESULTS, Record, recorded_runs
from recdqn.curves import RESAMPLES, final_return
from recdqn.doctor import BUGS
from recdqn.errors import UserError

TASKS = {"masked-cartpole": "masked CartPole", "corridor-10": "corridor of 10 steps"}
RIGHT = {"masked-cartpole": "masked-cartpole", "corridor-10": "memory/corridor-10/lstm"}  # the presets' runs
ONE_STEP = "one-step"  # no bug: the right loss with n_steps=1
ONE_STEP_BUGS = ("target-leak", "recurrent-mode-off")  # their losses have one-step targets
WIPED = "wiped.json"  # returns of the same agent whose memory is wiped at every step
FEWEST = 3  # seeds; with fewer nothing could be told from chance
LEVEL = 0.01  # of the test that tells a price from chance

Prices = dict[str, dict[str, "Price"]]


@dataclass(frozen=True)
class Price:
    """The recorded runs with a bug in a task, and the right ones beside them.

    Attributes:
        wrong, right: runs by seed, from :func:`recdqn.book.recorded.recorded_runs`.
    """

    wrong: Sequence[Record]
    right: Sequence[Record]

    @property
    def kind(self) -> str:
        """``"returns"`` if fewer runs are solved, ``"time"`` if they are solved later, ``"nothing"``.

        A one-sided Mann-Whitney test at the level of 1 % compares the runs: a solved run ranks above one that
        is not, then the earlier above the later, and of two unsolved runs the higher return.
        """
        ranks = [[rank(run) for run in runs] for runs in (self.wrong, self.right)]
        if stats.mannwhitneyu(*ranks, alternative="less").pvalue >= LEVEL:
            return "nothing"
        return "time" if solved_share(self.wrong) >= solved_share(self.right) > 0 else "returns"


def rank(run: Record) -> float:
    """Return a number that is larger the better a run ended, to compare runs of one task by their ranks."""
    frames = run["evaluations"][-1]["frames"]
    return -frames if run["final"] is not None else final_return(run) - 1e9


def recorded_prices(folder: Path = RESULTS) -> Prices:
    """Return the price of each bug that is recorded with three seeds or more, the worst bug first.

    The first key is the bug's name, the second one the task.

    Raises:
        UserError: if there is no recorded run.
    """
    seeds = [Counter(p.parent.name for p in (folder / "bugs" / task).glob("*/seed-*")) for task in TASKS]
    names = {name for name in seeds[0] if min(count[name] for count in seeds) >= FEWEST}
    if not names:
        raise UserError(f"no recorded bugs in {folder / 'bugs'}: clone the repository, or run 'make results'")
    prices: Prices = {}
    for name in names - {ONE_STEP}:
        prices[name] = {}
        for task in TASKS:
            right = f"bugs/{task}/{ONE_STEP}" if name in ONE_STEP_BUGS else RIGHT[task]
            runs = recorded_runs(f"bugs/{task}/{name}", folder), recorded_runs(right, folder)
            prices[name][task] = Price(*runs)
    return dict(sorted(prices.items(), key=lambda item: (_damage(item[1]), item[0])))


def _damage(price: Mapping[str, Price]) -> list[float]:
    """Return what bugs are sorted by: the share of solved runs, then the median number of frames."""
    wrong = [run for each in price.values() for run in each.wrong]
    return [
        solved_share(wrong),
        -sum(statistics.median(run["evaluations"][-1]["frames"] for run in p.wrong) for p in price.values()),
    ]


def costing(prices: Prices, task: str, kind: str) -> list[str]:
    """Return the bugs whose price in ``task`` is of a kind of :attr:`Price.kind`."""
    return [name for name, price in prices.items() if price[task].kind == kind]


def free(prices: Prices) -> list[str]:
    """Return the bugs that cost nothing in any task."""
    return [name for name, price in prices.items() if all(p.kind == "nothing" for p in price.values())]


def interval(runs: Sequence[Record]) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of the mean final return, over seeds."""
    returns = np.array([final_return(run) for run in runs])
    if np.ptp(returns) == 0.0:
        return float(returns[0]), float(returns[0])
    options = {"n_resamples": RESAMPLES, "method": "percentile", "rng": np.random.default_rng(0)}
    found = stats.bootstrap((returns,), np.mean, **options).confidence_interval
    return float(found.low), float(found.high)


def solved_share(runs: Sequence[Record]) -> float:
    """Return the share of runs that were solved."""
    return sum(run["final"] is not None for run in runs) / len(runs)


def mean_final(runs: Sequence[Record]) -> float:
    """Return the mean final return over seeds."""
    return statistics.mean(map(final_return, runs))


def frames_to_solved(runs: Sequence[Record]) -> float:
    """Return the median number of environment steps until solved; a run that is not ranks as infinite."""
    return statistics.median(r["evaluations"][-1]["frames"] if r["final"] else math.inf for r in runs)


def wiped(price: Price) -> float | None:
    """Return the mean return of the same agents whose memory is wiped at every step, if it is recorded."""
    files = [run["path"] / WIPED for run in price.wrong]
    returns = [statistics.mean(json.loads(file.read_text())) for file in files if file.is_file()]
    return statistics.mean(returns) if returns else None


def price_table(prices: Prices) -> str:
    """Return a table with a row for each bug, and the right runs in brackets."""
    heads = [f"{label}: {what}" for label in TASKS.values() for what in ("return", "solved", "frames")]
    lines = [f"| bug | {' | '.join(heads)} |", "|---" * (1 + len(heads)) + "|"]
    for name, price in prices.items():
        cells = [f"[{name}](#{name})" if name in BUGS else name]
        for task in TASKS:
            cells += _cells(price[task], digits=0 if task == "masked-cartpole" else 2)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _cells(price: Price, digits: int) -> list[str]:
    low, high = interval(price.wrong)
    return [
        f"{mean_final(price.wrong):.{digits}f} ({low:.{digits}f} to {high:.{digits}f})",
        f"{sum(run['final'] is not None for run in price.wrong)} of {len(price.wrong)}",
        _frames(frames_to_solved(price.wrong)),
    ]


def _frames(value: float) -> str:
    return "–" if value == math.inf else f"{value:,.0f}"


def price_line(price: Mapping[str, Price]) -> str:
    """Describe the price of a bug in one line."""
    parts = []
    for task, each in price.items():
        digits = 0 if task == "masked-cartpole" else 2
        solved = [sum(run["final"] is not None for run in runs) for runs in (each.wrong, each.right)]
        parts.append(
            f"{TASKS[task]} {mean_final(each.wrong):.{digits}f} (right {mean_final(each.right):.{digits}f}), "
            f"{solved[0]} of {len(each.wrong)} solved (right {solved[1]} of {len(each.right)})"
        )
    return "; ".join(parts)
