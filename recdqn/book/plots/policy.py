"""Figures of the policy: its modules, features, values and exploration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from recdqn.book.plots.style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    NARROW,
    ORANGE,
    PALE_BLUE,
    PALE_ORANGE,
    SMALL,
    WHITE,
    arrow,
    box,
    figsize,
    is_narrow,
    legend_beside,
    panels,
    style,
    two_widths,
)

if TYPE_CHECKING:
    from tensordict.nn import TensorDictModuleBase, TensorDictSequential
    from torch import Tensor

Key = str | tuple[str, ...]


@two_widths
def policy_graph(policy: TensorDictSequential) -> Figure:
    """Draw the modules of a policy and the keys that connect them.

    The graph follows from the modules' ``in_keys`` and ``out_keys``. Keys that a module reads from the
    environment are on its left, keys that no later module reads on its right, and keys that one module passes
    to another on the arrow between them.
    """
    modules = list(policy)
    writers: list[dict[Key, int]] = [{}]  # for each module, the last earlier module that wrote a key
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
    if is_narrow():
        return _policy_column(modules, left, right, writers)
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
                ax.annotate("", (-2.55, end), (-2.82, end), arrowprops=arrow(ORANGE))
                ax.text(2.2, low + 0.03, "read by the next step", ha="center", va="bottom", fontsize=SMALL)
            for key in (k for k in module.in_keys if k in writers[i]):
                writer = writers[i][key]
                bend = "arc3" if writer == i - 1 else "arc3,rad=0.6"
                ax.annotate("", (0, y + 0.16), (0, middles[writer] - 0.16), arrowprops=arrow(BLUE, bend))
                ax.text(
                    -0.1, y + 0.28, _name(key), ha="right", va="center", family="monospace", fontsize=SMALL
                )
            top -= heights[i] + gaps[i]
    return fig


def _policy_column(
    modules: Sequence[TensorDictModuleBase],
    left: Sequence[Sequence[Key]],
    right: Sequence[Sequence[Key]],
    writers: Sequence[Mapping[Key, int]],
) -> Figure:
    """Draw the graph as one column: above each module the keys it reads, below it the keys it writes."""
    spots: dict[tuple[str, Key], float] = {}  # height of each key that is read or written
    lines: list[tuple[float, str, Key]] = []
    boxes: list[tuple[float, str]] = []
    y = 0.0
    for i, module in enumerate(modules):
        reads = [("passed", k) for k in module.in_keys if k in writers[i]] + [("read", k) for k in left[i]]
        for kind, key in reads:
            lines.append((y, kind, key))
            y -= 0.27
        boxes.append((y - 0.1, type(getattr(module, "module", module)).__name__))
        y -= 0.42
        for key in right[i]:
            lines.append((y, "written", key))
            y -= 0.27
        y -= 0.08
    with style():
        fig, ax = plt.subplots(figsize=figsize(0.0, 0.45 - y))
        ax.set(xlim=(0, NARROW), ylim=(y, 0.45))
        ax.axis("off")
        ax.text(
            0,
            0.33,
            "in: reads, out: writes, orange: to the next step",
            va="center",
            fontsize=SMALL,
            color=GREY,
        )
        stored = [key for _, kind, key in lines if kind == "written" and key[0] == "next"]
        for at, kind, key in lines:
            moves = key in stored or ("next", key) in stored
            spots[kind, key] = at
            word = "out" if kind == "written" else "in"
            ax.text(0.0, at, word, va="center", fontsize=SMALL, color=GREY)
            face = PALE_ORANGE if moves else WHITE if kind == "passed" else PALE_BLUE
            ground = box(face, "none", 0.2)
            ax.text(0.35, at, _name(key), va="center", family="monospace", fontsize=SMALL, bbox=ground)
        for at, name in boxes:
            ax.text(0.35, at, name, va="center", weight="bold", bbox=box(WHITE, BLUE, 0.3))
        for number, key in enumerate(stored):
            start, end = spots["written", key], spots["read", key[1]]
            edge = 3.1 + 0.12 * number
            ax.plot([2.7, edge, edge], [start, start, end], "--", color=ORANGE, lw=1.2)
            ax.annotate("", (2.3, end), (edge, end), arrowprops=arrow(ORANGE))
    return fig


def _name(key: Key) -> str:
    return str(key).replace("'", '"') if isinstance(key, tuple) else f'"{key}"'


def _draw_module(ax: Axes, y: float, name: str) -> None:
    box = FancyBboxPatch((-0.72, y - 0.14), 1.44, 0.28, boxstyle="round,pad=0.02", fc=WHITE, ec=BLUE, lw=1.6)
    ax.add_patch(box)
    ax.text(0, y, name, ha="center", va="center", fontsize=9.5, weight="bold")


def _draw_key(ax: Axes, key: Key, side: int, at: float, y: float, color: str) -> None:
    """Draw a key left (-1) or right (1) of the module at height ``y``, with an arrow."""
    ax.text(
        side * 1.25,
        at,
        _name(key),
        ha="left" if side > 0 else "right",
        va="center",
        family="monospace",
        fontsize=SMALL,
        bbox={"boxstyle": "round,pad=0.25", "fc": color, "ec": "none"},
    )
    outer, inner = (side * 1.17, at), (side * 0.77, y)
    start, end = (inner, outer) if side > 0 else (outer, inner)
    ax.annotate("", end, start, arrowprops=arrow(GREY))


@two_widths
def pole_embeddings(pictures: Tensor, pooled: Tensor, flat: Tensor) -> Figure:
    """Draw two pictures, and the embedding of the second against that of the first, entry by entry.

    Args:
        pictures: ``[2, 1, height, width]``, with a bar on the left and on the right.
        pooled: their embeddings by a network that averages over the picture, ``[2, features]``.
        flat: their embeddings by a network that flattens it, ``[2, features]``.
    """
    with style():
        fig, axes = panels(4, 2.3, 1.9, columns=2)
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


@two_widths
def value_starts(true: Tensor, curves: Mapping[str, Tensor]) -> Figure:
    """Draw learned and true values, ``[steps]`` each, against the steps left in the episode."""
    with style():
        fig, ax = plt.subplots()
        for (label, values), color in zip(curves.items(), (ORANGE, GREEN), strict=False):
            ax.plot(range(1, len(values) + 1), values, color=color, lw=2, label=label)
        ax.plot(range(1, len(true) + 1), true, color=BLACK, lw=1.2, ls="--", label="true value")
        ax.set(xlabel="steps left before the fall", ylabel="value", ylim=(-0.05, 1.1))
        ax.legend(loc="lower right")
    return fig


@two_widths
def epsilon_schedules(frames: Sequence[int], curves: Mapping[str, Sequence[float]]) -> Figure:
    """Draw the share of random actions over environment steps, a line for each schedule."""
    with style():
        fig, ax = plt.subplots()
        for (label, values), line in zip(curves.items(), ("-", "-", ":"), strict=False):
            ax.plot(frames, values, line, lw=2, label=label)
        ax.set(xlabel="environment steps", ylabel="epsilon", ylim=(0, 1.05))
        ax.xaxis.set_major_formatter("{x:,.0f}")
        legend_beside(ax)
    return fig
