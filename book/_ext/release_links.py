"""Links to the project's address, where it has one.

Launch buttons open a chapter at the release that its install cell installs, not at the newest commit. With
``published: false`` in ``_config.yml`` no page has buttons that lead to the repository or to services that
read it, and ``{only} published`` leaves its text out.
"""

from __future__ import annotations

import tomllib
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.config import Config

NEEDS_ADDRESS = ("use_repository_button", "use_issues_button", "use_edit_page_button", "launch_buttons")


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


def drop_dead_links(app: Sphinx, config: Config) -> None:
    """Set the tag ``published``, or remove the buttons that need the project's address."""
    if config.published:
        app.tags.add("published")
    else:
        config.html_theme_options.update({option: {} for option in NEEDS_ADDRESS})


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect after the theme, which makes the buttons."""
    app.add_config_value("published", True, "env", bool)
    app.connect("config-inited", drop_dead_links)
    app.connect("html-page-context", pin, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
