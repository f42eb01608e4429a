"""Figure of the classic tutorial's learning curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from recdqn.book.plots.style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PALE_BLUE,
    PURPLE,
    RED,
    is_narrow,
    panels,
    style,
    two_widths,
)
from recdqn.book.recorded import Record, mean_return
from recdqn.config import MAX_RETURN, TrainConfig
from recdqn.curves import learning_curve


@two_widths
def tutorial_curves(
    variants: Mapping[str, Sequence[Record]], package: Sequence[Record], random: float
) -> Figure:
    """Draw the learning curves of variants of the classic tutorial, and those of the package.

    The first panel shows the frames that the variants were given: a line through the mean over the seeds, a
    dot for each seed. The second panel shows the package's whole curve, with the first panel's part shaded.

    Args:
        variants: recorded runs by label, from :func:`recdqn.book.recorded.recorded_runs`.
        package: recorded runs of the package's pixel preset.
        random: mean return of random actions.
    """
    evaluations = [e for runs in variants.values() for run in runs for e in run["evaluations"]]
    end = 1.3 * max(e["frames"] for e in evaluations)
    curves = {**variants, "the package": package}
    colors, dashes = (RED, ORANGE, GREEN, PURPLE, BLUE), (":", "-.", "--", (0, (5, 1, 1, 1, 1, 1)), "-")
    with style():
        fig, (near, far) = panels(2, 3.8, 2.9)
        for (label, runs), color, dash in zip(curves.items(), colors, dashes, strict=True):
            curve = learning_curve(runs)
            near.plot(curve.x, curve.iqm, ls=dash, color=color, label=f"{label} ({curve.seeds} seeds)")
            far.plot(curve.x, curve.iqm, ls=dash, color=color)
            for run in runs:
                x, y = zip(*((e["frames"], mean_return(e)) for e in run["evaluations"]), strict=True)
                near.plot(x, y, ".", color=color, alpha=0.6)
            if runs is package and curve.low is not None and curve.high is not None:
                far.fill_between(curve.x, curve.low, curve.high, color=color, alpha=0.2, lw=0)
        near.axhline(random, ls="--", lw=1, color=BLACK, label="random actions")
        near.set(xlim=(0, end), ylim=(0, 1.1 * max(map(mean_return, evaluations))), ylabel="mean return")
        far.axvspan(0, end, color=PALE_BLUE, lw=0, zorder=0)
        solved = TrainConfig.solved_return
        far.axhline(solved, ls="--", lw=1, color=GREY, label=f"solved: {solved:.0f}")
        far.set(xlim=(0, None), ylim=(0, MAX_RETURN * 1.08))
        for ax in (near, far):
            ax.set_xlabel("environment steps")
            ax.xaxis.set_major_formatter("{x:,.0f}")
        fig.legend(loc="outside upper left", ncols=1 if is_narrow() else 2)
    return fig
