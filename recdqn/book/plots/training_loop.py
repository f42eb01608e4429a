"""Figures of training: learning curves and replay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from recdqn.book.plots.style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    RED,
    figsize,
    is_narrow,
    panels,
    style,
    two_widths,
)
from recdqn.book.recorded import mean_return
from recdqn.config import MAX_RETURN, TrainConfig
from recdqn.curves import Axis, Record, draw_curves

if TYPE_CHECKING:
    from torch import Tensor


@two_widths
def seed_curves(
    presets: Mapping[str, Sequence[Record]],
    axis: Axis = "frames",
    beside: Mapping[str, Sequence[Record]] | None = None,
) -> Figure:
    """Draw learning curves as :func:`recdqn.curves.draw_curves` does, in the book's style.

    Args:
        presets: recorded runs by label, from :func:`recdqn.book.recorded.recorded_runs`.
        axis: ``"frames"`` (environment steps), or ``"minutes"`` (wall-clock time, on a logarithmic axis).
        beside: evaluations of single runs by label, from :class:`recdqn.run.folder.Run`, each drawn as a line
            with dots; only with ``axis="frames"``.
    """
    with style():
        fig, ax = plt.subplots(figsize=figsize(3.2, 3.8))
        draw_curves(ax, presets, axis, (BLUE, ORANGE, GREEN, PURPLE))
        for label, evaluations in (beside or {}).items():
            frames, returns = [e["frames"] for e in evaluations], [mean_return(e) for e in evaluations]
            ax.plot(frames, returns, marker=".", color=RED, lw=1, label=label)
        solved = TrainConfig.solved_return
        ax.axhline(solved, ls="--", lw=1, color=GREY, label=f"solved: {solved:.0f}")
        ax.set_ylim(0, MAX_RETURN * 1.08)
        fig.legend(loc="outside upper left", ncols=1 if is_narrow() else 3)
    return fig


@two_widths
def replay_counts(draws: Mapping[str, Sequence[Tensor]]) -> Figure:
    """Draw how often each step of each episode was sampled, a panel for each sampler.

    Args:
        draws: by sampler, a tensor ``[steps]`` for each episode: draws relative to the mean over all steps.
    """
    with style():
        fig, axes = panels(len(draws), 3.2, 2.0, sharex=True, sharey=True)
        for ax, (name, episodes) in zip(axes, draws.items(), strict=True):
            at = 0
            for number, counts in enumerate(episodes):
                steps = range(at, at + len(counts))
                ax.plot(
                    steps, counts, color=(ORANGE, BLUE)[number % 2], label=f"episode of {len(counts)} steps"
                )
                at += len(counts) + 5
            ax.axhline(1, ls="--", lw=1, color=GREY)
            ax.set(title=name, xlabel="step", yscale="log")
            ax.label_outer()
        fig.supylabel("draws per step, mean = 1", fontsize="medium")
        fig.legend(
            *axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=1 if is_narrow() else 2
        )
    return fig
