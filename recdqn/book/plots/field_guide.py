"""The map of silent bugs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from recdqn.book.plots.style import (
    BLUE,
    GREY,
    PALE_BLUE,
    RED,
    SMALL,
    WHITE,
    arrow,
    box,
    figsize,
    is_narrow,
    style,
    two_widths,
)

if TYPE_CHECKING:
    from recdqn.doctor import Bug

MARKERS = {"error": ("o", RED, RED), "warning": ("^", WHITE, BLUE)}  # marker, face colour, edge colour


@two_widths
def bug_map(bugs: Mapping[str, Bug], checks: Sequence[tuple[Any, Sequence[str], Sequence[str]]]) -> Figure:
    """Draw the parts of a pipeline, with the bugs of each part below it.

    Args:
        bugs: ``recdqn.doctor.BUGS``.
        checks: ``recdqn.doctor.checks.CHECKS``: each check with the parts it needs and the codes it reports.
    """
    parts = {code: needs for _, needs, codes in checks for code in codes}
    columns: list[list[str]] = [[], [], [], []]
    for code in bugs:
        columns[_column(parts[code])].append(code)
    boxes = {"env": 0.44, "policy": 1.44, "buffer": 2.2, "batch": 2.69, "loss": 3.44}  # centres
    length = max(map(len, columns))
    starts = [(float(column), 0) for column in range(4)]  # of each column of bugs
    if is_narrow():
        boxes = {"env": 0.2, "policy": 1.1, "buffer": 2.05, "batch": 2.95, "loss": 3.75}
        starts = [(0.0, 1 + sum(len(above) + 2 for above in columns[:column])) for column in range(4)]
        length = starts[-1][1] + len(columns[-1])
    with style():
        fig, ax = plt.subplots(figsize=figsize(1.3 + 0.23 * length, 1.2 + 0.19 * length))
        ax.set(xlim=(-0.03, 4.0), ylim=(length - 0.4, -3.4))
        ax.axis("off")
        for name, x in boxes.items():
            ax.text(x, -1.4, name, ha="center", va="center", family="monospace", bbox=box(PALE_BLUE, BLUE))
        middles = list(boxes.values())
        gap = 0.36 if is_narrow() else 0.17
        for a, b in pairwise(middles):
            ax.annotate("", (b - gap, -1.4), (a + gap, -1.4), arrowprops=arrow(BLUE))
        env, policy, loss = boxes["env"], boxes["policy"], boxes["loss"]
        ax.annotate("", (policy + 0.06, -2.0), (loss, -2.0), arrowprops=arrow(BLUE, "arc3,rad=0.13"))
        ax.annotate("", (env, -2.0), (policy - 0.06, -2.0), arrowprops=arrow(BLUE, "arc3,rad=0.25"))
        for x, text in (((env + policy) / 2, "acts in"), ((policy + loss) / 2, "trains")):
            ax.text(x, -2.95, text, ha="center", va="center", color=GREY, bbox=box(WHITE, WHITE, 0.1))
        titles = ("env", "policy", "buffer and batch", "loss")
        for codes, title, (left, top) in zip(columns, titles, starts, strict=True):
            if is_narrow():
                ax.text(left, top - 1, title, va="center", family="monospace", weight="bold")
            for row, code in enumerate(codes, top):
                marker, fill, edge = MARKERS[bugs[code].severity]
                ax.plot(left + 0.02, row, marker, color=edge, mfc=fill, ms=6)
                ax.text(
                    left + (0.12 if is_narrow() else 0.07),
                    row,
                    code,
                    va="center",
                    family="monospace",
                    fontsize=SMALL,
                )
        kinds = [Line2D([], [], ls="", marker=m, color=e, mfc=f, label=k) for k, (m, f, e) in MARKERS.items()]
        ax.legend(handles=kinds, loc="lower right", bbox_to_anchor=(1, 0))
    return fig


def _column(parts: Sequence[str]) -> int:
    """Index of the part that contains a bug, derived from the parts that its check needs."""
    words = {word for part in parts for word in part.split(" or ")}
    return 3 if "loss" in words else 1 if "policy" in words else 2 if "batch" in words else 0
