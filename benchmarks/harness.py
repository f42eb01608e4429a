"""What every benchmark shares: rows, and timing two sides by turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        what: what was measured.
        ours: the package's figure.
        other: the other side's figure, measured in the same run; ``None`` where there is no other side.
        against: what the other side is.
        unit: of both figures.
        ratio: how the two compare, in the direction in which more is better or less is, as ``must`` says.
        must: what the ratio, or our figure, must reach.
        met: whether it does.
    """

    what: str
    ours: float
    other: float | None
    against: str
    unit: str
    ratio: float | None
    must: str
    met: bool


def seconds_by_turns(
    sides: dict[str, Callable[[], object]],
    repeats: int,
    warmup: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Call each side ``repeats`` times, taking turns, and return the median seconds of a call of each.

    Taking turns lets a machine that gets slower for a while slow both sides. ``time.thread_time``
    as the clock leaves out what other programs take.
    """
    times: dict[str, list[float]] = {name: [] for name in sides}
    for k in range(warmup + repeats):
        for name, call in sides.items():
            start = clock()
            call()
            if k >= warmup:
                times[name].append(clock() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def table(rows: dict[str, Row]) -> str:
    """Write the rows as a Markdown table."""
    lines = [
        "| row | what | ours | against | ratio | must reach | met |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        ours = f"{_figure(row.ours)} {row.unit}"
        other = "" if row.other is None else f"{row.against}: {_figure(row.other)} {row.unit}"
        ratio = "" if row.ratio is None else f"{row.ratio:.3g}"
        met = "yes" if row.met else "no"
        lines.append(f"| {name} | {row.what} | {ours} | {other} | {ratio} | {row.must} | {met} |")
    return "\n".join(lines)


def _figure(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:.4g}"
