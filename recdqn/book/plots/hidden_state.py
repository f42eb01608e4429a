"""Figures of a recurrent state on its way through a rollout."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from recdqn.book.plots.style import BLACK, BLUE, GREY, RED, SKY, figsize, is_narrow, style, two_widths

if TYPE_CHECKING:
    from torch import Tensor

    from recdqn.flow import Step


@two_widths
def state_flow(steps: Sequence[Step], row: int = 0, units: int = 12) -> Figure:
    """Draw one state moving from ``("next", ...)`` to the root, and zeroed where an episode starts.

    Args:
        steps: from :func:`recdqn.flow.trace`.
        row: index of the environment in the batch.
        units: number of hidden units to draw, those that vary most.
    """
    key = (row,) if steps[0].is_init.ndim else ()
    root = np.stack([_root(step)[key].flatten().numpy() for step in steps], -1)
    following = np.stack([_next(step)[key].flatten().numpy() for step in steps], -1)
    shown = np.sort(following.std(-1).argsort()[-units:])
    high = np.abs(following[shown]).max()
    with style():
        fig, ax = plt.subplots(figsize=figsize(3.6))
        for bottom, value in ((0.0, root), (2.0, following)):
            extent = (-0.5, len(steps) - 0.5, bottom, bottom + 1)
            image = ax.imshow(
                value[shown],
                cmap="PuOr",
                vmin=-high,
                vmax=high,
                extent=extent,
                aspect="auto",
                interpolation="none",
            )
            ax.add_patch(Rectangle((-0.5, bottom), len(steps), 1, fill=False, ec=GREY, lw=0.8, zorder=2))
        for t, step in enumerate(steps):
            ax.annotate("", (t, 1.98), (t, 1.02), arrowprops={"arrowstyle": "->", "color": SKY, "lw": 0.9})
            if step.done[key]:
                ax.plot(t + 0.5, 1.5, "x", color=RED, ms=8, mew=2.2, zorder=4, clip_on=False)
                ax.axvline(t + 0.5, color=RED, lw=1.2, ls=":", zorder=3)
            elif t + 1 < len(steps):
                arrow = {"arrowstyle": "->", "color": BLACK, "lw": 1.1, "shrinkA": 0, "shrinkB": 0}
                ax.annotate("", (t + 1, 1.02), (t, 1.98), arrowprops=arrow)
            if step.is_init[key]:
                ax.plot(t, -0.16, "^", color=RED, ms=7, clip_on=False)
        ax.plot([], [], color=SKY, label="policy")
        ax.plot([], [], color=BLACK, label="step_mdp")
        ax.plot([], [], "x", color=RED, mew=2, label="episode ends: zeros follow")
        ax.plot([], [], "^", color=RED, label="is_init: zeros at the root")
        ncols = 2 if is_narrow() else 4
        ax.legend(
            loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=ncols, columnspacing=1.2, handlelength=1.4
        )
        ax.set(xlabel="step", xlim=(-0.5, len(steps) - 0.5), ylim=(-0.3, 3.05))
        ax.set_yticks([0.5, 2.5], ["root", '("next", ...)'], rotation=90 if is_narrow() else 0, va="center")
        ax.tick_params(axis="y", length=0)
        ax.spines[["left", "bottom"]].set_visible(False)
        fig.colorbar(image, ax=ax, label="value of a unit", pad=0.01)
    return fig


@two_widths
def state_rows(steps: Sequence[Step]) -> Figure:
    """Draw the norm of the state at the root, one panel for each environment of the batch."""
    with style():
        rows = len(steps[0].is_init)
        fig, axes = plt.subplots(rows, 1, figsize=figsize(1.1 * rows + 0.7), sharex=True, sharey=True)
        for row, ax in enumerate(axes):
            norm = np.array([_root(step)[row].norm().item() for step in steps])
            starts = [t for t, step in enumerate(steps) if step.is_init[row]]
            ax.plot(norm, ".-", color=BLUE, lw=1, ms=4)
            ax.plot(starts, norm[starts], "^", color=RED, ms=6, label="is_init")
            ax.set(ylabel=f"row {row}")
        axes[0].legend(loc="lower right", bbox_to_anchor=(1.0, 0.95))
        axes[-1].set(xlabel="step")
        fig.supylabel("norm of the state at the root", fontsize="medium")
    return fig


def _root(step: Step) -> Tensor:
    """The state before the policy runs."""
    state = step.state["before the policy"].root
    assert state is not None
    return state


def _next(step: Step) -> Tensor:
    """The state that the policy has written under ``"next"``."""
    state = step.state["after the policy"].next
    assert state is not None
    return state
