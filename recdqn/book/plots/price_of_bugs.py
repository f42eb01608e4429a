"""Figure of what each silent bug costs."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from recdqn.book.plots.style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    RED,
    SMALL,
    panels,
    style,
    two_widths,
)
from recdqn.book.prices import TASKS, Prices, frames_to_solved, interval, mean_final, wiped
from recdqn.book.recorded import Record
from recdqn.curves import final_return

LOOKS = {"returns": (RED, "X"), "time": (ORANGE, "s"), "nothing": (GREEN, "o")}  # by kind of price
MEANS = {"returns": "costs returns", "time": "costs time", "nothing": "not told from chance"}


@two_widths
def price_of_bugs(prices: Prices) -> Figure:
    """Draw the final return with each bug beside that of the right runs, a panel for each task.

    A symbol is the mean over seeds, its bar the 95 % bootstrap interval, and a small dot one seed. At the
    right: the runs that were solved, and the median number of environment steps of those. A diamond is the
    mean return of the same agents whose memory is wiped at every step, where that is recorded.

    Args:
        prices: from :func:`recdqn.book.prices.recorded_prices`.
    """
    height = 1.3 + 0.27 * len(prices)
    with style():
        fig, axes = panels(2, height, height, sharey=True)
        for ax, task in zip(axes, TASKS, strict=True):
            _draw_task(ax, prices, task)
            ax.set_title(TASKS[task])
            ax.set_xlabel("mean final return")
        axes[0].set_yticks(range(len(prices)), list(prices))
        axes[0].set_ylim(len(prices) - 0.5, -0.6)
        handles = [
            *[
                axes[0].plot([], [], mark, color=color, label=MEANS[kind])[0]
                for kind, (color, mark) in LOOKS.items()
            ],
            axes[0].plot([], [], "|", color=BLUE, ms=9, mew=2, label="without the bug")[0],
            axes[0].plot([], [], "D", color=PURPLE, mfc="none", ms=5, label="memory wiped")[0],
        ]
        fig.legend(handles=handles, loc="outside upper left", ncols=2)
    return fig


def _draw_task(ax: Axes, prices: Prices, task: str) -> None:
    right_edge = max(final_return(run) for price in prices.values() for run in price[task].right)
    for y, price in enumerate(prices.values()):
        each = price[task]
        color, mark = LOOKS[each.kind]
        ax.plot(mean_final(each.right), y, "|", color=BLUE, ms=11, mew=2, zorder=1)
        ax.plot(interval(each.wrong), (y, y), color=color, lw=2)
        seeds = [final_return(run) for run in each.wrong]
        ax.plot(seeds, [y] * len(seeds), ".", color=GREY, ms=3, zorder=1)
        ax.plot(mean_final(each.wrong), y, mark, color=color, ms=6)
        if (without := wiped(each)) is not None:
            ax.plot(without, y, "D", color=PURPLE, mfc="none", ms=5)
        ax.annotate(
            _solved(each.wrong), (1.0, y), xycoords=("axes fraction", "data"), va="center", color=BLACK,
            xytext=(4, 0), textcoords="offset points", fontsize=SMALL, annotation_clip=False,
        )  # fmt: skip
    low = min(0.0, *(final_return(run) for price in prices.values() for run in price[task].wrong))
    ax.set_xlim(low - 0.05 * right_edge, 1.05 * right_edge)


def _solved(runs: Sequence[Record]) -> str:
    solved = [run for run in runs if run["final"] is not None]
    text = f"{len(solved)}/{len(runs)}"
    if not solved:
        return text
    return f"{text}, {frames_to_solved(solved):,.0f}"
