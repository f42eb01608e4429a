"""Facts computed when the book is built: versions, citation, reading and running times.

The directive ``{versions}`` makes a table of the installed versions, and ``{citation}`` a reference and a
BibTeX entry from ``CITATION.cff``. Each longer page shows its reading time below the title and, if it has
code cells, how long they ran.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

import yaml
from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from widgets import add_static_files

PACKAGES = ("recdqn", "torch", "torchrl", "tensordict", "gymnasium", "numpy", "jupyter-book")
WORDS_PER_MINUTE = 200  # prose; explanations take longer than a novel
LINES_PER_MINUTE = 30  # code
# Classes of what a cell prints, of what is folded (solutions, reasons of answers, code), and of hidden parts.
UNCOUNTED = {"cell_output", "dropdown", "quiz-why", "tag_hide-input", "toctree-wrapper", "unread"}
SHORTEST = 5  # minutes; shorter pages show no reading time


def commit(folder: Path) -> str:
    """Return the abbreviated commit checked out in a folder, or an empty string if it is unknown."""
    found = subprocess.run(["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True)
    return (found.stdout.strip() or os.environ.get("GITHUB_SHA", ""))[:12]


def facts(folder: Path) -> Iterable[tuple[str, str]]:
    """Yield name and version of everything that produced the book in a folder."""
    yield "Python", platform.python_version()
    for package in PACKAGES:
        yield package, version(package)
    yield "profile", f"`{os.environ.get('RECDQN_PROFILE', 'book')}`"
    yield "system", f"{platform.system()}, {platform.machine()}"
    if at := commit(folder):
        yield "commit", f"`{at}`"


def citation(about: dict, *, published: bool) -> tuple[str, str]:
    """Return a reference and a BibTeX entry for the contents of a ``CITATION.cff``.

    They hold the repository's address only if it is ``published``.
    """
    address = about["repository-code"] if published else ""
    authors = [
        author.get("name") or f"{author['given-names']} {author['family-names']}"
        for author in about["authors"]
    ]
    year = str(about.get("date-released", ""))[:4]
    fields = {
        "author": " and ".join(f"{{{name}}}" for name in authors),
        "title": f"{{{about['title']}}}",
        "year": year,
        "version": str(about["version"]),
        "url": address,
    }
    lines = [f"  {name} = {{{value}}}," for name, value in fields.items() if value]
    when = f" ({year})" if year else ""
    text = f"{', '.join(authors)}{when}. *{about['title']}*. Version {about['version']}."
    text += f" <{address}>" if address else ""
    return text, "\n".join(["@software{recdqn,", *lines, "}"])


class Computed(SphinxDirective):
    """A directive that generates Markdown when the page is built."""

    def markdown(self) -> list[str]:
        """Return the lines of Markdown."""
        raise NotImplementedError

    def run(self) -> list[nodes.Node]:
        """Parse them in place."""
        box = nodes.container()
        self.state.nested_parse(StringList(self.markdown(), self.env.docname), self.content_offset, box)
        return box.children


class Versions(Computed):
    """``{versions}``: a table of the installed versions."""

    def markdown(self) -> list[str]:
        """Return the table."""
        rows = [f"| {name} | {value} |" for name, value in facts(Path(self.env.srcdir))]
        return ["| name | version |", "|---|---|", *rows]


class Citation(Computed):
    """``{citation}``: how to cite the book, from ``CITATION.cff`` beside the book's folder."""

    def markdown(self) -> list[str]:
        """Return the reference and the BibTeX entry."""
        file = Path(self.env.srcdir).parent / "CITATION.cff"
        self.env.note_dependency(str(file))
        text, entry = citation(
            yaml.safe_load(file.read_text(encoding="utf-8")), published=self.config.published
        )
        return [text, "", "```bibtex", *entry.splitlines(), "```"]


def minutes_to_read(document: nodes.document) -> int:
    """Estimate the time to read the prose and the code of a page, in minutes."""
    words, lines = 0, 0
    for node in document.findall(nodes.Text):
        parents = set()
        at = node.parent
        while at is not None:
            parents.update(at.get("classes", ()) if isinstance(at, nodes.Element) else ())
            if isinstance(at, nodes.literal_block):
                parents.add("literal-block")
            elif isinstance(at, nodes.raw | nodes.Invisible):
                parents.add("unread")
            at = at.parent
        if parents & UNCOUNTED:
            continue
        if "literal-block" in parents:
            lines += len(node.splitlines())
        else:
            words += len(re.findall(r"\w+", node))
    return round(words / WORDS_PER_MINUTE + lines / LINES_PER_MINUTE)


def in_words(seconds: float) -> str:
    """Return a time in words."""
    return f"{seconds:.0f} seconds" if seconds < 90 else f"{seconds / 60:.0f} minutes"


def add_times(app: Sphinx, page: str, template: str, context: dict, document: nodes.document | None) -> None:
    """Show the reading time, and how long the cells ran, below the title."""
    if document is None or page.startswith("reference/") or (minutes := minutes_to_read(document)) < SHORTEST:
        return
    text = f"About {minutes} minutes to read."
    run = app.env.nb_metadata.get(page, {}).get("exec_data")
    if run and run["runtime"]:
        text += f" Running its cells takes about {in_words(run['runtime'])}."
    context["body"] = context["body"].replace("</h1>", f'</h1>\n<p class="page-times">{text}</p>', 1)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directives and the line below the titles."""
    add_static_files(app, Path(__file__).parent)
    app.add_directive("versions", Versions)
    app.add_directive("citation", Citation)
    app.connect("html-page-context", add_times, priority=900)  # after the pages' descriptions
    return {"parallel_read_safe": True, "parallel_write_safe": True}
