"""Widgets of the pages: HTML from a Jinja template, with style and script in files beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

from docutils import nodes
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from sphinx.util.fileutil import copy_asset_file

STATIC = (".css", ".js", ".woff2")
SCRIPTS = Path(__file__).parent / "scripts"  # of several widgets


def decimal(value: float, digits: int = 2) -> str:
    """Format a number with a true minus sign."""
    return f"{value:.{digits}f}".replace("-", "−")


def render(folder: Path, **values: Any) -> str:
    """Fill in the Jinja template ``NAME.html`` of a folder ``NAME``.

    Values are escaped. ``source("x.js")`` inserts another file of the folder as it is.
    """
    jinja = Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    jinja.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    jinja.filters["decimal"] = decimal
    jinja.globals["source"] = lambda name: Markup((folder / name).read_text(encoding="utf-8"))
    return jinja.get_template(f"{folder.name}.html").render(values)


def add_static_files(app: Sphinx, folder: Path) -> None:
    """Let every page load the style sheets and scripts of a folder."""
    files = sorted(file for file in folder.iterdir() if file.suffix in STATIC)

    def copy(app: Sphinx) -> None:
        if app.builder.format == "html":
            (static := Path(app.outdir, "_static")).mkdir(parents=True, exist_ok=True)
            for file in files:
                copy_asset_file(file, static)

    app.connect("builder-inited", copy)
    for file in files:
        if file.suffix == ".css":
            app.add_css_file(file.name)
        elif file.suffix == ".js":
            app.add_js_file(file.name, loading_method="defer")


class Widget(SphinxDirective):
    """A directive without options that shows a recorded JSON file.

    Attributes:
        folder: of its template, style and script.
        record: the file.
        script: in ``SCRIPTS``, inserted once into a page, before the first widget that needs it.
    """

    folder: ClassVar[Path]
    record: ClassVar[Path]
    script: ClassVar[str | None] = None

    def html(self, record: dict[str, Any]) -> str:
        """Return the HTML for the contents of the recorded file."""
        raise NotImplementedError

    def run(self) -> list[nodes.Node]:
        """Insert the HTML into the page, and build the page again when a file changes."""
        for file in (self.record, *self.folder.iterdir(), *SCRIPTS.iterdir()):
            self.env.note_dependency(str(file))
        html = self.html(json.loads(self.record.read_text(encoding="utf-8")))
        inserted: set[str] = self.env.temp_data.setdefault("scripts of widgets", set())
        if self.script is not None and self.script not in inserted:
            inserted.add(self.script)
            html = f"<script>\n{(SCRIPTS / self.script).read_text(encoding='utf-8')}</script>\n{html}"
        return [nodes.raw("", html, format="html")]


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the style that the widgets share."""
    add_static_files(app, Path(__file__).parent)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
