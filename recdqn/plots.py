"""Every figure of the book (all chapters): one style, colours that the colour-blind can tell apart, white ground."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import matplotlib.pyplot as plt

# Okabe and Ito's palette: distinguishable with every common form of colour blindness.
BLUE, ORANGE, GREEN, RED, SKY, PURPLE, GREY = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#777777",
)  # fmt: skip

STYLE = {
    "figure.figsize": (7.5, 3.2),
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "figure.constrained_layout.use": True,
    "figure.dpi": 110,
    "axes.prop_cycle": plt.cycler(color=[BLUE, ORANGE, GREEN, RED, SKY, PURPLE, GREY]),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": "medium",
    "font.size": 10,
    "legend.frameon": False,
}


@contextlib.contextmanager
def style() -> Iterator[None]:
    """Draw in the book's style: ``with style(): fig, ax = plt.subplots()``."""
    with plt.rc_context(STYLE):
        yield
