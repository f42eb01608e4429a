"""Figures of R2D2: its sequences, the priorities of slices, and what each piece is worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from recdqn.book.ablation import COMPLETE, LABELS, PLAIN, frames, mean_interval, verdict
from recdqn.book.plots.style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PALE_ORANGE,
    PURPLE,
    RED,
    SKY,
    SMALL,
    figsize,
    is_narrow,
    panels,
    style,
    two_widths,
)
from recdqn.book.recorded import Record

LOOKS = {  # by verdict
    "helps": (GREEN, "o"),
    "harms": (RED, "X"),
    "no difference seen": (GREY, "s"),
    "too few runs": (SKY, "v"),
}
MEANS = {"helps": "the piece helps", "harms": "the piece harms"}


@two_widths
def fixed_sequences(length: int = 64, slice_len: int = 30, burn_in: int = 10, period: int = 10) -> Figure:
    """Draw the sequences of an episode: which steps each one reads first, and which it learns from.

    Args:
        length: of the episode, in steps.
        slice_len: steps of a sequence, with its burn-in.
        burn_in: steps that are only read.
        period: steps between the starts of two sequences.
    """
    starts = [at for at in range(0, length, period) if at == 0 or min(at + slice_len, length) - at > burn_in]
    with style():
        fig, ax = plt.subplots(figsize=figsize(2.9, 3.2))
        for row, start in enumerate(starts):
            stop, warm = min(start + slice_len, length), start if start == 0 else start + burn_in
            ax.barh(row, warm - start, left=start, color=PALE_ORANGE, ec=ORANGE, height=0.6)
            ax.barh(row, stop - warm, left=warm, color=BLUE, height=0.6)
            ax.plot(start, row, "o", color=BLACK, ms=5)
        ax.barh(-1.2, length, color=GREY, height=0.5)
        ax.set_yticks([-1.2, *range(len(starts))], ["episode", *(f"from {start}" for start in starts)])
        ax.set(xlabel="step of the episode", ylim=(len(starts) - 0.4, -1.8), xlim=(-1, length + 1))
        ax.spines["left"].set_visible(False)
        ax.tick_params(axis="y", length=0)
        handles = [
            ax.plot([], [], "o", color=BLACK, ms=5, label="stored state")[0],
            Patch(fc=PALE_ORANGE, ec=ORANGE, label="burn-in, no gradient"),
            Patch(fc=BLUE, label="in the loss"),
        ]
        fig.legend(handles=handles, loc="outside upper left", ncols=1 if is_narrow() else 3)
    return fig


@two_widths
def place_priorities(
    errors: Sequence[float], priorities: Mapping[str, Sequence[float]], first: int
) -> Figure:
    """Draw the errors of an episode's steps, and the priority of each place of a slice.

    Args:
        errors: absolute error of each step.
        priorities: of the places by the first step of the slice, for several settings by name.
        first: first step of the first place; negative where it begins before the episode.
    """
    with style():
        fig, (above, below) = plt.subplots(2, 1, figsize=figsize(3.6, 4.0), sharex=True)
        above.bar(range(len(errors)), errors, color=GREY)
        above.set(ylabel="error")
        looks = ((BLUE, "-"), (PURPLE, "--"), (ORANGE, "-."), (SKY, ":"))
        for (label, values), (color, line) in zip(priorities.items(), looks, strict=False):
            places = np.arange(first, first + len(values))
            below.plot(places, np.asarray(values) / max(values), line, color=color, label=label)
        below.set(xlabel="step; of a slice: its first one", ylabel="priority", ylim=(0, 1.08))
        fig.legend(loc="outside upper left", ncols=1 if is_narrow() else 3)
    return fig


@two_widths
def piece_worth(tasks: Mapping[str, Mapping[str, Sequence[Record]]]) -> Figure:
    """Draw how many environment steps each agent needs, a panel for each task.

    A large symbol is the mean over seeds, its bar the 95 % bootstrap interval, and a small one a seed: a
    cross was not solved, and counts all its steps. At the right: the number of solved runs.

    Args:
        tasks: by task, what :func:`recdqn.book.ablation.recorded_pieces` returns; tasks without runs are
            left out.
    """
    shown = {task: agents for task, agents in tasks.items() if agents}
    with style():
        if not shown:
            fig, ax = plt.subplots(figsize=figsize(1.0))
            ax.set_axis_off()
            ax.text(0.5, 0.5, "no recorded runs", ha="center", va="center", transform=ax.transAxes)
            return fig
        height = 0.9 + 0.24 * max(map(len, shown.values()))
        fig, axes = panels(len(shown), height, height, most=2)
        for ax, (task, agents) in zip(axes, shown.items(), strict=True):
            _draw_task(ax, agents)
            ax.set_title(task, fontsize=9)
        handles = [
            axes[0].plot([], [], mark, color=color, label=MEANS.get(name, name))[0]
            for name, (color, mark) in LOOKS.items()
        ]
        fig.legend(handles=handles, loc="outside upper left", ncols=2 if is_narrow() else 4)
        fig.supxlabel("environment steps until solved", fontsize="medium")
    return fig


def _draw_task(ax: Axes, agents: Mapping[str, Sequence[Record]]) -> None:
    names = list(agents)
    mean = mean_interval(agents[COMPLETE])[0]
    ax.axvline(mean / 1_000, color=BLUE, lw=1, ls=":")
    for y, name in enumerate(names):
        runs = agents[name]
        color, mark = (BLUE, "D") if name in (COMPLETE, PLAIN) else LOOKS[verdict(agents[COMPLETE], runs)]
        middle, low, high = (value / 1_000 for value in mean_interval(runs))
        for solved, small in ((True, "."), (False, "x")):
            counts = [frames(run) / 1_000 for run in runs if (run["final"] is not None) == solved]
            ax.plot(counts, [y] * len(counts), small, color=GREY, ms=4, zorder=1)
        ax.plot([low, high], [y, y], color=color, lw=3, alpha=0.5)
        ax.plot(middle, y, mark, color=color, ms=6)
        ax.annotate(
            f"{sum(run['final'] is not None for run in runs)}/{len(runs)}", (1.0, y),
            xycoords=("axes fraction", "data"), xytext=(4, 0), textcoords="offset points", va="center",
            fontsize=SMALL, color=BLACK, annotation_clip=False,
        )  # fmt: skip
    ax.set_yticks(range(len(names)), [LABELS[name] for name in names])
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}k")
    ax.set_xlim(left=0)
