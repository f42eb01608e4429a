"""Reference pages of settings, classes and commands.

Each setting shows its default and its range, as pydantic checks them, in place of its type. A class shows the
arguments of its own ``__init__``, not the ``*args`` of a class above it. A command shows the types of its
arguments, without what tyro needs to know about them. The directive ``{presets}`` makes a table of the values
of all settings in each preset.
"""

from __future__ import annotations

import inspect
import re
from typing import Any, get_type_hints

from about import Computed
from sphinx.application import Sphinx
from sphinx.util.inspect import stringify_signature

from recdqn.book.recorded import CARTPOLES
from recdqn.commands import COMMANDS
from recdqn.config import Config
from recdqn.fields import Part, dotted, expected, schemas
from recdqn.presets import PRESETS

ATTRIBUTE = re.compile(r"\.\. attribute:: (.+)")  # as napoleon writes one line below "Attributes:"


def limits(part: type, name: str) -> str:
    """Return a setting's default and range in words; empty for a part, which has settings of its own."""
    schema = schemas(part)[name]
    if "default" not in schema:
        return ""
    default = part.__dataclass_fields__[name].default
    number = type(default) in (int, float)
    return f"Default ``{f'{default:,}' if number else repr(default)}``; {expected(schema)}."


def with_limits(part: type, lines: list[str]) -> list[str]:
    """Return the docstring of a class of settings with limits in place of types."""
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


def presets_table() -> list[str]:
    """Return a Markdown table of all settings of CartPole's presets; rows that differ come first, in bold."""
    presets = {name: dotted(Config.preset(name)) for name in CARTPOLES}
    same, different = [], []
    for setting in [setting for setting in dotted(Config()) if setting != "name"]:
        values = [settings[setting] for settings in presets.values()]
        differ = any(value != values[0] for value in values)
        mark = "**" if differ else ""
        cells = " | ".join(f"{mark}{_value(value)}{mark}" for value in values)
        (different if differ else same).append(f"| `{setting}` | {cells} |")
    return [f"| setting | {' | '.join(presets)} |", "|---" * (1 + len(presets)) + "|", *different, *same]


def other_presets() -> list[str]:
    """Return a Markdown table of what the other presets change of the first one."""
    first = dotted(Config())
    rows = ["| preset | what it changes |", "|---|---|"]
    for name in PRESETS:
        if name not in CARTPOLES:
            values = dotted(Config.preset(name))
            changed = [f"`{key}` {_value(values[key])}" for key in first if values[key] != first[key]]
            rows.append(f"| `{name}` | {', '.join(changed[1:])} |")  # the first is its name
    return rows


def _value(value: Any) -> str:
    return f"{value:,}" if type(value) in (int, float) else f"`{value!r}`"


class Presets(Computed):
    """``{presets}``: the values of all settings in the presets."""

    def markdown(self) -> list[str]:
        """Return both tables."""
        return [*presets_table(), "", *other_presets()]


def add_limits(app: Sphinx, what: str, name: str, part: Any, options: Any, lines: list[str]) -> None:
    """Change the docstring of a class of settings, after napoleon has read it."""
    if what == "class" and Part in part.__mro__:
        lines[:] = with_limits(part, lines)


def own_signature(
    app: Sphinx, what: str, name: str, part: Any, options: Any, signature: str | None, returns: str | None
) -> tuple[str, None] | None:
    """Return the arguments of a class where autodoc found ``*args`` in a class above it; else leave them."""
    if what == "class" and Part in part.__mro__:
        return "", None  # the settings stand below
    if what not in ("class", "exception") or not (signature or "").startswith("(*args"):
        return None
    if "__init__" not in vars(part):
        return "", None
    own = inspect.signature(part.__init__)
    parameters = [parameter for name, parameter in own.parameters.items() if name != "self"]
    return stringify_signature(own.replace(parameters=parameters), show_annotation=False), None


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the extension."""
    for command in COMMANDS.values():
        command.__annotations__ = get_type_hints(command)
    app.add_directive("presets", Presets)
    app.connect("autodoc-process-docstring", add_limits, priority=900)  # after napoleon
    app.connect("autodoc-process-signature", own_signature)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
