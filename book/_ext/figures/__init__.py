"""Show each figure of ``recdqn.book.plots`` for light and for dark pages, in its narrow version on phones.

All are in the page, lazily loaded. The theme hides one of light and dark, and a browser does not fetch a
hidden image or one for another width. A figure without a narrow version scrolls sideways before its text
becomes too small to read.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.writers.html5 import HTML5Translator
from widgets import add_static_files, render

from recdqn.book.plots.style import CREATOR, dark, parts

FOLDER = Path(__file__).parent
SMALLEST = 0.78  # of a figure's width; below it, the smallest letters cannot be read


def visit_image(self: HTML5Translator, node: nodes.image) -> None:
    """Write a figure in its versions, and any other image as the theme does."""
    path = Path(self.builder.srcdir, node["uri"])
    svg = path.read_text(encoding="utf-8") if path.suffix == ".svg" and path.is_file() else ""
    if not is_figure(svg):
        type(self).visit_image(self, node)
        return
    name = Path(self.builder.images[node["uri"]])
    folder = Path(self.builder.outdir, self.builder.imagedir)
    folder.mkdir(exist_ok=True)
    wide_svg, narrow_svg = parts(svg)
    # Sphinx copies the original to its own name.
    wide = version(folder, f"{name.stem}-wide" if narrow_svg else name.stem, wide_svg)
    narrow = version(folder, f"{name.stem}-narrow", narrow_svg) if narrow_svg else None
    html = render(
        FOLDER,
        images=self.builder.imgpath,
        wide=wide,
        narrow=narrow,
        alt=node.get("alt", ""),
        smallest=round(SMALLEST * wide["width"]),
        first=not hasattr(self, "has_figure"),
    )
    self.has_figure = True
    # With this class the theme lets the keyboard reach a figure that scrolls.
    start = self.starttag(node, "span", "", CLASS="figure-scroll pst-scrollable-table-container")
    self.body.append(f"{start}{html}</span>\n")


def version(folder: Path, stem: str, svg: str) -> dict[str, Any]:
    """Write a figure for light and for dark pages; return the files' names, and width and height."""
    names = {"light": f"{stem}.svg", "dark": f"{stem}-dark.svg"}
    (folder / names["light"]).write_text(svg, encoding="utf-8")
    (folder / names["dark"]).write_text(dark(svg), encoding="utf-8")
    width, height = size(svg)
    return {**names, "width": width, "height": height}


def depart_image(self: HTML5Translator, node: nodes.image) -> None:
    """End any image as the theme does."""
    type(self).depart_image(self, node)


def is_figure(svg: str) -> bool:
    """Whether ``svg`` was drawn by ``recdqn.book.plots``."""
    return f"<dc:title>{CREATOR}<" in svg[:2000]


def size(svg: str) -> tuple[int, int]:
    """Return a figure's width and height in pixels; the file has them in points."""
    width, height = re.search(r'<svg\b[^>]*? width="([\d.]+)pt" height="([\d.]+)pt"', svg).groups()
    return round(float(width) * 4 / 3), round(float(height) * 4 / 3)


def setup(app: Sphinx) -> dict[str, bool]:
    """Replace the writer of images, and print the light versions."""
    add_static_files(app, FOLDER)
    app.add_node(nodes.image, override=True, html=(visit_image, depart_image))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
