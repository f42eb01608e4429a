"""Figures of a fleet of actors: its parts, who works when, and how it grows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Patch

from recdqn.book.plots.style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PALE_BLUE,
    PALE_ORANGE,
    PURPLE,
    RED,
    SMALL,
    WHITE,
    arrow,
    box,
    figsize,
    is_narrow,
    panels,
    style,
    two_widths,
)

Corner = tuple[float, float]


@two_widths
def fleet_parts() -> Figure:
    """Draw the processes of a fleet, and what passes between them."""
    learner = ("learner", "fleet", "replay buffer", "loss, optimiser")
    actor = ("actor {}", "environments", "policy, a copy", "collector")
    with style():
        fig, ax = plt.subplots(figsize=figsize(3.3, 5.2))
        ax.axis("off")
        if is_narrow():
            ax.set(xlim=(0, 3.4), ylim=(0, 5.2))
            _process(ax, (0.9, 3.6), 1.6, learner, PALE_ORANGE)
            corners = [(0.05, 0.1), (1.75, 0.1)]
            _pass(ax, (1.3, 3.55), (0.75, 1.65), "weights", (0.9, 2.95), "right", BLUE)
            _pass(ax, (1.6, 3.55), (2.3, 1.65), "", (0, 0), "left", BLUE)
            _pass(ax, (1.05, 1.65), (1.75, 3.55), "", (0, 0), "left", ORANGE)
            _pass(
                ax, (2.7, 1.65), (2.1, 3.55), "steps, and\nthe state\nafter them", (2.5, 2.95), "left", ORANGE
            )
        else:
            ax.set(xlim=(0, 7.5), ylim=(0, 3.3))
            _process(ax, (0.1, 0.9), 1.7, learner, PALE_ORANGE)
            corners = [(5.6, 1.75), (5.6, 0.1)]
            for y in (2.6, 1.0):
                bend = 0.3 if y > 2 else -0.3
                _pass(ax, (1.9, 1.75 + bend), (5.5, y), "", (0, 0), "left", BLUE)
                _pass(ax, (5.5, y - 0.3), (1.9, 1.5 + bend), "", (0, 0), "left", ORANGE)
            ax.text(3.7, 2.75, "weights", ha="center", va="center", color=BLUE, fontsize=9)
            text = "steps, and the state after them"
            ax.text(3.7, 0.55, text, ha="center", va="center", fontsize=9)
        for number, corner in enumerate(corners):
            _process(ax, corner, 1.6, [line.format(number) for line in actor], PALE_BLUE)
    return fig


def _process(ax: Axes, corner: Corner, width: float, lines: Sequence[str], face: str) -> None:
    """Draw a process as a box, with its name and its parts."""
    (x, y), height = corner, 1.45
    ax.add_patch(
        FancyBboxPatch((x, y), width, height, boxstyle="round,pad=0,rounding_size=0.08", fc=face, ec=GREY)
    )
    for k, line in enumerate(lines):
        weight = "normal" if k else "bold"
        ax.text(x + width / 2, y + height - 0.22 - 0.34 * k, line, ha="center", va="center", weight=weight)


def _pass(ax: Axes, start: Corner, end: Corner, text: str, at: Corner, side: str, color: str) -> None:
    """Draw what passes from one process to another."""
    ax.annotate("", end, start, arrowprops=arrow(color))
    if text:
        ax.text(*at, text, ha=side, va="center", fontsize=SMALL)


@two_widths
def timelines(collect: float, share: float, update: float, cycles: int = 3) -> Figure:
    """Draw when one process collects and learns, and when a fleet's actors and its learner do.

    Args:
        collect: seconds of a collection in the learner's process.
        share: seconds of the same collection by actors, each of which makes its share.
        update: seconds of the updates after a collection.
        cycles: collections to draw.
    """
    alone, actors, learner = [], [], []
    for k in range(cycles):
        start = k * (collect + update)
        alone += [(start, collect, BLUE, k), (start + collect, update, ORANGE, k)]
    cycle = max(share, update)
    for k in range(cycles + 1):
        start = 0.0 if k == 0 else share + (k - 1) * cycle
        actors.append((start, share, BLUE, k))
        if k < cycles:
            learner.append((share + k * cycle, update, ORANGE, k))
    rows = {"one process": alone, "actors": actors, "learner": learner}
    end = cycles * (collect + update)
    with style():
        fig, ax = plt.subplots(figsize=figsize(2.3, 2.7))
        for y, blocks in enumerate(rows.values()):
            for start, length, color, number in blocks:
                ax.barh(y, length, left=start, height=0.6, color=color, edgecolor=WHITE, lw=0.8)
                if length > 0.06 * end:
                    place = start + length / 2
                    ax.text(
                        place, y, str(number + 1), ha="center", va="center", bbox=box(WHITE, "none", 0.15)
                    )
        ax.set_yticks(range(len(rows)), list(rows))
        ax.set(xlabel="seconds", ylim=(len(rows) - 0.5, -0.5), xlim=(0, end))
        handles = [Patch(color=BLUE, label="collects"), Patch(color=ORANGE, label="updates")]
        fig.legend(handles=handles, loc="outside upper center", ncols=2)
    return fig


@two_widths
def large_fleets(fleets: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """Draw how fast fleets are and how old their weights get, against the number of actors.

    Args:
        fleets: by label, outcomes of :func:`recdqn.book.cluster.simulate`, each with its ``"actors"``, the
            same ones in all; at most five labels.
    """
    looks = zip((RED, ORANGE, BLUE, PURPLE, GREEN), ("o-", "s--", "^-", "v:", "D-."), strict=True)
    with style():
        fig, axes = panels(2, 3.6, 2.6)
        for (label, rows), (color, line) in zip(fleets.items(), looks, strict=False):
            actors = [row["actors"] for row in rows]
            for ax, name in zip(axes, ("rate", "age"), strict=True):
                ax.plot(actors, [row[name] for row in rows], line, color=color, ms=4, label=label)
        for ax, unit in zip(axes, ("frames per second", "age of the weights, updates"), strict=True):
            ax.set_xscale("log", base=2)
            ax.set_yscale("log")
            ax.set_xticks(actors[::2], [f"{count:,}" for count in actors[::2]])
            ax.set(xlabel="actors", ylabel=unit)
            ax.minorticks_off()
        handles, labels = axes[0].get_legend_handles_labels()
        fig.legend(handles, labels, loc="outside lower left", ncols=1 if is_narrow() else 3)
    return fig
