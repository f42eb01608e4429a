"""The directive ``bug-map``: the parts of a pipeline, with links to the bugs of each, and their symptoms.

It is made of the page that it is on: each section is a part, each of its subsections a bug, and a paragraph
that begins with *Symptom.* belongs to the bug. The script adds a field that filters by words.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from widgets import add_static_files, render

from recdqn.doctor import BUGS

FOLDER = Path(__file__).parent
MARK = "Symptom."


@dataclass(frozen=True)
class Entry:
    """A bug of the page.

    Attributes:
        code: its heading.
        anchor: id of its section.
        symptom: text of its symptom, without the mark.
        severity: ``"error"`` or ``"warning"``.
    """

    code: str
    anchor: str
    symptom: str
    severity: str


class Placeholder(nodes.General, nodes.Element):
    """Where the map goes, until the whole page is read."""


class BugMap(SphinxDirective):
    """``{bug-map}``, without options."""

    def run(self) -> list[nodes.Node]:
        """Mark the place."""
        for file in FOLDER.iterdir():
            self.env.note_dependency(str(file))
        return [Placeholder()]


def parts(document: nodes.document) -> dict[str, list[Entry]]:
    """Return the bugs of a page by the title of their part, in the page's order."""
    found: dict[str, list[Entry]] = {}
    for section in document.findall(nodes.section):
        code = section.next_node(nodes.title).astext()
        said = [p.astext() for p in section.children if isinstance(p, nodes.paragraph)]
        symptoms = [text.removeprefix(MARK).strip() for text in said if text.startswith(MARK)]
        if code in BUGS and symptoms:
            part = section.parent.next_node(nodes.title).astext()
            entry = Entry(code, section["ids"][0], symptoms[0], BUGS[code].severity)
            found.setdefault(part, []).append(entry)
    return found


def insert(app: Sphinx, document: nodes.document) -> None:
    """Draw the map of a page that has been read."""
    for place in list(document.findall(Placeholder)):
        place.replace_self(nodes.raw("", render(FOLDER, parts=parts(document)), format="html"))


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive and its files."""
    add_static_files(app, FOLDER)
    app.setup_extension("widgets")
    app.add_directive("bug-map", BugMap)
    app.connect("doctree-read", insert)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
