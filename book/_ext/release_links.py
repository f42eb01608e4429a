"""Launch buttons open a chapter at the release that its install cell installs, not at the newest commit."""

from __future__ import annotations

import tomllib
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx


def tag(source: Path) -> str:
    """Return the tag of the release in ``pyproject.toml`` beside the book's folder."""
    with (source.parent / "pyproject.toml").open("rb") as file:
        return f"v{tomllib.load(file)['project']['version']}"


def pin(app: Sphinx, page: str, template: str, context: dict, doctree: nodes.document | None) -> None:
    """Rewrite the addresses of the launch buttons; pages that are no notebooks get no buttons."""
    buttons = context.get("header_buttons", [])
    branch = app.config.html_theme_options["repository_branch"]
    for group in [button for button in buttons if button.get("label") == "launch-buttons"]:
        if Path(app.env.doc2path(page)).suffix != ".ipynb":
            buttons.remove(group)
            continue
        for link in group["buttons"]:
            link["url"] = link["url"].replace(f"/{branch}", f"/{tag(Path(app.srcdir))}", 1)


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect after the theme, which makes the buttons."""
    app.connect("html-page-context", pin, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
