"""Formulas as MathML, converted when the book is built: browsers render them without a script.

The site serves a subset of the font STIX Two Math for them.
"""

from __future__ import annotations

import re
from html import escape
from pathlib import Path

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.util.math import get_node_equation_number
from sphinx.writers.html5 import HTML5Translator
from widgets import add_static_files

# A dot or a hat over a letter; without the attribute a browser places it like the limit of a sum.
ACCENT = re.compile(r"<mover>(?=<m[ion]>[^<]*</m[ion]><mo>&#x0*(?:2D9|A8|5E|AF|7E|2192);)", re.IGNORECASE)


def mathml(latex: str, display: str = "inline") -> str:
    """Return a formula as a ``math`` element whose ``alttext`` is the LaTeX source."""
    drawn = ACCENT.sub('<mover accent="true">', convert(latex, display=display))
    return drawn.replace("<math ", f'<math alttext="{escape(latex, quote=True)}" ', 1)


def visit_inline(self: HTML5Translator, node: nodes.math) -> None:
    """Write an inline formula."""
    self.body.append(f'<span class="math">{mathml(node.astext())}</span>')
    raise nodes.SkipNode


def visit_block(self: HTML5Translator, node: nodes.math_block) -> None:
    """Write a displayed formula, with its number if it has one; a wide formula scrolls."""
    self.body.append(self.starttag(node, "div", CLASS="math", tabindex="0"))
    if node["number"]:
        self.body.append(f'<span class="eqno">({get_node_equation_number(self, node)})</span>')
    self.body.append(mathml(node.astext(), "block") + "</div>\n")
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the extension."""
    add_static_files(app, Path(__file__).parent)
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
