"""Show each figure of ``recdqn.plots`` in two versions: as it is on light pages, recoloured on dark ones.

Both are in the page, lazily loaded; the theme hides one, and a browser does not fetch what is hidden. Where
the page is narrower than the text in a figure can bear, the figure scrolls sideways.
"""

from __future__ import annotations

import re
from html import escape
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.writers.html5 import HTML5Translator

from recdqn.plots import CREATOR, dark

LEAST = 0.78  # of a figure's width: below it, its smallest letters cannot be read


def visit_image(self: HTML5Translator, node: nodes.image) -> None:
    """Write a figure as two images; leave every other image to the theme."""
    path = Path(self.builder.srcdir, node["uri"])
    svg = path.read_text(encoding="utf-8") if path.suffix == ".svg" and path.is_file() else ""
    if not is_figure(svg):
        type(self).visit_image(self, node)
        return
    light = self.builder.images[node["uri"]]
    folder = Path(self.builder.outdir, self.builder.imagedir)
    folder.mkdir(exist_ok=True)
    night = f"{Path(light).stem}-dark.svg"
    (folder / night).write_text(dark(svg), encoding="utf-8")
    sources = (f"{self.builder.imgpath}/{name}" for name in (light, night))
    first = not hasattr(self, "has_figure")
    self.has_figure = True
    # The theme makes what has this class focusable while it scrolls, for readers with a keyboard.
    self.body.append(self.starttag(node, "span", "", CLASS="figure-scroll pst-scrollable-table-container"))
    self.body.append(images(*sources, node.get("alt", ""), *size(svg), first) + "</span>\n")


def depart_image(self: HTML5Translator, node: nodes.image) -> None:
    """End any image as the theme does."""
    type(self).depart_image(self, node)


def is_figure(svg: str) -> bool:
    """Whether ``svg`` was drawn by ``recdqn.plots``."""
    return f"<dc:title>{CREATOR}<" in svg[:2000]


def size(svg: str) -> tuple[int, int]:
    """Return the width and the height in pixels of a figure that has them in points."""
    width, height = re.search(r'<svg\b[^>]*? width="([\d.]+)pt" height="([\d.]+)pt"', svg).groups()
    return round(float(width) * 4 / 3), round(float(height) * 4 / 3)


def images(light: str, dark: str, alt: str, width: int, height: int, first: bool) -> str:
    """Return the two images, each with its size, so that the text does not jump when it comes.

    ``first`` tells the browser to hurry: the page's first figure is on the first screen.
    """
    common = f'alt="{escape(alt)}" width="{width}" height="{height}" style="min-width: {LEAST * width:.0f}px"'
    common += ' loading="lazy"' + ' fetchpriority="high"' * first
    return "".join(
        f'<img class="{name}" src="{escape(source)}" {common}>'
        for name, source in (("only-light", light), ("only-dark", dark))
    )


def setup(app: Sphinx) -> dict[str, bool]:
    """Take over how HTML pages write images."""
    app.add_node(nodes.image, override=True, html=(visit_image, depart_image))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
