"""Figures of the page on one's own environment: the corridor, learning curves, and two episodes."""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import imageio.v3 as iio
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Rectangle

from recdqn.book.plots.style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PALE_BLUE,
    PALE_ORANGE,
    RED,
    WHITE,
    arrow,
    figsize,
    is_narrow,
    panels,
    style,
    two_widths,
)
from recdqn.book.recorded import Record, mean_return

LENGTH = 10  # of the corridor, in steps
SIDES = {-1: "left", 1: "right"}
FILM_RATE = 2  # frames a second

QValues = Sequence[Sequence[float]]  # [steps, 2]


@two_widths
def corridor_drawing() -> Figure:
    """Draw the corridor, and the observation at its places."""
    shown = (0, 1, None, LENGTH) if is_narrow() else (0, 1, 2, None, LENGTH - 1, LENGTH)
    with style():  # None stands for the places between
        fig, ax = plt.subplots(figsize=figsize(2.6, 2.2))
        for x, place in enumerate(shown):
            if place is None:
                ax.text(x, 0, "…", ha="center", va="center", fontsize=16)
                continue
            _place(ax, x, PALE_BLUE if place in (0, LENGTH) else WHITE)
            ax.text(x, -0.72, f"step {place}", ha="center", va="top", color=GREY, fontsize=9)
            seen = {0: "[±1, 0]", LENGTH: "[0, 1]"}.get(place, "[0, 0]")
            ax.text(x, -1.12, seen, ha="center", va="top", fontsize=9)
        ax.add_patch(Circle((0, 0), 0.2, color=BLUE))
        ax.annotate("", (0.75, 0), (0.25, 0), arrowprops=arrow(BLUE))
        ax.text(0, 0.65, "sign: −1 or 1", ha="center", va="bottom")
        for side, name in SIDES.items():
            y = -0.42 * side
            ax.annotate("", (len(shown) - 0.2, 2 * y), (len(shown) - 1, y / 2), arrowprops=arrow(ORANGE))
            ax.text(len(shown) - 0.1, 2 * y, f"{name}\nif {side:+d}".replace("-", "−"), va="center")
        ax.set(xlim=(-0.8, len(shown) + 0.8), ylim=(-1.6, 1.2), aspect="equal")
        ax.axis("off")
    return fig


@two_widths
def memory_curves(metrics: Mapping[str, Sequence[Record]], chance: float) -> Figure:
    """Draw the mean return at each evaluation of several runs.

    Args:
        metrics: the rows of ``Run.metrics``, by label.
        chance: mean return of an agent that guesses.
    """
    with style():
        fig, ax = plt.subplots(figsize=figsize(3.2))
        for number, (label, rows) in enumerate(metrics.items()):
            frames, returns = [row["frames"] for row in rows], [mean_return(row) for row in rows]
            line = ("o-", "s--")[number]
            ax.plot(frames, returns, line, ms=4, color=(BLUE, RED)[number], label=label)
        ax.axhline(chance, ls=":", color=GREY, label=f"guessing: {chance:g}")
        ax.set(xlabel="environment steps", ylabel="mean return", ylim=(0, 1.05))
        ax.set_xlim(0, None)
        ax.xaxis.set_major_formatter("{x:,.0f}")
        fig.legend(loc="outside upper left", ncols=1 if is_narrow() else 3)
    return fig


@two_widths
def corridor_values(episodes: Mapping[int, QValues]) -> Figure:
    """Draw the Q-values of each step, a panel for each sign.

    Args:
        episodes: Q-values of left and right, ``[steps, 2]``, by sign.
    """
    with style():
        fig, axes = panels(len(episodes), 3.2, 2.2, sharex=True, sharey=True)
        for ax, sign in zip(axes, sorted(episodes), strict=True):
            _values(ax, sign, episodes[sign])
            ax.label_outer()
        fig.supylabel("Q-value", fontsize="medium")
        axes[0].legend()
    return fig


def corridor_film(episodes: Mapping[int, QValues]) -> str:
    """Return HTML that shows the episodes as a film, with the corridor above the Q-values.

    Args:
        episodes: Q-values of left and right, ``[steps, 2]``, by sign.
    """
    frames = corridor_frames(episodes)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "film.mp4")
        iio.imwrite(path, [*frames, *frames[-1:] * FILM_RATE], fps=FILM_RATE, macro_block_size=4)
        data = base64.b64encode(path.read_bytes()).decode()
    label = "Film: the agent rolls through the corridor once for each sign, and turns where the sign said."
    return (
        f'<video controls muted playsinline preload="auto" aria-label="{label}" '
        f'style="width: 100%; max-width: 720px" src="data:video/mp4;base64,{data}"></video>'
    )


def corridor_frames(episodes: Mapping[int, QValues]) -> list[np.ndarray]:
    """Draw the pictures of the film, one before each step and one after the turn: ``[height, width, 3]``."""
    steps = max(map(len, episodes.values()))
    return [_frame(episodes, step) for step in range(steps + 1)]


def _frame(episodes: Mapping[int, QValues], step: int) -> np.ndarray:
    """Draw the picture after ``step`` actions."""
    numbers = np.concatenate([np.ravel(values) for values in episodes.values()])
    margin = 0.1 * (np.ptp(numbers) + 0.01)
    limits = (numbers.min() - margin, numbers.max() + margin)
    with style():
        fig = Figure(figsize=(7.2, 3.6), dpi=100, layout="constrained")
        canvas = FigureCanvasAgg(fig)
        axes = fig.subplots(2, len(episodes), height_ratios=(1, 2), squeeze=False)
        for (above, below), sign in zip(axes.T, sorted(episodes), strict=True):
            values = episodes[sign]
            for place in range(len(values)):
                _place(above, place, PALE_ORANGE if step == place == 0 else WHITE)
            turned = step >= len(values)
            choice = int(np.argmax(values[-1]))
            y = (1.2 if choice == 0 else -1.2) if turned else 0.0
            above.add_patch(Circle((min(step, len(values) - 1), y), 0.4, color=BLUE))
            title = f"it sees the sign {sign}" if step == 0 else "it sees no sign"
            if turned:
                title = f"it turned {SIDES[(-1, 1)[choice]]}; the sign was {sign}"
            above.set(xlim=(-1, len(values)), ylim=(-1.8, 1.8), aspect="equal")
            above.set_title(title.replace("-", "−"))
            above.axis("off")
            _values(below, sign, values[: step + 1], title=False)
            below.set(xlim=(-0.5, len(values) - 0.5), ylim=limits)
        axes[1, 0].set_ylabel("Q-value")
        axes[1, 0].legend(loc="lower left")
        canvas.draw()
        return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _place(ax: Axes, x: float, color: str) -> None:
    ax.add_patch(Rectangle((x - 0.5, -0.5), 1, 1, facecolor=color, edgecolor=GREY))


def _values(ax: Axes, sign: int, values: QValues, title: bool = True) -> None:
    left, right = np.transpose(values)
    ax.plot(left, "o-", ms=4, color=ORANGE, label="left")
    ax.plot(right, "s--", ms=4, color=GREEN, label="right")
    ax.set_xlabel("step")
    if title:
        ax.set_title(f"sign {sign}: {SIDES[sign]} is correct".replace("-", "−"))
