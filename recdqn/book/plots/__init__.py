"""Every figure of the book (all chapters): one style, colours for the colour-blind too, a white ground."""

from __future__ import annotations

import contextlib
import functools
import io
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyBboxPatch, Patch

from recdqn.book.recorded import Axis, learning_curve, mean_return
from recdqn.config import MAX_RETURN, TrainConfig

if TYPE_CHECKING:
    from tensordict.nn import TensorDictSequential
    from torch import Tensor

    from recdqn.doctor import Bug
    from recdqn.flow import Step
    from recdqn.loss import Steps

# After Okabe and Ito's palette, which can be told apart with every common form of colour blindness; some are
# darker, because lines on white need a contrast of 3 to 1.
BLUE, ORANGE, GREEN, RED, SKY, PURPLE, GREY, OLIVE = (
    "#00629E", "#C48600", "#009E73", "#C23A0C", "#3A9BD5", "#C0659A", "#6E6E6E", "#3F3A00",
)  # fmt: skip
INK, WHITE, PALE_BLUE, PALE_ORANGE = "#000000", "#FFFFFF", "#E3F0F9", "#FCEFD5"

# What each colour becomes on a dark page. The first is the page's own ground.
DARK = {
    WHITE: "#121212",
    INK: "#D8DEE4",
    BLUE: "#4399DB",
    ORANGE: "#E0A030",
    GREEN: "#2FC79A",
    RED: "#FF6B52",
    SKY: "#93D0F5",
    PURPLE: "#E59AC6",
    GREY: "#949494",
    OLIVE: "#F0E442",
    PALE_BLUE: "#1B3A50",
    PALE_ORANGE: "#4A3512",
}

STYLE = {
    "figure.figsize": (7.5, 3.2),
    "figure.facecolor": WHITE,
    "savefig.facecolor": WHITE,
    "figure.constrained_layout.use": True,
    "figure.dpi": 110,
    "axes.prop_cycle": plt.cycler(color=[BLUE, ORANGE, GREEN, RED, SKY, PURPLE, GREY]),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": "medium",
    "font.size": 10,
    "legend.frameon": False,
    "svg.hashsalt": "recdqn",  # names inside a file are then the same whenever it is drawn
}


@contextlib.contextmanager
def style() -> Iterator[None]:
    """Draw in the book's style inside a ``with`` block, in a notebook as SVG."""
    # Loads the backend first: a notebook's turns on interactive mode, and rc_context would turn it off again.
    plt.draw_if_interactive()
    _show_as_svg()
    with plt.rc_context(STYLE):
        yield


@functools.cache  # once, so that a reader who asks for another format gets it
def _show_as_svg() -> None:
    """Let a notebook show figures as SVG; PNG, for programs that cannot, is there anyway."""
    if "IPython" in sys.modules and (shell := sys.modules["IPython"].get_ipython()):
        shell.display_formatter.formatters["image/svg+xml"].for_type(Figure, svg)


def svg(figure: Figure, description: str | None = None) -> str:
    """Return ``figure`` as SVG: whenever a figure is made anew, the same text.

    Args:
        figure: any.
        description: goes into the metadata.
    """
    file = io.StringIO()
    metadata = {"Creator": CREATOR, "Date": None, "Description": description}
    with style():
        figure.savefig(file, format="svg", dpi=144, metadata=metadata)  # dpi: of pictures inside
    return file.getvalue()


CREATOR = "recdqn.book.plots"  # by which the site knows our figures


def dark(svg: str) -> str:
    """Return a figure of :func:`svg` for a dark page: each colour becomes its partner in ``DARK``.

    Pictures inside, such as colour maps and frames, stay as they are.
    """

    def partner(found: re.Match) -> str:
        return found[1] + DARK.get(found[2].upper(), found[2])

    # Black faces are not written down: they are what a file without a colour has.
    svg = svg.replace("<svg ", f'<svg fill="{DARK[INK]}" ', 1)
    return re.sub(r"\b((?:fill|stroke)(?:: |=\"))(#[0-9a-fA-F]{6})\b", partner, svg)


# Chapter 2: a policy that remembers


def policy_graph(policy: TensorDictSequential) -> Figure:
    """Draw a policy as its modules and the keys that join them (chapter 2).

    Everything comes from the modules' ``in_keys`` and ``out_keys``: on the left what a module reads that no
    earlier one wrote, on the right what it writes that no later one reads, on the arrows what is handed down.
    """
    modules = list(policy)
    writers: list[dict] = [{}]  # for each module, which earlier one wrote a key last
    for i, module in enumerate(modules):
        writers.append({**writers[-1], **dict.fromkeys(module.out_keys, i)})
    left = [[k for k in m.in_keys if k not in writers[i]] for i, m in enumerate(modules)]
    later = [{k for m in modules[i + 1 :] for k in m.in_keys} for i in range(len(modules))]
    last = modules[-1]
    right = [
        [k for k in m.out_keys if k not in later[i] and (k not in m.in_keys or m is last)]
        for i, m in enumerate(modules)
    ]
    state = [[k for k in keys if k[0] == "next" and k[1] in left[i]] for i, keys in enumerate(right)]
    heights = [max(0.34 * max(len(a), len(b)), 0.4) for a, b in zip(left, right, strict=True)]
    gaps = [0.45 if keys else 0.35 for keys in state]
    with style():
        total = sum(heights) + sum(gaps) + 0.1
        fig, ax = plt.subplots(figsize=(7.5, total))
        ax.set(xlim=(-3.75, 3.75), ylim=(-total, 0.0))
        ax.axis("off")
        for x, text in ((-2.0, "read from the environment"), (0.0, "module"), (2.25, "written")):
            ax.text(x, -0.12, text, ha="center", va="center", fontsize=9, color=GREY)
        top, middles = -0.35, []
        for i, module in enumerate(modules):
            y = top - heights[i] / 2
            middles.append(y)
            _draw_module(ax, y, type(getattr(module, "module", module)).__name__)
            places = {k: y + 0.34 * ((len(left[i]) - 1) / 2 - j) for j, k in enumerate(left[i])}
            places |= {k: y + 0.34 * ((len(right[i]) - 1) / 2 - j) for j, k in enumerate(right[i])}
            for key, at in places.items():
                moves = key in state[i] or ("next", key) in state[i]
                _draw_key(ax, key, -1 if key in left[i] else 1, at, y, PALE_ORANGE if moves else PALE_BLUE)
            if state[i]:
                low = min([*places.values(), y - heights[i] / 2 + 0.1]) - 0.3
                start = sum(places[k] for k in state[i]) / len(state[i])
                end = sum(places[k[1]] for k in state[i]) / len(state[i])
                ax.plot(
                    [3.2, 3.35, 3.35, -2.8, -2.8], [start, start, low, low, end], "--", color=ORANGE, lw=1.2
                )
                ax.annotate("", (-2.55, end), (-2.82, end), arrowprops=_arrow(ORANGE))
                ax.text(2.2, low + 0.03, "read by the next step", ha="center", va="bottom", fontsize=8)
            for key in (k for k in module.in_keys if k in writers[i]):
                writer = writers[i][key]
                bend = "arc3" if writer == i - 1 else "arc3,rad=0.6"
                ax.annotate("", (0, y + 0.16), (0, middles[writer] - 0.16), arrowprops=_arrow(BLUE, bend))
                ax.text(-0.1, y + 0.28, _name(key), ha="right", va="center", family="monospace", fontsize=8)
            top -= heights[i] + gaps[i]
    return fig


def _arrow(color: str, bend: str = "arc3") -> dict[str, Any]:
    return {
        "arrowstyle": "-|>",
        "color": color,
        "lw": 1.2,
        "shrinkA": 0,
        "shrinkB": 0,
        "connectionstyle": bend,
    }


def _name(key: str | tuple[str, ...]) -> str:
    return str(key).replace("'", '"') if isinstance(key, tuple) else f'"{key}"'


def _draw_module(ax: Axes, y: float, name: str) -> None:
    box = FancyBboxPatch((-0.72, y - 0.14), 1.44, 0.28, boxstyle="round,pad=0.02", fc=WHITE, ec=BLUE, lw=1.6)
    ax.add_patch(box)
    ax.text(0, y, name, ha="center", va="center", fontsize=9.5, weight="bold")


def _draw_key(ax: Axes, key: str | tuple[str, ...], side: int, at: float, y: float, color: str) -> None:
    """Write a key left (-1) or right (1) at height ``at``, joined to the module at height ``y``."""
    ax.text(
        side * 1.25,
        at,
        _name(key),
        ha="left" if side > 0 else "right",
        va="center",
        family="monospace",
        fontsize=8,
        bbox={"boxstyle": "round,pad=0.25", "fc": color, "ec": "none"},
    )
    outer, inner = (side * 1.17, at), (side * 0.77, y)
    start, end = (inner, outer) if side > 0 else (outer, inner)
    ax.annotate("", end, start, arrowprops=_arrow(GREY))


def pole_embeddings(pictures: Tensor, pooled: Tensor, flat: Tensor) -> Figure:
    """Draw two pictures ``[2, 1, H, W]``, and one's embeddings against the other's (chapter 2)."""
    with style():
        fig, axes = plt.subplots(1, 4, figsize=(7.5, 2.3))
        for ax, picture, where in zip(axes[:2], pictures, ("left", "right"), strict=True):
            ax.imshow(picture[0], cmap="Greys", interpolation="none")
            ax.set(xticks=[], yticks=[], title=f"bar at the {where}")
            for spine in ax.spines.values():
                spine.set(visible=True, color=GREY)
        for ax, values, title in ((axes[2], pooled, "pooled"), (axes[3], flat, "flattened")):
            ends = [values.min().item(), values.max().item()]
            ax.plot(ends, ends, color=GREY, lw=1)
            ax.plot(values[0], values[1], "o", color=BLUE, ms=3, mew=0, alpha=0.6)
            ax.set(xticks=[], yticks=[], xlabel="entry, left", ylabel="entry, right", box_aspect=1)
            ax.set_title(f"{values.shape[-1]:,} {title}")
    return fig


def value_starts(true: Tensor, curves: dict[str, Tensor]) -> Figure:
    """Draw values over the number of steps before the fall, ``[steps]`` each (chapter 2)."""
    with style():
        fig, ax = plt.subplots()
        for (label, values), color in zip(curves.items(), (ORANGE, GREEN), strict=False):
            ax.plot(range(1, len(values) + 1), values, color=color, lw=2, label=label)
        ax.plot(range(1, len(true) + 1), true, color=INK, lw=1.2, ls="--", label="true value")
        ax.set(xlabel="steps left before the fall", ylabel="value", ylim=(-0.05, 1.1))
        ax.legend(loc="lower right")
    return fig


def epsilon_schedules(frames: Sequence[int], curves: dict[str, Sequence[float]]) -> Figure:
    """Draw the share of random actions over environment steps, one line per schedule (chapter 2)."""
    with style():
        fig, ax = plt.subplots()
        for (label, values), line in zip(curves.items(), ("-", "-", ":"), strict=False):
            ax.plot(frames, values, line, lw=2, label=label)
        ax.set(xlabel="environment steps", ylabel="epsilon", ylim=(0, 1.05))
        ax.xaxis.set_major_formatter("{x:,.0f}")
        ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return fig


# Chapter 3: following one hidden state


def state_flow(steps: Sequence[Step], row: int = 0, units: int = 12) -> Figure:
    """Draw one state moving from ``("next", ...)`` to the root and zeroed at episode starts (chapter 3).

    Args:
        steps: from :func:`recdqn.flow.trace`.
        row: which environment of a batch.
        units: how many of the state's numbers to draw: those that vary most.
    """
    key = (row,) if steps[0].is_init.ndim else ()
    root = np.stack([step.places["before the policy"].root[key].flatten().numpy() for step in steps], -1)
    following = np.stack([step.places["after the policy"].next[key].flatten().numpy() for step in steps], -1)
    shown = np.sort(following.std(-1).argsort()[-units:])
    high = np.abs(following[shown]).max()
    with style():
        fig, ax = plt.subplots(figsize=(7.5, 3.6))
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
            ax.add_patch(plt.Rectangle((-0.5, bottom), len(steps), 1, fill=False, ec=GREY, lw=0.8, zorder=2))
        for t, step in enumerate(steps):
            ax.annotate("", (t, 1.98), (t, 1.02), arrowprops={"arrowstyle": "->", "color": SKY, "lw": 0.9})
            if step.done[key]:
                ax.plot(t + 0.5, 1.5, "x", color=RED, ms=8, mew=2.2, zorder=4, clip_on=False)
                ax.axvline(t + 0.5, color=RED, lw=1.2, ls=":", zorder=3)
            elif t + 1 < len(steps):
                arrow = {"arrowstyle": "->", "color": INK, "lw": 1.1, "shrinkA": 0, "shrinkB": 0}
                ax.annotate("", (t + 1, 1.02), (t, 1.98), arrowprops=arrow)
            if step.is_init[key]:
                ax.plot(t, -0.16, "^", color=RED, ms=7, clip_on=False)
        ax.plot([], [], color=SKY, label="policy")
        ax.plot([], [], color=INK, label="step_mdp")
        ax.plot([], [], "x", color=RED, mew=2, label="episode ends: not moved")
        ax.plot([], [], "^", color=RED, label="is_init: zeros at the root")
        ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4, columnspacing=1.2, handlelength=1.4)
        ax.set(xlabel="step", xlim=(-0.5, len(steps) - 0.5), ylim=(-0.3, 3.05))
        ax.set_yticks([0.5, 2.5], ["root", '("next", ...)'])
        ax.tick_params(axis="y", length=0)
        ax.spines[["left", "bottom"]].set_visible(False)
        fig.colorbar(image, ax=ax, label="value of a unit", pad=0.01)
    return fig


def state_rows(steps: Sequence[Step]) -> Figure:
    """Draw the length of the state at the root for every environment of a batch (chapter 3)."""
    with style():
        rows = len(steps[0].is_init)
        fig, axes = plt.subplots(rows, 1, figsize=(7.5, 1.1 * rows + 0.7), sharex=True, sharey=True)
        for row, ax in enumerate(axes):
            length = np.array([step.places["before the policy"].root[row].norm().item() for step in steps])
            starts = [t for t, step in enumerate(steps) if step.is_init[row]]
            ax.plot(length, ".-", color=BLUE, lw=1, ms=4)
            ax.plot(starts, length[starts], "^", color=RED, ms=6, label="is_init")
            ax.set(ylabel=f"row {row}")
        axes[0].legend(loc="lower right", bbox_to_anchor=(1.0, 0.95))
        axes[-1].set(xlabel="step")
        fig.supylabel("length of the state at the root", fontsize="medium")
    return fig


# Chapter 1


def plot_pictures(
    pictures: Sequence[Tensor],
    titles: Sequence[str],
    limits: Sequence[tuple[float, float]] | None = None,
    columns: int = 4,
) -> Figure:
    """Draw pictures side by side, channels first or last or grey, each pixel as it is (chapter 1).

    ``limits`` holds, for each grey picture, the values that are shown as black and white; without it they are
    the picture's least and greatest. These two are always written below it.
    """
    with style():
        columns = min(columns, len(pictures))
        rows = -(-len(pictures) // columns)
        shapes = [np.shape(p)[-2:] if len(p) in (1, 3) else np.shape(p)[:2] for p in pictures[:columns]]
        ratios = [width / height for height, width in shapes]  # so that pictures in a row have one height
        height = min(1.75, (7.5 - 0.15 * columns) / sum(ratios))  # of a picture, inches
        size = (height * sum(ratios) + 0.15 * columns, (height + 0.55) * rows)
        grid = {"width_ratios": ratios}
        fig, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, gridspec_kw=grid)
        fig.get_layout_engine().set(hspace=0.1)  # a title belongs to the picture below it
        for ax in axes.flat[len(pictures) :]:
            ax.set_visible(False)
        for i, (picture, title) in enumerate(zip(pictures, titles, strict=True)):
            ax, values = axes.flat[i], np.asarray(picture)
            if values.ndim == 3 and values.shape[0] in (1, 3):
                values = np.moveaxis(values, 0, -1)
            least, greatest = values.min(), values.max()
            low, high = limits[i] if limits else (least, greatest)
            # Pixels stay sharp where they are enlarged; a thin line must survive where they are shrunk.
            sharp = "none" if values.shape[1] < 200 else "antialiased"
            ax.imshow(values, cmap="gray", vmin=low, vmax=high, interpolation=sharp)
            ax.set_title(title, fontsize="small")
            ax.set_xlabel(f"{round(float(least), 2):g} to {round(float(greatest), 2):g}", fontsize="small")
            ax.set_xticks([])
            ax.set_yticks([])
            for spine in ax.spines.values():
                spine.set(visible=True, color=GREY)
    return fig


def plot_velocity_fits(truth: Tensor, guesses: dict[str, Tensor], unit: str) -> Figure:
    """Draw guessed against true velocities, one panel for each way of guessing, with its R2 (chapter 1)."""
    with style():
        fig, axes = plt.subplots(1, len(guesses), figsize=(7.5, 3.0), sharex=True, sharey=True)
        low, high = truth.min().item(), truth.max().item()
        for ax, (name, guess) in zip(axes, guesses.items(), strict=True):
            r2 = 1 - (guess - truth).square().sum() / (truth - truth.mean()).square().sum()
            ax.plot([low, high], [low, high], color=GREY, lw=1)
            ax.plot(truth, guess, ".", color=BLUE, ms=3, alpha=0.6)
            ax.set(title=f"{name}\n$R^2$ = {r2:.2f}", aspect="equal")
        axes[0].set_ylabel(f"guessed, {unit}")
        fig.supxlabel(f"true, {unit}", fontsize="medium")
    return fig


def plot_episode_marks(step_count: Tensor, is_init: Tensor, done: Tensor) -> Figure:
    """Draw ``"step_count"`` along a rollout and mark where episodes begin and end (chapter 1)."""
    with style():
        fig, ax = plt.subplots(figsize=(7.5, 2.4))
        count, steps = step_count.flatten(), np.arange(step_count.numel())
        first, last = is_init.flatten(), done.flatten()
        ax.plot(steps, count, ".-", color=SKY, lw=1, ms=3, label='"step_count"')
        ax.plot(steps[first], count[first], "^", color=RED, ms=8, label='"is_init" is true')
        ax.plot(steps[last], count[last], "x", color=BLUE, mew=2, ms=7, label='("next", "done") is true')
        ax.set(xlabel="step of the rollout", ylabel="steps since reset")
        ax.legend(ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return fig


def plot_column_statistics(scale: Tensor, position: Tensor, darkest: dict[str, Tensor]) -> Figure:
    """Draw the factor on each image column, and one pole's value wherever its cart stands (chapter 1)."""
    with style():
        fig, (left, right) = plt.subplots(1, 2, figsize=(7.5, 2.9))
        left.plot(scale.flatten(), color=RED)
        left.set(xlabel="image column", ylabel="factor on the pixels", ylim=(0, None))
        for (name, value), color in zip(darkest.items(), (RED, BLUE), strict=True):
            right.plot(position, value, ".-", color=color, label=name)
        right.set(xlabel="position of the cart, m", ylabel="darkest pixel of the pole", ylim=(None, 0))
        right.legend(ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return fig


# Chapter 4: what the loss sees


def memory_across_slices(lengths: Sequence[int] = (4, 3, 5)) -> Figure:
    """Draw slices laid end to end, and where the memory flows in two target passes (chapter 4)."""
    colors = (BLUE, GREEN, PURPLE, SKY)
    rows = (("memory restarts at each slice", GREY), ("DQNLoss, target pass: one long episode", RED))
    with style():
        fig, ax = plt.subplots(figsize=(7.5, 2.7))
        ax.set(xlim=(-0.7, sum(lengths) - 0.3), ylim=(-2.75, 1.0))
        ax.axis("off")
        for y, (title, arrow) in zip((0.0, -2.0), rows, strict=True):
            x = 0
            ax.text(-0.35, y + 0.6, title, fontsize=10, color=INK if y == 0 else RED)
            for k, length in enumerate(lengths):
                for t in range(length):
                    ax.add_patch(
                        plt.Rectangle((x - 0.35, y - 0.35), 0.7, 0.7, fc=colors[k % 4], ec="none", alpha=0.3)
                    )
                    # a target pass that starts at the next observations never sees a slice's first one
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
                                    fontsize=8,
                                    arrowprops={"arrowstyle": "-|>", "color": ORANGE, "lw": 1.2})  # fmt: skip
                    x += 1
    return fig


def errors_after_start(curves: dict[str, Tensor], scale: float) -> Figure:
    """Draw how far Q-values are off after a slice's start, step by step, per way of starting (chapter 4).

    ``scale`` is the mean gap between the Q-values of the two actions, drawn for comparison.
    """
    looks = ((RED, "o", "--"), (RED, "o", "-"), (BLUE, "s", "-"))
    with style():
        fig, ax = plt.subplots(figsize=(7.5, 3.0))
        for (name, values), (color, marker, line) in zip(curves.items(), looks, strict=True):
            ax.plot(np.arange(len(values)), values, line, marker=marker, ms=4, color=color, label=name)
        ax.axhline(scale, color=GREY, lw=1, ls=":", label="gap between the two actions")
        ax.set(xlabel="steps after the start of the slice", ylabel="mean error of the Q-values", yscale="log")
        ax.set_xticks(np.arange(len(values)))
        ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return fig


def errors_by_position(slices: dict[str, Sequence[Tensor]]) -> Figure:
    """Draw errors against the step of a slice, one colour per loss: the mean and the range (chapter 4)."""
    with style():
        fig, ax = plt.subplots(figsize=(7.5, 3.0))
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
        ax.set(xlabel="step of the slice", ylabel="how far $|\\delta|$ is off", yscale="log")
        ax.set_xticks(np.arange(longest))
        ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return fig


def slice_steps(steps: Steps, step_count: Tensor) -> Figure:
    """Draw what the loss does with each step of a batch, one slice in each row (chapter 4).

    Args:
        steps: from :meth:`recdqn.loss.RecurrentDQNLoss.steps`.
        step_count: the batch's ``"step_count"``; a slice that begins an episode starts with 0. Padding is
            drawn behind the slice that it follows.
    """
    looks = {
        "w": ("burn-in, warms the memory", ORANGE, 0.45, ""),
        "c": ("counts", BLUE, 0.4, ""),
        "x": ("left out: slice too short", GREY, 0.25, "////"),
        "p": ("padding", GREY, 0.0, ""),
    }
    rows, columns = steps.row.tolist(), steps.column.tolist()
    warm, counts, count = steps.warm.tolist(), steps.counts.tolist(), step_count.flatten().tolist()
    with style():
        height = max(*rows, 0) + 1
        fig, ax = plt.subplots(figsize=(7.5, 0.34 * height + 0.9))
        row = column = -1
        for i in range(len(rows)):
            real = rows[i] >= 0
            row, column = (rows[i], columns[i]) if real else (row, column + 1)
            letter = "p" if not real else "c" if counts[i] else "w" if warm[i] else "x"
            _draw_step(ax, column, row, letter, *looks[letter][1:])
            if real and column == 0 and count[i] == 0:
                ax.plot(-0.75, row, ">", color=RED, ms=7, clip_on=False)
        handles = [
            Patch(
                fc=to_rgba(color, alpha), ec=GREY, ls=_edge(letter), hatch=hatch, label=f"{letter}: {meaning}"
            )
            for letter, (meaning, color, alpha, hatch) in looks.items()
        ]
        handles += ax.plot([], [], ">", color=RED, ms=7, ls="", label="begins an episode")
        longest = round(max(text.get_position()[0] for text in ax.texts)) + 1
        ax.set(xlabel="step of the slice", xlim=(-1.1, longest - 0.5), xticks=range(longest))
        ax.set(ylabel="slice", ylim=(height - 0.5, -0.5), yticks=range(height))
        ax.tick_params(length=0)
        ax.spines[["left", "bottom"]].set_visible(False)
        ax.legend(handles=handles, loc="center left", bbox_to_anchor=(1.0, 0.5), labelspacing=0.9)
    return fig


def _draw_step(ax: Axes, x: int, y: int, letter: str, color: str, alpha: float, hatch: str) -> None:
    look = {"fc": to_rgba(color, alpha), "ec": GREY, "lw": 0.8, "ls": _edge(letter), "hatch": hatch}
    ax.add_patch(plt.Rectangle((x - 0.42, y - 0.42), 0.84, 0.84, **look))
    box = {"boxstyle": "round,pad=0.1", "fc": WHITE, "ec": "none"} if hatch else None
    ax.text(x, y, letter, ha="center", va="center", fontsize=9, bbox=box)


def _edge(letter: str) -> str:
    return ":" if letter == "p" else "-"


# Chapter 5


def seed_curves(
    presets: Mapping[str, Sequence[dict]],
    axis: Axis = "frames",
    beside: Mapping[str, Sequence[dict]] | None = None,
) -> Figure:
    """Draw the interquartile mean of the returns over seeds, in a band of its 95 % interval (chapter 5).

    The numbers are those of :func:`recdqn.book.recorded.learning_curve`, each curve carried on to the end of
    the longest. One seed has no interval; its legend says so.

    Args:
        presets: recorded runs by label, as :func:`recdqn.book.recorded.recorded_runs` returns them.
        axis: ``"frames"`` (environment steps), or ``"minutes"`` (wall-clock time, in powers of ten).
        beside: evaluations of single runs by label, as :class:`recdqn.training.Run` keeps them, each drawn as
            a line with dots; for ``axis="frames"``.
    """
    end = max(learning_curve(runs, axis).x[-1] for runs in presets.values())
    with style():
        fig, ax = plt.subplots()
        for number, (label, runs) in enumerate(presets.items()):
            curve, color = learning_curve(runs, axis, end), (BLUE, ORANGE, GREEN, PURPLE)[number % 4]
            line = ("-", "--", "-.", ":")[number % 4]  # not by colour alone
            seeds = f"{curve.seeds} seeds" if curve.seeds > 1 else "1 seed, no interval"
            label = f"{label}\nsolved {curve.solved} of {seeds}"
            ax.plot(curve.x, curve.iqm, line, color=color, label=label)
            if curve.low is not None:
                ax.fill_between(curve.x, curve.low, curve.high, color=color, alpha=0.2, lw=0)
        for label, evaluations in (beside or {}).items():
            ax.plot(*_curve(evaluations), marker=".", color=RED, lw=1, label=label)
        if axis == "minutes":
            ax.set_xscale("log")
            ax.xaxis.set_major_formatter("{x:g}")
        else:
            ax.set_xlim(0, None)
            ax.xaxis.set_major_formatter("{x:,.0f}")
        names = {"frames": "environment steps", "minutes": "minutes of wall-clock time"}
        ax.set(xlabel=names[axis], ylabel="IQM of the mean return")
        _draw_solved(ax)
        fig.legend(loc="outside upper left", ncols=3)
    return fig


def save_svg(figure: Figure, path: Path, description: str) -> None:
    """Write ``figure`` as :func:`svg` gives it."""
    path.write_text(svg(figure, description), encoding="utf-8")


def _draw_solved(ax: Axes) -> None:
    """Draw the return from which on CartPole counts as solved."""
    solved = TrainConfig.solved_return
    ax.axhline(solved, ls="--", lw=1, color=GREY, label=f"solved: {solved:.0f}")
    ax.set_ylim(0, MAX_RETURN * 1.08)


def replay_counts(draws: Mapping[str, Sequence[Tensor]]) -> Figure:
    """Draw how often each step of each episode was sampled, one panel for each sampler (chapter 5).

    Args:
        draws: by sampler, one tensor ``[steps]`` for each episode, relative to the mean over all steps.
    """
    with style():
        fig, axes = plt.subplots(1, len(draws), sharey=True)
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
        axes[0].set_ylabel("draws per step, mean = 1")
        axes[0].legend()
    return fig


def _curve(evaluations: Sequence[dict]) -> tuple[list[int], list[float]]:
    return [e["frames"] for e in evaluations], [mean_return(e) for e in evaluations]


# The field guide


def bug_map(bugs: Mapping[str, Bug], checks: Sequence[tuple[Any, Sequence[str], Sequence[str]]]) -> Figure:
    """Draw the parts of a pipeline, and under each the bugs that live there (the field guide).

    Args:
        bugs: ``recdqn.doctor.BUGS``.
        checks: ``recdqn.doctor.checks.CHECKS``: of each check the parts that it needs and the codes it finds.
    """
    parts = {code: needs for _, needs, codes in checks for code in codes}
    columns: list[list[str]] = [[], [], [], []]
    for code in bugs:
        columns[_column(parts[code])].append(code)
    boxes = {"env": 0.44, "policy": 1.44, "buffer": 2.2, "batch": 2.69, "loss": 3.44}  # centres
    length = max(map(len, columns))
    with style():
        fig, ax = plt.subplots(figsize=(7.5, 1.3 + 0.23 * length))
        ax.set(xlim=(-0.03, 4.0), ylim=(length - 0.4, -3.4))
        ax.axis("off")
        for name, x in boxes.items():
            ax.text(x, -1.4, name, ha="center", va="center", family="monospace", bbox=_box(PALE_BLUE, BLUE))
        middles = list(boxes.values())
        for a, b in pairwise(middles):
            ax.annotate("", (b - 0.17, -1.4), (a + 0.17, -1.4), arrowprops=_arrow(BLUE))
        ax.annotate("", (1.5, -2.0), (3.44, -2.0), arrowprops=_arrow(BLUE, "arc3,rad=0.13"))
        ax.annotate("", (0.44, -2.0), (1.38, -2.0), arrowprops=_arrow(BLUE, "arc3,rad=0.25"))
        for x, text in ((0.91, "acts in"), (2.47, "trains")):
            ax.text(x, -2.95, text, ha="center", va="center", color=GREY, bbox=_box(WHITE, WHITE, 0.1))
        for column, codes in enumerate(columns):
            for row, code in enumerate(codes):
                marker, fill, edge = MARKS[bugs[code].severity]
                ax.plot(column + 0.02, row, marker, color=edge, mfc=fill, ms=6)
                ax.text(column + 0.07, row, code, va="center", family="monospace", fontsize=8)
        kinds = [Line2D([], [], ls="", marker=m, color=e, mfc=f, label=k) for k, (m, f, e) in MARKS.items()]
        ax.legend(handles=kinds, loc="lower right", bbox_to_anchor=(1, 0))
    return fig


MARKS = {"error": ("o", RED, RED), "warning": ("^", WHITE, BLUE)}  # marker, face, edge


def _column(parts: Sequence[str]) -> int:
    """The column of a bug, by the parts that its check needs: what the bug is in, not what shows it."""
    words = {word for part in parts for word in part.split(" or ")}
    return 3 if "loss" in words else 1 if "policy" in words else 2 if "batch" in words else 0


def _box(face: str, edge: str, pad: float = 0.5) -> dict[str, Any]:
    return {"boxstyle": f"round,pad={pad}", "facecolor": face, "edgecolor": edge}


# Chapter 6: making it fast


def stacked_bars(bars: Mapping[str, Mapping[str, float]], unit: str) -> Figure:
    """Draw what several things are made of, one bar each, its parts side by side (chapter 6).

    A part has the same colour and letter in every bar. The legend says how large it is in each.

    Args:
        bars: sizes of the parts, by bar and part; at most eight different parts.
        unit: of the sizes.
    """
    parts = list(dict.fromkeys(part for bar in bars.values() for part in bar))
    colors = (BLUE, ORANGE, GREEN, RED, SKY, PURPLE, GREY, OLIVE)
    longest = max(sum(bar.values()) for bar in bars.values())
    with style():
        fig, ax = plt.subplots(figsize=(7.5, 1.0 + 0.5 * len(bars) + 0.24 * len(parts)))
        for y, bar in enumerate(bars.values()):
            left = 0.0
            for part, size in bar.items():
                number = parts.index(part)
                ax.barh(y, size, left=left, color=colors[number], edgecolor=WHITE, lw=0.5)
                if size > 0.025 * longest:
                    letter, ground = "abcdefgh"[number], _box(WHITE, "none", 0.2)
                    ax.text(left + size / 2, y, letter, ha="center", va="center", bbox=ground)
                left += size
            ax.text(left, y, f" {_short(left)}", va="center")
        ax.set_yticks(range(len(bars)), list(bars))
        ax.set(xlabel=unit, xlim=(0, 1.1 * longest), ylim=(len(bars) - 0.5, -0.5))
        ax.xaxis.set_major_formatter("{x:,g}")
        labels = []
        for letter, part in zip("abcdefgh", parts, strict=False):
            sizes = " | ".join(_short(bar[part]) if part in bar else "none" for bar in bars.values())
            labels.append(f"{letter}  {part}: {sizes}")
        handles = [Patch(color=color) for color in colors[: len(parts)]]
        fig.legend(handles, labels, loc="outside lower left", fontsize=9)
    return fig


def speed_ups(gains: Mapping[str, float]) -> Figure:
    """Draw how many times better each step made something, in powers of ten (chapter 6)."""
    with style():
        fig, ax = plt.subplots(figsize=(7.5, 0.9 + 0.34 * len(gains)))
        values = list(gains.values())
        ax.barh(range(len(gains)), [value - 1 for value in values], left=1, color=BLUE)
        for y, value in enumerate(values):
            ax.text(max(value, 1), y, f" {value:.1f}" if value < 10 else f" {value:.0f}", va="center")
        ax.axvline(1, color=GREY, lw=1)
        ax.set_xscale("log")
        ax.xaxis.set_major_formatter("{x:g}")
        ax.set_yticks(range(len(gains)), list(gains))
        ax.set(xlabel="times as good as before", xlim=(None, 2 * max(values)), ylim=(len(gains) - 0.5, -0.5))
    return fig


def seen_and_unseen(
    updates: Sequence[int], curves: Mapping[str, tuple[Sequence[float], Sequence[float]]]
) -> Figure:
    """Draw the error on pictures that a network was trained with, and on others (chapter 6).

    Args:
        updates: gradient steps so far, at each point.
        curves: by way of training, the errors on the training pictures and on the others.
    """
    with style():
        fig, axes = plt.subplots(1, len(curves), sharey=True, squeeze=False)
        for ax, (name, (seen, unseen)) in zip(axes[0], curves.items(), strict=True):
            ax.plot(updates, seen, marker=".", color=BLUE, label="pictures it was trained with")
            ax.plot(updates, unseen, "--", marker="x", color=ORANGE, label="other pictures")
            ax.set(title=name, xlabel="updates", yscale="log")
        axes[0, 0].set_ylabel("error, as a share of the variance")
        fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return fig


def errors_by_place(place: Tensor, errors: Mapping[str, Tensor], known: tuple[float, float]) -> Figure:
    """Draw each picture's error against the place of its cart (chapter 6).

    Args:
        place: ``[N]``, metres from the middle of the track.
        errors: by way of training, ``[N]``.
        known: the lowest and the highest place among the training pictures.
    """
    with style():
        fig, axes = plt.subplots(1, len(errors), sharey=True, squeeze=False)
        for ax, (name, error) in zip(axes[0], errors.items(), strict=True):
            ax.axvspan(*known, fc=to_rgba(GREY, 0.2), ec=GREY, lw=0.8, label="places of training pictures")
            ax.plot(place, error, ".", color=ORANGE, ms=4, label="other pictures")
            ax.set(title=name, xlabel="cart's place, m", yscale="log")
        axes[0, 0].set_ylabel("squared error of a picture")
        fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return fig


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"
