"""Figures of cost and speed, and of overfitting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from recdqn.book.plots.style import (
    BLUE,
    GREEN,
    GREY,
    OLIVE,
    ORANGE,
    PURPLE,
    RED,
    SKY,
    SMALL,
    WHITE,
    box,
    figsize,
    is_narrow,
    legend_beside,
    panels,
    style,
    two_widths,
    wrap,
)

if TYPE_CHECKING:
    from torch import Tensor


@two_widths
def stacked_bars(bars: Mapping[str, Mapping[str, float]], unit: str) -> Figure:
    """Draw horizontal bars that are divided into parts.

    A part has the same colour and letter in every bar, and the legend gives its size in each.

    Args:
        bars: size of each part, by bar and part; at most eight different parts.
        unit: unit of the sizes.
    """
    parts = list(dict.fromkeys(part for bar in bars.values() for part in bar))
    colors = (BLUE, ORANGE, GREEN, RED, SKY, PURPLE, GREY, OLIVE)
    longest = max(sum(bar.values()) for bar in bars.values())
    with style():
        fig, ax = plt.subplots(
            figsize=figsize(
                1.0 + 0.5 * len(bars) + 0.24 * len(parts), 1.0 + 0.6 * len(bars) + 0.34 * len(parts)
            )
        )
        for y, bar in enumerate(bars.values()):
            left = 0.0
            for part, size in bar.items():
                number = parts.index(part)
                ax.barh(y, size, left=left, color=colors[number], edgecolor=WHITE, lw=0.5)
                if size > 0.025 * longest:
                    letter, ground = "abcdefgh"[number], box(WHITE, "none", 0.2)
                    ax.text(left + size / 2, y, letter, ha="center", va="center", bbox=ground)
                left += size
            ax.text(left, y, f" {_short(left)}", va="center")
        ax.set_yticks(range(len(bars)), [wrap(name, 14) for name in bars])
        ax.set(xlabel=unit, xlim=(0, 1.1 * longest), ylim=(len(bars) - 0.5, -0.5))
        ax.xaxis.set_major_formatter("{x:,g}")
        labels = []
        for letter, part in zip("abcdefgh", parts, strict=False):
            sizes = " | ".join(_short(bar[part]) if part in bar else "none" for bar in bars.values())
            labels.append(wrap(f"{letter}  {part}: {sizes}", 42))
        handles = [Patch(color=color) for color in colors[: len(parts)]]
        fig.legend(handles, labels, loc="outside lower left", fontsize=SMALL if is_narrow() else 9)
    return fig


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"


@two_widths
def speed_ups(gains: Mapping[str, float]) -> Figure:
    """Draw improvement factors as bars on a logarithmic axis; bars start at 1."""
    with style():
        fig, ax = plt.subplots(figsize=figsize(0.9 + 0.34 * len(gains), 0.9 + 0.46 * len(gains)))
        values = list(gains.values())
        ax.barh(range(len(gains)), [value - 1 for value in values], left=1, color=BLUE)
        for y, value in enumerate(values):
            ax.text(max(value, 1), y, f" {value:.1f}" if value < 10 else f" {value:.0f}", va="center")
        ax.axvline(1, color=GREY, lw=1)
        ax.set_xscale("log")
        ax.xaxis.set_major_formatter("{x:g}")
        ax.set_yticks(range(len(gains)), [wrap(name, 18) for name in gains])
        ax.set(xlabel="factor of improvement", xlim=(None, 2 * max(values)), ylim=(len(gains) - 0.5, -0.5))
    return fig


@two_widths
def growth(times: Mapping[str, Mapping[int, float]]) -> Figure:
    """Draw how times grow with sizes, both relative to the smallest size, on logarithmic axes.

    Args:
        times: the time by size, for each thing that has a size.
    """
    with style():
        fig, ax = plt.subplots(figsize=figsize(3.2, 4.2))
        longest = 0.0
        looks = zip((BLUE, ORANGE, GREEN, RED), ".x^s", strict=True)
        for (name, by_size), (color, marker) in zip(times.items(), looks, strict=False):
            sizes, values = list(by_size), list(by_size.values())
            factors = [size / sizes[0] for size in sizes]
            longest = max(longest, factors[-1])
            ax.plot(factors, [value / values[0] for value in values], marker=marker, color=color, label=name)
        ax.plot([1, longest], [1, longest], ":", color=GREY, label="in proportion")
        ax.set(
            xscale="log", yscale="log", xlabel="size, times the smallest", ylabel="time, times the shortest"
        )
        ax.set_ylim(0.8, 20)
        ax.xaxis.set_major_formatter("{x:g}")
        ax.yaxis.set_major_formatter("{x:g}")
        legend_beside(ax)
    return fig


@two_widths
def train_and_test_errors(
    updates: Sequence[int], curves: Mapping[str, tuple[Sequence[float], Sequence[float]]]
) -> Figure:
    """Draw training and test errors over updates, a panel for each way of training.

    Args:
        updates: gradient steps at each point.
        curves: for each way of training, the training errors and the test errors, ``[points]`` each.
    """
    with style():
        fig, axes = panels(len(curves), 3.2, 2.0, sharex=True, sharey=True)
        for ax, (name, (train, test)) in zip(axes, curves.items(), strict=True):
            ax.plot(updates, train, marker=".", color=BLUE, label="training pictures")
            ax.plot(updates, test, "--", marker="x", color=ORANGE, label="test pictures")
            ax.set(title=name, xlabel="updates", yscale="log")
            ax.label_outer()
        fig.supylabel("error, as a share of the variance", fontsize="medium")
        fig.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return fig


@two_widths
def errors_by_cart_position(
    position: Tensor, errors: Mapping[str, Tensor], known: tuple[float, float]
) -> Figure:
    """Draw each test picture's error against the position of the cart in it.

    Args:
        position: ``[N]``, metres from the middle of the track.
        errors: for each way of training, ``[N]``.
        known: smallest and largest position among the training pictures.
    """
    with style():
        fig, axes = panels(len(errors), 3.2, 2.0, sharex=True, sharey=True)
        for ax, (name, error) in zip(axes, errors.items(), strict=True):
            ax.axvspan(*known, fc=to_rgba(GREY, 0.2), ec=GREY, lw=0.8, label="positions in training")
            ax.plot(position, error, ".", color=ORANGE, ms=4, label="test pictures")
            ax.set(title=name, xlabel="position of the cart, m", yscale="log")
            ax.label_outer()
        fig.supylabel("squared error of a picture", fontsize="medium")
        fig.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return fig
