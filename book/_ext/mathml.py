"""Formulas as MathML, written when the book is built: a browser draws them itself, without a script.

The signs come from a part of STIX Two Math that the site serves.
"""

from __future__ import annotations

import re
from html import escape

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.util.math import get_node_equation_number
from sphinx.writers.html5 import HTML5Translator

# A dot or a hat belongs on its letter; without the attribute a browser puts it where a sum has its limit.
ACCENT = re.compile(r"<mover>(?=<m[ion]>[^<]*</m[ion]><mo>&#x0*(?:2D9|A8|5E|AF|7E|2192);)", re.IGNORECASE)


def mathml(latex: str, display: str = "inline") -> str:
    """Return a formula as a ``math`` element that keeps its LaTeX as an annotation of the whole."""
    drawn = ACCENT.sub('<mover accent="true">', convert(latex, display=display))
    return drawn.replace("<math ", f'<math alttext="{escape(latex, quote=True)}" ', 1)


def visit_inline(self: HTML5Translator, node: nodes.math) -> None:
    """Write a formula in a line."""
    self.body.append(f'<span class="math">{mathml(node.astext())}</span>')
    raise nodes.SkipNode


def visit_block(self: HTML5Translator, node: nodes.math_block) -> None:
    """Write a formula of its own, and its number if it has one; a wide one scrolls in its box."""
    self.body.append(self.starttag(node, "div", CLASS="math", tabindex="0"))
    if node["number"]:
        self.body.append(f'<span class="eqno">({get_node_equation_number(self, node)})</span>')
    self.body.append(mathml(node.astext(), "block") + "</div>\n")
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the extension."""
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
