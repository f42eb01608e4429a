"""Figures of an agent outside of training: what goes in and out, and where it runs."""

from __future__ import annotations

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from recdqn.book.plots.style import (
    BLUE,
    GREY,
    NARROW,
    ORANGE,
    PALE_BLUE,
    PALE_ORANGE,
    SMALL,
    WIDE,
    arrow,
    box,
    figsize,
    is_narrow,
    style,
    two_widths,
)

# Where an agent runs, how, and what keeps the state between two steps.
PLACES = (
    ("Python", "Agent.act", "your loop"),
    ("a file", "ONNX or .pt2", "your program"),
    ("a server", "HTTP, WebSocket", "a session\nper client"),
    ("a browser", "JavaScript", "the page"),
)
Corner = tuple[float, float]


@two_widths
def agent_places() -> Figure:
    """Draw an agent as a function, and the places where it runs, with what keeps the state in each."""
    width, height, columns = (NARROW, 5.0, 2) if is_narrow() else (WIDE, 3.3, 4)
    with style():
        fig, ax = plt.subplots(figsize=figsize(3.3, 5.0))
        ax.axis("off")
        ax.set(xlim=(0, width), ylim=(0, height))
        _function(ax, width / 2, height - 0.65)
        across = (width - 0.1) / columns
        for k, (place, how, keeper) in enumerate(PLACES):
            corner = (0.05 + k % columns * across, 0.05 + (3 - k) // columns * 1.6)
            _box(ax, corner, across - 0.1, 1.5, PALE_BLUE)
            x, y = corner[0] + (across - 0.1) / 2, corner[1]
            ax.text(x, y + 1.25, place, ha="center", va="center", weight="bold")
            ax.text(x, y + 0.97, how, ha="center", va="center")
            ax.text(x, y + 0.64, "keeps the state:", ha="center", va="center", fontsize=SMALL)
            ground = box(PALE_ORANGE, "none", 0.25)
            ax.text(x, y + 0.32, keeper, ha="center", va="center", bbox=ground)
    return fig


def _function(ax: Axes, x: float, y: float) -> None:
    """Draw the agent around a point, with its inputs, its outputs, and the way of the state back."""
    half, reach = (0.45, 0.3) if is_narrow() else (0.7, 0.8)
    _box(ax, (x - half, y - 0.45), 2 * half, 0.9, PALE_ORANGE)
    ax.text(x, y, "agent", ha="center", va="center", weight="bold")
    inputs = (("observation", 0.3, BLUE), ("is_init", 0.0, BLUE), ("state", -0.3, ORANGE))
    for name, shift, color in inputs:
        ax.annotate("", (x - half, y + shift), (x - half - reach, y + shift), arrowprops=arrow(color))
        ax.text(x - half - reach - 0.05, y + shift, name, ha="right", va="center")
    for name, shift, color in (("action", 0.2, BLUE), ("state", -0.3, ORANGE)):
        ax.annotate("", (x + half + reach, y + shift), (x + half, y + shift), arrowprops=arrow(color))
        ax.text(x + half + reach + 0.05, y + shift, name, ha="left", va="center")
    start, end = x + half + reach + 0.25, x - half - reach - 0.25
    ax.plot([start, start, end, end], [y - 0.42, y - 0.72, y - 0.72, y - 0.5], "--", color=ORANGE, lw=1.2)
    ax.annotate("", (end, y - 0.4), (end, y - 0.55), arrowprops=arrow(ORANGE))
    ax.text(x, y - 0.84, "read by the next step", ha="center", va="center", fontsize=SMALL)


def _box(ax: Axes, corner: Corner, width: float, height: float, face: str) -> None:
    rounded = "round,pad=0,rounding_size=0.08"
    ax.add_patch(FancyBboxPatch(corner, width, height, boxstyle=rounded, fc=face, ec=GREY))
