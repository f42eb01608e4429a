"""Small accessibility fixes to the HTML of the theme and its extensions."""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from widgets import add_static_files

# Inline code, and a word of it.
INLINE = re.compile(r'<code class="([^"]*)">((?:<span class="pre">[^<]*</span>\s*)+)</code>')
CODE = re.compile(r'(?<=<span class="pre">)[^<]+(?=</span>)')
# The places inside a word where a line may break, and the length up to which code stays on one line.
JOINT = re.compile(r"(?<=[^\W\d_][._])(?=[^\W\d_])")
SHORT = 16
TAG = re.compile(r"<[^>]*>")
# An arrow in the sidebar that unfolds subpages, and the link to their parent page before it.
UNFOLD = re.compile(r"(<a [^>]*>([^<]*)</a><details[^>]*>\s*)<summary>")


def name_arrows(html: str) -> str:
    """Give each arrow of the sidebar an accessible name."""
    return UNFOLD.sub(r'\1<summary aria-label="Pages below \2">', html)


def drop_repeated_ids(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Remove the identifiers that sphinx-exercise repeats for every exercise and solution."""
    for section in doctree.findall(nodes.section):
        section["ids"] = [i for i in section["ids"] if i not in ("exercise-content", "solution-content")]


def unlink_bars(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Make the title of a folded solution plain text, so that a click anywhere in it opens the solution."""
    for title in doctree.findall(nodes.title):
        if "solution" in title.parent.get("classes", ()):
            for link in list(title.findall(nodes.reference)):
                link.parent.replace(link, nodes.Text(link.astext()))


def let_code_break(html: str) -> str:
    """Let a line break inside long inline code, after a dot or an underscore in a name."""

    def joint(word: re.Match[str]) -> str:
        return word[0] if len(unescape(word[0])) <= SHORT else JOINT.sub("<wbr>", word[0])

    def keep(code: re.Match[str]) -> str:
        short = len(unescape(TAG.sub("", code[2]))) <= SHORT
        return f'<code class="{code[1]} short">{code[2]}</code>' if short else code[0]

    return INLINE.sub(keep, CODE.sub(joint, html))


def fix_lists(html: str) -> str:
    """Make every child of a list a list item.

    docutils gives entries of the bibliography a deprecated ARIA role, and ``sphinx.ext.viewcode`` puts nested
    lists between items.
    """
    html = html.replace(' role="doc-biblioentry"', ' role="listitem"')
    return html.replace("</a></li>\n<ul>", "</a><ul>").replace("</ul><li>", "</ul></li><li>")


def repair_page(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: object) -> None:
    """Fix the lists and the inline code of a page, and the arrows of its sidebar."""
    context["body"] = let_code_break(fix_lists(context.get("body", "")))
    write = context["generate_toctree_html"]
    context["generate_toctree_html"] = lambda *args, **options: name_arrows(str(write(*args, **options)))


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the extension."""
    add_static_files(app, Path(__file__).parent)
    app.connect("doctree-resolved", drop_repeated_ids)
    app.connect("doctree-resolved", unlink_bars, priority=900)  # after the exercises' numbers
    app.connect("html-page-context", repair_page, priority=900)  # after the theme
    return {"parallel_read_safe": True, "parallel_write_safe": True}
