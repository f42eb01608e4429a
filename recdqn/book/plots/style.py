"""Colours, figure style and SVG output, in a light and a dark version."""

from __future__ import annotations

import contextlib
import functools
import io
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from cycler import cycler
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

CREATOR = "recdqn.book.plots"  # in each figure's metadata; the site recognises the book's figures by it


@contextlib.contextmanager
def style() -> Iterator[None]:
    """Apply the book's figure style inside a ``with`` block; notebooks show figures as SVG."""
    # Load the backend first. A notebook's backend turns on interactive mode, and rc_context would undo that.
    plt.draw_if_interactive()
    _show_as_svg()
    with plt.rc_context(STYLE):
        yield


@functools.cache  # only once, so that a reader can choose another format afterwards
def _show_as_svg() -> None:
    """Register SVG as a notebook's figure format; PNG stays available to other programs."""
    if "IPython" in sys.modules and (shell := sys.modules["IPython"].get_ipython()):
        shell.display_formatter.formatters["image/svg+xml"].for_type(Figure, svg)


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
