"""Figures of observations and transforms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from recdqn.book.plots.style import (
    BLUE,
    GREY,
    NARROW,
    RED,
    SKY,
    SMALL,
    WIDE,
    figsize,
    is_narrow,
    panels,
    style,
    two_widths,
    wrap,
)
from recdqn.book.readout import r2

if TYPE_CHECKING:
    from torch import Tensor


@two_widths
def picture_grid(
    pictures: Sequence[Tensor],
    titles: Sequence[str],
    limits: Sequence[tuple[float, float]] | None = None,
    columns: int = 4,
) -> Figure:
    """Draw pictures in a grid, each with its smallest and its largest value below it.

    Args:
        pictures: with channels first or last, or without channels.
        titles: a title for each picture.
        limits: for each grey picture the values that are drawn black and white; its smallest and largest
            value if not given.
        columns: pictures in a row, at most.
    """
    with style():
        width = NARROW if is_narrow() else WIDE
        columns = min(2 if is_narrow() else columns, len(pictures))
        rows = -(-len(pictures) // columns)
        shapes = [np.shape(p)[-2:] if len(p) in (1, 3) else np.shape(p)[:2] for p in pictures[:columns]]
        ratios = [width / height for height, width in shapes]  # for pictures of equal height
        height = min(1.75, (width - 0.15 * columns) / sum(ratios))  # of a picture, inches
        size = (height * sum(ratios) + 0.15 * columns, (height + 0.55) * rows)
        grid = {"width_ratios": ratios}
        fig, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, gridspec_kw=grid)
        fig.set_layout_engine("constrained", hspace=0.1)  # keeps a title apart from the picture above
        for ax in axes.flat[len(pictures) :]:
            ax.set_visible(False)
        for i, (picture, title) in enumerate(zip(pictures, titles, strict=True)):
            ax, values = axes.flat[i], np.asarray(picture)
            if values.ndim == 3 and values.shape[0] in (1, 3):
                values = np.moveaxis(values, 0, -1)
            least, greatest = values.min(), values.max()
            low, high = limits[i] if limits else (least, greatest)
            # Enlarged pixels keep sharp edges; in a picture that is reduced, thin lines have to stay visible.
            sharp = "none" if values.shape[1] < 200 else "antialiased"
            ax.imshow(values, cmap="gray", vmin=low, vmax=high, interpolation=sharp)
            ax.set_title(wrap(title, 22), fontsize=SMALL)
            ax.set_xlabel(f"{round(float(least), 2):g} to {round(float(greatest), 2):g}", fontsize=SMALL)
            ax.set_xticks([])
            ax.set_yticks([])
            for spine in ax.spines.values():
                spine.set(visible=True, color=GREY)
    return fig


@two_widths
def velocity_fits(truth: Tensor, estimates: Mapping[str, Tensor], unit: str) -> Figure:
    """Draw estimated against true velocities, ``[N]``, a panel with its R2 for each kind of estimate."""
    with style():
        fig, axes = panels(len(estimates), 3.0, 2.5, sharex=True, sharey=True)
        low, high = truth.min().item(), truth.max().item()
        for ax, (name, estimate) in zip(axes, estimates.items(), strict=True):
            ax.plot([low, high], [low, high], color=GREY, lw=1)
            ax.plot(truth, estimate, ".", color=BLUE, ms=3, alpha=0.6)
            ax.set(title=f"{name}\n$R^2$ = {r2(estimate, truth):.2f}", aspect="equal")
            ax.label_outer()
        fig.supylabel(f"estimated, {unit}", fontsize="medium")
        fig.supxlabel(f"true, {unit}", fontsize="medium")
    return fig


@two_widths
def episode_marks(step_count: Tensor, is_init: Tensor, done: Tensor) -> Figure:
    """Draw ``"step_count"`` along a rollout, with marks where episodes begin and end."""
    with style():
        fig, ax = plt.subplots(figsize=figsize(2.4, 2.8))
        count, steps = step_count.flatten(), np.arange(step_count.numel())
        first, last = is_init.flatten(), done.flatten()
        ax.plot(steps, count, ".-", color=SKY, lw=1, ms=3, label='"step_count"')
        ax.plot(steps[first], count[first], "^", color=RED, ms=8, label='"is_init" is true')
        ax.plot(steps[last], count[last], "x", color=BLUE, mew=2, ms=7, label='("next", "done") is true')
        ax.set(xlabel="step of the rollout", ylabel="steps since reset")
        ax.legend(ncols=1 if is_narrow() else 3, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return fig


@two_widths
def column_statistics(scale: Tensor, position: Tensor, darkest: Mapping[str, Tensor]) -> Figure:
    """Draw per-column normalisation, and what it makes of the same pole at different cart positions.

    Args:
        scale: factor on each image column, ``[..., columns]``.
        position: of the cart, ``[positions]``, in metres.
        darkest: darkest pixel of the pole, ``[positions]``, by normalisation.
    """
    with style():
        fig, (left, right) = panels(2, 2.9, 2.4)
        left.plot(scale.flatten(), color=RED)
        left.set(xlabel="image column", ylabel="factor on the pixels", ylim=(0, None))
        for (name, value), color in zip(darkest.items(), (RED, BLUE), strict=True):
            right.plot(position, value, ".-", color=color, label=name)
        right.set(xlabel="position of the cart, m", ylabel="darkest pixel of the pole", ylim=(None, 0))
        right.legend(ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return fig
