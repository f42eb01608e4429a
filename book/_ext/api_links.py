"""Link names in code cells and in docstrings to the pages that document them.

``sphinx_codeautolink`` finds the names, ``book/_inventories`` says where torch, torchrl, tensordict and gymnasium
document theirs (plain text that intersphinx reads: the site is built without the network). What is missing
between the two is done here: a library documents a class under one name and defines it under another, and a
link is only of use on the name itself, not on every variable that holds such an object.
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
    """Import what a dotted name stands for.

    Raises:
        AttributeError: if the module has no such thing.
        ImportError: if not even the first part is a module.
    """
    module, _, rest = name.partition(".")
    found = import_module(module)
    for part in rest.split("."):
        module = f"{module}.{part}"
        if not hasattr(found, part):
            import_module(module)  # a submodule that nobody imported yet
        found = getattr(found, part)
    return found


def definitions(names: list[str]) -> dict[str, str]:
    """Map the place where each name is defined to the name under which it is documented."""
    places = {}
    for name in names:
        thing = inspect.unwrap(find(name))
        place = f"{thing.__module__}.{thing.__qualname__}"
        if place != name:
            places[place] = name
    return places


def prepare(app: Sphinx, config: Config) -> None:
    """Tell the library that finds names in code what a definition is documented as."""
    names = [name for file in sorted((Path(app.srcdir) / "_inventories").glob("*.txt")) for name in listed(file)]
    config.codeautolink_inventory_map = definitions(names)


def prune(app: Sphinx, env: BuildEnvironment) -> None:
    """Keep the first link on each name in a cell; drop those on variables that hold such an object."""
    for transforms in getattr(env, "sphinx_codeautolink_transforms", {}).values():
        for transform in transforms:
            kept = {}
            for name in transform.names:
                if name.code_str.split(".")[-1] == name.resolved_location.split(".")[-1]:
                    kept.setdefault(name.resolved_location, name)
            transform.names = list(kept.values())


def rename(app: Sphinx, env: BuildEnvironment, node: nodes.Element, contnode: nodes.Element) -> None:
    """Look a type of a docstring up under its documented name; intersphinx, which comes next, does the rest."""
    target = node.get("reftarget")
    node["reftarget"] = app.config.codeautolink_inventory_map.get(target, target)


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect to the build."""
    app.connect("config-inited", prepare)
    app.connect("env-updated", prune, priority=600)  # after sphinx_codeautolink
    app.connect("missing-reference", rename, priority=400)  # before intersphinx
    return {"parallel_read_safe": True, "parallel_write_safe": True}
