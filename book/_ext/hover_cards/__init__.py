"""Hover cards: the meaning of a glossary term or of a documented name, shown where it is used.

When the site is written, each link to a term or a documented name gets ``aria-describedby``, and the page
gets the cards it needs, hidden, at its end. Screen readers announce them without a script;
``hover_cards.js`` shows them on hover and on keyboard focus. Our own names and terms come from the pages that
define them, names of other libraries from the docstrings of the installed versions.
"""

from __future__ import annotations

import inspect
import posixpath
import re
from dataclasses import dataclass
from html import escape
from pathlib import Path

from api_links import find
from bs4 import BeautifulSoup, Tag
from markupsafe import Markup
from sphinx.application import Sphinx
from sphinx.ext.intersphinx import InventoryAdapter
from widgets import add_static_files, render

FOLDER = Path(__file__).parent
LONGEST = 280  # characters of a card's text

ROLE = re.compile(r"[:~.`]*\b(?:class|func|meth|obj):`~?|`+")  # markup of a docstring
LINK = re.compile(r'<a\b(?P<before>[^>]*?)\bhref="(?P<href>[^"]+#[^"]+)"(?P<after>[^>]*)>')


@dataclass(frozen=True)
class Card:
    """The contents of a card: ``code`` says that the title is a name in code."""

    title: str
    text: str | Markup
    code: bool = False
    source: str = ""


def shorten(text: str) -> str:
    """Return the beginning of a text, whole sentences if possible."""
    text = " ".join(text.split())
    if len(text) <= LONGEST:
        return text
    sentences = text[:LONGEST].rpartition(". ")[0]
    return f"{sentences}." if sentences else text[:LONGEST].rpartition(" ")[0] + " …"


def plain(element: Tag) -> Markup:
    """Return an element's contents, with code and emphasis but without links."""
    parts = []
    for child in element.children:
        text = escape(child.get_text(), quote=False)
        tag = child.name if child.name in ("code", "em", "strong") else None
        parts.append(f"<{tag}>{text}</{tag}>" if tag else text)
    return Markup(" ".join("".join(parts).split()))


def own_cards(page: str, html: str) -> dict[str, Card]:
    """Return the cards for the terms and names that a page of this site defines, by address."""
    cards = {}
    for entry in BeautifulSoup(html, "html.parser").select("dl.glossary > dt[id], dl.py > dt[id]"):
        description = entry.find_next_sibling("dd")
        first = description and description.find("p", recursive=False)
        if not first:
            continue
        code = "sig" in entry.get("class", [])
        term = entry.find(string=True, recursive=False) or entry.get_text("", strip=True)
        cards[f"{page}#{entry['id']}"] = Card(entry["id"] if code else str(term), plain(first), code)
    return cards


def other_cards(app: Sphinx) -> dict[str, Card]:
    """Return the cards for names of other libraries, by address: the first paragraph of each docstring."""
    cards = {}
    for kind, entries in InventoryAdapter(app.env).main_inventory.items():
        for name, (project, _, address, _) in entries.items():
            paragraph = (inspect.getdoc(find(name)) or "").partition("\n\n")[0]
            source = f"{kind.removeprefix('py:')} of {project}"
            cards[address] = Card(name, shorten(ROLE.sub("", paragraph)), True, source)
    return cards


def with_cards(page: str, html: str, cards: dict[str, Card]) -> str:
    """Return a page in which every link that has a card refers to it."""
    start, end = html.find("<article"), html.find("</article>")
    if start < 0 or 'class="hover-card"' in html:
        return html
    used: dict[str, str] = {}

    def mark(link: re.Match) -> str:
        href = link["href"]
        address = href if "//" in href else posixpath.normpath(posixpath.join(posixpath.dirname(page), href))
        attributes = link["before"] + link["after"]
        own = address.startswith(f"{page}#")
        if own or address not in cards or "headerlink" in attributes or "aria-describedby" in attributes:
            return link[0]
        identifier = used.setdefault(address, f"card-{len(used) + 1}")
        attributes = re.sub(r'\s*\btitle="[^"]*"', "", attributes).rstrip()
        return f'<a{attributes} href="{href}" aria-describedby="{identifier}">'

    article = LINK.sub(mark, html[start:end])
    shown = render(FOLDER, cards={identifier: cards[address] for address, identifier in used.items()})
    return html[:start] + article + html[end:].replace("</body>", f"{shown}</body>", 1)


def write(app: Sphinx, exception: Exception | None) -> None:
    """Add the cards to every page once all links are in place."""
    if exception is not None or app.builder.format != "html":
        return
    site = Path(app.outdir)
    pages = {f"{name}.html": site / f"{name}.html" for name in sorted(app.env.found_docs)}
    cards = other_cards(app)
    for page, file in pages.items():
        cards |= own_cards(page, file.read_text(encoding="utf-8"))
    for page, file in pages.items():
        html = file.read_text(encoding="utf-8")
        if (marked := with_cards(page, html, cards)) != html:
            file.write_text(marked, encoding="utf-8")


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect to the end of the build, after sphinx_codeautolink."""
    add_static_files(app, FOLDER)
    app.connect("build-finished", write, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
