"""Link names in code cells and in docstrings to the pages that document them.

``sphinx_codeautolink`` finds the names, and the inventories in ``book/_inventories`` list the pages of torch,
torchrl, tensordict and gymnasium (plain text for intersphinx, so that the site builds offline). This module
maps names to their documented names, since a library may define a class elsewhere than it documents it, and
keeps one link per name in a cell, none on variables.
"""

from __future__ import annotations

import inspect
from importlib import import_module
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.environment import BuildEnvironment


def listed(inventory: Path) -> list[str]:
    """Return the names in an inventory file."""
    lines = inventory.read_text(encoding="utf-8").splitlines()
    return [line.split()[0] for line in lines if line and not line.startswith("#")]


def find(name: str) -> object:
    """Import the object with a dotted name.

    Raises:
        AttributeError: if the module has no such attribute.
        ImportError: if the first part is not a module.
    """
    module, _, rest = name.partition(".")
    found = import_module(module)
    for part in rest.split("."):
        module = f"{module}.{part}"
        if not hasattr(found, part):
            import_module(module)  # a submodule not imported yet
        found = getattr(found, part)
    return found


def definitions(names: list[str]) -> dict[str, str]:
    """Map the name under which each object is defined to its documented name."""
    places = {}
    for name in names:
        thing = inspect.unwrap(find(name))
        place = f"{thing.__module__}.{thing.__qualname__}"
        if place != name:
            places[place] = name
    return places


def prepare(app: Sphinx, config: Config) -> None:
    """Pass the map of documented names to sphinx_codeautolink."""
    files = sorted((Path(app.srcdir) / "_inventories").glob("*.txt"))
    names = [name for file in files for name in listed(file)]
    config.codeautolink_inventory_map = definitions(names)


def prune(app: Sphinx, env: BuildEnvironment) -> None:
    """Keep the first link on each name in a cell, and none on variables."""
    for transforms in getattr(env, "sphinx_codeautolink_transforms", {}).values():
        for transform in transforms:
            kept = {}
            for name in transform.names:
                if name.code_str.split(".")[-1] == name.resolved_location.split(".")[-1]:
                    kept.setdefault(name.resolved_location, name)
            transform.names = list(kept.values())


def rename(app: Sphinx, env: BuildEnvironment, node: nodes.Element, contnode: nodes.Element) -> None:
    """Replace a docstring's type by its documented name, for intersphinx."""
    target = node.get("reftarget")
    node["reftarget"] = app.config.codeautolink_inventory_map.get(target, target)


def link_public_name(
    app: Sphinx, env: BuildEnvironment, node: nodes.Element, contnode: nodes.Element
) -> nodes.Element | None:
    """Link a public name of the package, such as ``recdqn.train``, to where the reference has it.

    That is under the module of its definition, or under a package that shows it as its own.
    """
    target, module = node.get("reftarget", ""), node.get("py:module", "")
    domain, page, kind = env.get_domain("py"), node["refdoc"], node["reftype"]
    for name in (target, f"{module}.{target}"):
        if name.startswith("recdqn."):
            try:
                found = find(name)
                place, inside = found.__module__, found.__qualname__
            except (AttributeError, ImportError):
                continue
            while place:
                link = domain.resolve_xref(env, page, app.builder, kind, f"{place}.{inside}", node, contnode)
                if link is not None:
                    return link
                place = place.rpartition(".")[0]
    return None


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect to the build."""
    app.connect("config-inited", prepare)
    app.connect("env-updated", prune, priority=600)  # after sphinx_codeautolink
    app.connect("missing-reference", rename, priority=400)  # before intersphinx
    app.connect("missing-reference", link_public_name)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
