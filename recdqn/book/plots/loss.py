"""Figures of slices and of what the loss makes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import MaxNLocator

from recdqn.book.plots.style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    RED,
    SKY,
    SMALL,
    WHITE,
    figsize,
    is_narrow,
    legend_beside,
    style,
    two_widths,
)

if TYPE_CHECKING:
    from torch import Tensor

    from recdqn.loss import Steps


@two_widths
def memory_across_slices(lengths: Sequence[int] = (4, 3, 5)) -> Figure:
    """Draw concatenated slices, and where the recurrent state flows in two versions of the target pass."""
    colors = (BLUE, GREEN, PURPLE, SKY)
    rows = (("memory restarts at each slice", GREY), ("DQNLoss, target pass: one long episode", RED))
    with style():
        fig, ax = plt.subplots(figsize=figsize(2.7))
        ax.set(xlim=(-0.7, sum(lengths) - 0.3), ylim=(-2.75, 1.0))
        ax.axis("off")
        for y, (title, arrow) in zip((0.0, -2.0), rows, strict=True):
            x = 0
            ax.text(-0.35, y + 0.6, title, color=BLACK if y == 0 else RED)
            for k, length in enumerate(lengths):
                for t in range(length):
                    ax.add_patch(
                        Rectangle((x - 0.35, y - 0.35), 0.7, 0.7, fc=colors[k % 4], ec="none", alpha=0.3)
                    )
                    # A target pass that starts at the next observations never sees a slice's first one.
                    ax.text(x, y, f"${'abcd'[k % 4]}_{t + (y < 0)}$", ha="center", va="center")
                    inside = t < length - 1
                    last = k == len(lengths) - 1 and not inside
                    if inside or (y < 0 and not last):
                        color, width = (GREY, 1.0) if inside else (arrow, 2.5)
                        ax.annotate("", (x + 0.63, y), (x + 0.37, y),
                                    arrowprops={"arrowstyle": "-|>", "color": color, "lw": width,
                                                "shrinkA": 0, "shrinkB": 0})  # fmt: skip
                    if t == 0 and y == 0:
                        ax.annotate("stored\nstate", (x, y - 0.37), (x, y - 0.9), ha="center", va="center",
                                    fontsize=SMALL,
                                    arrowprops={"arrowstyle": "-|>", "color": ORANGE, "lw": 1.2})  # fmt: skip
                    x += 1
    return fig


@two_widths
def leak(changes: Mapping[str, Tensor], starts: Sequence[int]) -> Figure:
    """Draw by how much the error of each step changes when only the first slice of a batch is changed.

    Args:
        changes: by loss, the change of each step's error, ``[steps]``.
        starts: the first step of each slice.
    """
    steps = len(next(iter(changes.values())))
    ends = [*starts[1:], steps]
    with style():
        fig, axes = plt.subplots(len(changes), 1, figsize=figsize(3.6, 3.6), sharex=True, sharey=True)
        for ax, (name, values) in zip(axes, changes.items(), strict=True):
            for k, (start, end) in enumerate(zip(starts, ends, strict=True)):
                part = values[start:end].tolist()
                if k % 2:
                    ax.axvspan(start - 0.5, end - 0.5, color=GREY, alpha=0.12, lw=0)
                ax.bar(range(start, end), part, color=RED if k else BLUE, width=0.7)
            ax.set_title(name, loc="left")
            ax.set(ylabel="change", yscale="log", ylim=(1e-5, None))
        middles = [(start + end - 1) / 2 for start, end in zip(starts, ends, strict=True)]
        axes[-1].set_xticks(middles, ["slice 0\nchanged", *(f"slice {k}" for k in range(1, len(starts)))])
        axes[-1].tick_params(axis="x", length=0)
    return fig


@two_widths
def errors_after_start(curves: Mapping[str, Tensor], scale: float) -> Figure:
    """Draw the error of the Q-values over the steps after a slice's start.

    Args:
        curves: mean errors, ``[steps]``, by the way in which the recurrent state was initialised.
        scale: mean difference between the Q-values of the two actions, drawn for comparison.
    """
    looks = ((RED, "o", "--"), (RED, "o", "-"), (BLUE, "s", "-"))
    with style():
        fig, ax = plt.subplots(figsize=figsize(3.0, 3.4))
        for (name, values), (color, marker, line) in zip(curves.items(), looks, strict=True):
            ax.plot(np.arange(len(values)), values, line, marker=marker, ms=4, color=color, label=name)
        ax.axhline(scale, color=GREY, lw=1, ls=":", label="gap between the two actions")
        ax.set(xlabel="steps after the start of the slice", ylabel="mean error of the Q-values", yscale="log")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        legend_beside(ax)
    return fig


@two_widths
def errors_by_position(slices: Mapping[str, Sequence[Tensor]]) -> Figure:
    """Draw the mean and the range of errors against the position in the slice, one colour for each loss.

    Args:
        slices: by loss, the errors of each slice, ``[steps]``.
    """
    with style():
        fig, ax = plt.subplots(figsize=figsize(3.0, 3.4))
        for (name, curves), color in zip(slices.items(), (RED, BLUE), strict=True):
            longest = max(len(curve) for curve in curves)
            steps = [np.array([float(c[t]) for c in curves if len(c) > t]) for t in range(longest)]
            ax.fill_between(
                np.arange(longest),
                [max(x.min(), 1e-9) for x in steps],
                [max(x.max(), 1e-9) for x in steps],
                color=color,
                alpha=0.15,
                lw=0,
            )
            ax.plot([max(x.mean(), 1e-9) for x in steps], "o-", color=color, ms=4, label=name)
        ax.set(xlabel="step of the slice", ylabel="error of $|\\delta|$", yscale="log")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        legend_beside(ax)
    return fig


@two_widths
def slice_steps(steps: Steps, step_count: Tensor) -> Figure:
    """Draw how the loss uses each step of a batch, one slice a row.

    Args:
        steps: from :meth:`recdqn.loss.RecurrentDQNLoss.steps`.
        step_count: the batch's ``"step_count"``; 0 in a slice's first step marks the start of an episode.
            Padding is drawn behind the slice before it.
    """
    looks = {
        "b": ("burn-in, updates the state only", ORANGE, 0.45, ""),
        "l": ("in the loss", BLUE, 0.4, ""),
        "x": ("left out: slice too short", GREY, 0.25, "////"),
        "p": ("padding", GREY, 0.0, ""),
    }
    rows, columns = steps.row.tolist(), steps.column.tolist()
    burn_in, in_loss, count = steps.burn_in.tolist(), steps.in_loss.tolist(), step_count.flatten().tolist()
    with style():
        height = max(*rows, 0) + 1
        fig, ax = plt.subplots(figsize=figsize(0.34 * height + 0.9, 0.3 * height + 2.0))
        row = column = -1
        for i in range(len(rows)):
            real = rows[i] >= 0
            row, column = (rows[i], columns[i]) if real else (row, column + 1)
            letter = "p" if not real else "l" if in_loss[i] else "b" if burn_in[i] else "x"
            _draw_step(ax, column, row, letter, *looks[letter][1:])
            if real and column == 0 and count[i] == 0:
                ax.plot(-0.75, row, ">", color=RED, ms=7, clip_on=False)
        handles: list[Artist] = [
            Patch(label=f"{letter}: {meaning}", **_look(letter, *look))
            for letter, (meaning, *look) in looks.items()
        ]
        handles += ax.plot([], [], ">", color=RED, ms=7, ls="", label="begins an episode")
        longest = round(max(text.get_position()[0] for text in ax.texts)) + 1
        ax.set(
            xlabel="step of the slice",
            xlim=(-1.1, longest - 0.5),
            xticks=range(0, longest, 5 if is_narrow() else 1),
        )
        ax.set(ylabel="slice", ylim=(height - 0.5, -0.5), yticks=range(height))
        ax.tick_params(length=0)
        ax.spines[["left", "bottom"]].set_visible(False)
        legend_beside(ax, handles, labelspacing=0.3 if is_narrow() else 0.9)
    return fig


def _draw_step(ax: Axes, x: int, y: int, letter: str, color: str, alpha: float, hatch: str) -> None:
    ax.add_patch(Rectangle((x - 0.42, y - 0.42), 0.84, 0.84, lw=0.8, **_look(letter, color, alpha, hatch)))
    box = {"boxstyle": "round,pad=0.1", "fc": WHITE, "ec": "none"} if hatch else None
    ax.text(x, y, letter, ha="center", va="center", fontsize=9, bbox=box)


def _look(letter: str, color: Any, alpha: Any, hatch: Any) -> dict[str, Any]:
    return {"fc": to_rgba(color, alpha), "ec": GREY, "ls": ":" if letter == "p" else "-", "hatch": hatch}
