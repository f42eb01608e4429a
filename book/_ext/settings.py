"""Reference pages of settings and classes: what a setting may be, and what a class is made with.

Below each field of a configuration stand its default and its range, as ``recdqn.config`` checks them; they
say more than a type. A class shows the arguments of its own ``__init__``, not the ``*args`` of one above it.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from typing import Any, get_type_hints

from sphinx.application import Sphinx
from sphinx.util.inspect import stringify_signature

from recdqn import config

ATTRIBUTE = re.compile(r"\.\. attribute:: (.+)")  # as napoleon writes one line below "Attributes:"


def limits(part: type, name: str) -> str:
    """Return a field's default and what it may be, in words; empty for a part that has fields of its own."""
    field = next(field for field in dataclasses.fields(part) if field.name == name)
    if field.default is dataclasses.MISSING:
        return ""
    number = type(field.default) in (int, float)
    default = f"{field.default:,}" if number else repr(field.default)
    hint = get_type_hints(part)[name]
    expected = config._wanted(hint, field.metadata).removeprefix("choose ")
    return f"Default ``{default}``; {expected}."


def with_limits(part: type, lines: list[str]) -> list[str]:
    """Return a configuration's docstring with limits in the place of types, and an entry for each field."""
    out: list[str] = []
    waiting: list[str] = []  # the limits of the fields whose text is being copied
    for line in lines:
        if match := ATTRIBUTE.fullmatch(line):
            names = match[1].split(", ")
            said = {name: text for name in names if (text := limits(part, name))}
            texts = [f"``{name}``: {text}" for name, text in said.items()]
            if len(set(said.values())) == 1:
                texts = list(said.values())[:1]
            out += [*waiting, f".. attribute:: {names[0]}", *(f"               {name}" for name in names[1:])]
            waiting = [line for text in texts for line in (f"   {text}", "")]
        elif not line.startswith("   :type:"):
            out.append(line)
    return [*out, "", *waiting]


def add_limits(app: Sphinx, what: str, name: str, part: Any, options: Any, lines: list[str]) -> None:
    """Change the docstring of a configuration, after napoleon has read it."""
    if what == "class" and config._Checked in part.__mro__:
        lines[:] = with_limits(part, lines)


def own_signature(
    app: Sphinx, what: str, name: str, part: Any, options: Any, signature: str | None, returns: str | None
) -> tuple[str, None] | None:
    """Return what a class is made with where autodoc found ``*args`` in a class above it; else leave it."""
    if what not in ("class", "exception") or not (signature or "").startswith("(*args"):
        return None
    if config._Checked in part.__mro__ or "__init__" not in vars(part):
        return "", None  # a configuration's fields stand below
    own = inspect.signature(part.__init__)
    parameters = [parameter for name, parameter in own.parameters.items() if name != "self"]
    return stringify_signature(own.replace(parameters=parameters), show_annotation=False), None


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the extension."""
    app.connect("autodoc-process-docstring", add_limits, priority=900)  # after napoleon
    app.connect("autodoc-process-signature", own_signature)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
