"""Small repairs to what the theme and its extensions write, for those who read by keyboard or by ear."""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

# The sidebar's arrow that unfolds the pages below another; the link before it names that page.
UNFOLD = re.compile(r"(<a [^>]*>([^<]*)</a><details[^>]*>\s*)<summary>")

# The theme makes boxes that scroll focusable, but those that are folded away then have no size yet. It looks
# again when the window changes.
LOOK_AGAIN = """for (const what of ["toggle", "click"])
  document.addEventListener(what, ({target}) => {
    if (what === "toggle" || target.closest(".toggle")) dispatchEvent(new Event("resize"));
  }, true);"""


def name_arrows(html: str) -> str:
    """Say in the sidebar what each arrow unfolds: an icon alone has no name."""
    return UNFOLD.sub(r'\1<summary aria-label="Pages below \2">', html)


def drop_repeated_ids(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Take away the identifiers that sphinx-exercise gives to every exercise and every solution of a page."""
    for section in doctree.findall(nodes.section):
        section["ids"] = [i for i in section["ids"] if i not in ("exercise-content", "solution-content")]


def part_link_from_words(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Move the space behind "Solution to" out of the link, which would underline it."""
    for title in doctree.findall(nodes.title):
        for link in title.findall(nodes.reference):
            text = next(link.findall(nodes.Text), None)
            if text and text.startswith(" "):
                text.parent.replace(text, nodes.Text(text.lstrip()))
                link.parent.insert(link.parent.index(link), nodes.Text(" "))


def right_lists(html: str) -> str:
    """Call the entries of the bibliography what their list must hold, and put a list below its own entry.

    docutils gives them a role that ARIA has given up; ``sphinx.ext.viewcode`` puts lists between entries.
    """
    html = html.replace(' role="doc-biblioentry"', ' role="listitem"')
    return html.replace("</a></li>\n<ul>", "</a><ul>").replace("</ul><li>", "</ul></li><li>")


def repair_page(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: object) -> None:
    """Mend the lists of a page, and wrap the theme's function that writes the sidebar."""
    context["body"] = right_lists(context.get("body", ""))
    write = context["generate_toctree_html"]
    context["generate_toctree_html"] = lambda *args, **options: name_arrows(str(write(*args, **options)))


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the extension."""
    app.add_js_file(None, body=LOOK_AGAIN)
    app.connect("doctree-resolved", drop_repeated_ids)
    app.connect("doctree-resolved", part_link_from_words)
    app.connect("html-page-context", repair_page, priority=900)  # after the theme has put it there
    return {"parallel_read_safe": True, "parallel_write_safe": True}
