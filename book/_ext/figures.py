"""Show each figure of ``recdqn.book.plots`` in two versions: for light and for dark pages.

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

from recdqn.book.plots.style import CREATOR, dark

LEAST = 0.78  # of a figure's width: below it, its smallest letters cannot be read

# Paper is white: a dark page and its figures are printed in their light version.
PRINT_LIGHT = """{
  const {dataset} = document.documentElement;
  let theme;
  addEventListener("beforeprint", () => {
    theme = dataset.theme;
    dataset.theme = "light";
    for (const image of document.images) image.loading = "eager";
  });
  addEventListener("afterprint", () => { dataset.theme = theme; });
}"""


def visit_image(self: HTML5Translator, node: nodes.image) -> None:
    """Write a figure as two images; leave every other image to the theme."""
    path = Path(self.builder.srcdir, node["uri"])
    svg = path.read_text(encoding="utf-8") if path.suffix == ".svg" and path.is_file() else ""
    if not is_figure(svg):
        type(self).visit_image(self, node)
        return
    name = Path(self.builder.images[node["uri"]])
    folder = Path(self.builder.outdir, self.builder.imagedir)
    folder.mkdir(exist_ok=True)
    (folder / f"{name.stem}-dark.svg").write_text(dark(svg), encoding="utf-8")
    light, night = (f"{self.builder.imgpath}/{name.stem}{end}.svg" for end in ("", "-dark"))
    # The theme makes what has this class focusable while it scrolls, for readers with a keyboard.
    self.body.append(self.starttag(node, "span", "", CLASS="figure-scroll pst-scrollable-table-container"))
    if not hasattr(self, "has_figure"):  # the page's first figure is on the first screen
        self.has_figure = True
        self.body.append(preload(light, night))
    self.body.append(images(light, night, node.get("alt", ""), *size(svg)) + "</span>\n")


def depart_image(self: HTML5Translator, node: nodes.image) -> None:
    """End any image as the theme does."""
    type(self).depart_image(self, node)


def is_figure(svg: str) -> bool:
    """Whether ``svg`` was drawn by ``recdqn.book.plots``."""
    return f"<dc:title>{CREATOR}<" in svg[:2000]


def size(svg: str) -> tuple[int, int]:
    """Return the width and the height in pixels of a figure that has them in points."""
    width, height = re.search(r'<svg\b[^>]*? width="([\d.]+)pt" height="([\d.]+)pt"', svg).groups()
    return round(float(width) * 4 / 3), round(float(height) * 4 / 3)


def preload(light: str, dark: str) -> str:
    """Return two links that let a browser fetch one file before it knows the page's layout."""
    dark_system = "(prefers-color-scheme: dark)"
    return "".join(
        f'<link rel="preload" as="image" fetchpriority="high" href="{escape(source)}" media="{media}">'
        for source, media in ((light, f"not {dark_system}"), (dark, dark_system))
    )


def images(light: str, dark: str, alt: str, width: int, height: int) -> str:
    """Return the two images, each with its size, so that the text does not jump when it comes."""
    common = f'alt="{escape(alt)}" width="{width}" height="{height}" loading="lazy"'
    return "".join(
        f'<img class="{name}" src="{escape(source)}" {common} style="min-width: {LEAST * width:.0f}px">'
        for name, source in (("only-light", light), ("only-dark", dark))
    )


def setup(app: Sphinx) -> dict[str, bool]:
    """Take over how HTML pages write images, and how they are printed."""
    app.add_js_file(None, body=PRINT_LIGHT)
    app.add_node(nodes.image, override=True, html=(visit_image, depart_image))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
