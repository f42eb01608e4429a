"""Colours, figure style and SVG output: wide and narrow, light and dark."""

from __future__ import annotations

import contextlib
import functools
import io
import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any, ParamSpec
from weakref import WeakKeyDictionary

import matplotlib.pyplot as plt
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# After Okabe and Ito's palette, which is safe for the common forms of colour blindness. Some colours are
# darker than theirs, because a line on white needs a contrast of 3 to 1.
BLUE, ORANGE, GREEN, RED, SKY, PURPLE, GREY, OLIVE = (
    "#00629E", "#C48600", "#009E73", "#C23A0C", "#3A9BD5", "#C0659A", "#6E6E6E", "#3F3A00",
)  # fmt: skip
BLACK, WHITE, PALE_BLUE, PALE_ORANGE = "#000000", "#FFFFFF", "#E3F0F9", "#FCEFD5"

# The dark version of each colour; the first is the background of a dark page.
DARK = {
    WHITE: "#121212",
    BLACK: "#D8DEE4",
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

STYLE: dict[Any, Any] = {
    "figure.figsize": (7.5, 3.2),
    "figure.facecolor": WHITE,
    "savefig.facecolor": WHITE,
    "figure.constrained_layout.use": True,
    "figure.dpi": 110,
    "axes.prop_cycle": cycler(color=[BLUE, ORANGE, GREEN, RED, SKY, PURPLE, GREY]),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": "medium",
    "font.size": 10,
    "legend.frameon": False,
    "svg.hashsalt": "recdqn",  # makes the ids inside a file reproducible
}

WIDE, NARROW = 7.5, 3.4  # width of a figure on a desktop and on a phone, inches of 96 pixels
SMALL = 8.5  # size of the smallest letters, points; 11 pixels
NARROW_STYLE = {"figure.figsize": (NARROW, 2.8), "font.size": 9, "legend.fontsize": SMALL}

CREATOR = "recdqn.book.plots"  # in each figure's metadata; the site recognises the book's figures by it
OPEN, CLOSE = (
    '<defs id="narrow">',
    "</defs>\n",
)  # around a narrow version in a file with both; viewers ignore it


_is_narrow = ContextVar("_is_narrow", default=False)
_narrow_versions: WeakKeyDictionary[Figure, Figure] = WeakKeyDictionary()
P = ParamSpec("P")


def two_widths(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Decorate a function that draws a figure, so that it draws a narrow version for phones as well.

    The function is called twice. It finds out by :func:`is_narrow` which version to draw, or leaves that to
    :func:`figsize`, :func:`panels`, :func:`legend_beside` and :func:`wrap`. It returns the wide version;
    notebooks and the site get both.
    """

    @functools.wraps(draw)
    def draw_both(*args: P.args, **options: P.kwargs) -> Figure:
        token = _is_narrow.set(True)
        try:
            narrow = draw(*args, **options)
        finally:
            _is_narrow.reset(token)
        plt.close(narrow)  # or a notebook would show it
        wide = draw(*args, **options)
        _narrow_versions[wide] = narrow
        return wide

    return draw_both


def is_narrow() -> bool:
    """Whether the narrow version of a figure is being drawn."""
    return _is_narrow.get()


def figsize(height: float, narrow_height: float | None = None) -> tuple[float, float]:
    """Return the ``figsize`` for a height in inches; the narrow version is as high unless told otherwise."""
    return (NARROW, height if narrow_height is None else narrow_height) if is_narrow() else (WIDE, height)


def panels(
    count: int, height: float, narrow_height: float, columns: int = 1, most: int = 5, **options: Any
) -> tuple[Figure, list[Axes]]:
    """Make panels, at most ``most`` side by side, in rows of ``height`` inches; empty places show nothing.

    The narrow version has ``columns``, and rows of ``narrow_height``.
    """
    across = columns if is_narrow() else min(count, most)
    down = -(-count // across)
    dimensions = figsize(down * height, down * narrow_height)
    fig, axes = plt.subplots(down, across, figsize=dimensions, squeeze=False, **options)
    for ax in axes.flat[count:]:
        ax.set_axis_off()
    return fig, list(axes.flat[:count])


def legend_beside(ax: Axes, handles: Any = None, **options: Any) -> None:
    """Put the legend to the right of the axes; below them in the narrow version."""
    handles = ax.get_legend_handles_labels()[0] if handles is None else handles
    if is_narrow():
        ax.figure.legend(handles=handles, loc="outside lower left", **options)
    else:
        ax.legend(handles=handles, loc="center left", bbox_to_anchor=(1.0, 0.5), **options)


def wrap(text: str, width: int) -> str:
    """Break a text into lines of at most ``width`` characters, only in the narrow version."""
    if not is_narrow():
        return text
    return "\n".join(textwrap.fill(line, width) for line in text.splitlines())


@contextlib.contextmanager
def style() -> Iterator[None]:
    """Apply the book's figure style inside a ``with`` block; notebooks show figures as SVG."""
    # Load the backend first. A notebook's backend turns on interactive mode, and rc_context would undo that.
    plt.draw_if_interactive()
    _show_as_svg()
    with plt.rc_context(STYLE | (NARROW_STYLE if is_narrow() else {})):
        yield


@functools.cache  # only once, so that a reader can choose another format afterwards
def _show_as_svg() -> None:
    """Register SVG as a notebook's figure format; PNG stays available to other programs."""
    if "IPython" in sys.modules and (shell := sys.modules["IPython"].get_ipython()):
        shell.display_formatter.formatters["image/svg+xml"].for_type(Figure, svg_of_both)


def svg(figure: Figure, description: str | None = None) -> str:
    """Return ``figure`` as SVG text, reproducibly.

    Args:
        figure: any figure.
        description: text for the metadata.
    """
    file = io.StringIO()
    metadata = {"Creator": CREATOR, "Date": None, "Description": description}
    with style():
        figure.savefig(file, format="svg", dpi=144, metadata=metadata)  # dpi: for images inside the figure
    return file.getvalue()


def svg_of_both(figure: Figure) -> str:
    """Return ``figure`` as SVG text, with its narrow version inside if it has one; see :func:`parts`."""
    wide, narrow = svg(figure), _narrow_versions.get(figure)
    if narrow is None:
        return wide
    inner = svg(narrow)
    return f"{wide.rstrip().removesuffix('</svg>')}{OPEN}{inner[inner.index('<svg ') :]}{CLOSE}</svg>\n"


def parts(text: str) -> tuple[str, str | None]:
    """Return the wide and the narrow version of a figure from :func:`svg_of_both`."""
    wide, opening, rest = text.partition(OPEN)
    if not opening:
        return text, None
    narrow, _, end = rest.rpartition(CLOSE)
    return wide + end, narrow


def save_svg(figure: Figure, path: Path, description: str) -> None:
    """Write the output of :func:`svg` to ``path``."""
    path.write_text(svg(figure, description), encoding="utf-8")


def dark(svg: str) -> str:
    """Return the dark version of an SVG from :func:`svg`: each colour is replaced as ``DARK`` says.

    Images inside the figure, such as colour maps and frames, are left as they are.
    """

    def replace(found: re.Match[str]) -> str:
        return found[1] + DARK.get(found[2].upper(), found[2])

    # Black glyphs have no fill attribute of their own: they inherit the default of the root element.
    svg = svg.replace("<svg ", f'<svg fill="{DARK[BLACK]}" ', 1)
    return re.sub(r"\b((?:fill|stroke)(?:: |=\"))(#[0-9a-fA-F]{6})\b", replace, svg)


def arrow(color: str, bend: str = "arc3") -> dict[str, Any]:
    """Return the ``arrowprops`` of an arrow between two points."""
    return {
        "arrowstyle": "-|>",
        "color": color,
        "lw": 1.2,
        "shrinkA": 0,
        "shrinkB": 0,
        "connectionstyle": bend,
    }


def box(face: str, edge: str, pad: float = 0.5) -> dict[str, Any]:
    """Return the ``bbox`` of a text in a rounded box."""
    return {"boxstyle": f"round,pad={pad}", "facecolor": face, "edgecolor": edge}
