"""Field types of the settings, and frozen dataclasses of them that pydantic checks.

A value that cannot be used raises a :class:`~recdqn.errors.ConfigError`. Its message is one line, which names
every wrong setting, its value and what was expected.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Annotated, Any, TypeVar, dataclass_transform, get_type_hints

from pydantic import BeforeValidator, ConfigDict, Field, Strict, TypeAdapter, ValidationError, field_validator
from pydantic.dataclasses import dataclass

from recdqn.errors import ConfigError, UserError, resolve, show, suggest
from recdqn.rules import misfits

T = TypeVar("T")


def _python(value: Any) -> Any:
    """Convert a number or an array of NumPy or PyTorch."""
    return value.tolist() if hasattr(value, "tolist") else value


def _tuple(value: Any) -> Any:
    """Convert a list, an array or a single number."""
    value = _python(value)
    if isinstance(value, (int, float)):
        return (value,)
    return tuple(map(_python, value)) if isinstance(value, (list, tuple)) else value


def name_of(value: Any) -> Any:
    """Convert a function to ``"module:function"``, which can be saved, and imported by another process."""
    if not callable(value):
        return value
    name = f"{getattr(value, '__module__', None)}:{getattr(value, '__qualname__', None)}"
    try:
        found = resolve(name)
    except UserError:
        found = None
    if found is not value:
        raise ValueError("a function that can be imported by its name: put it at the top level of a module")
    return name


Bool = Annotated[bool, Strict()]
Int = Annotated[int, Strict()]
Float = Annotated[float, Strict()]
Text = Annotated[str, Strict(), Field(min_length=1, max_length=100, pattern=r"^[^\p{C}\p{Zl}\p{Zp}]*$")]
Name = Annotated[Text, BeforeValidator(name_of)]
Share = Annotated[Float, Field(ge=0, le=1)]
Scale = Annotated[Float, Field(ge=-1_000_000, le=1_000_000)]
Count = Annotated[Int, Field(ge=1, le=10_000)]
Units = Annotated[Int, Field(ge=1, le=2_048)]
Frames = Annotated[Int, Field(ge=1, le=10**12)]  # environment steps: years of them
Entries = Annotated[tuple[T, ...], Strict(), Field(min_length=1, max_length=4_096), BeforeValidator(_tuple)]
Layers = Annotated[tuple[T, ...], Strict(), Field(min_length=1, max_length=8), BeforeValidator(_tuple)]


class Part:
    """Base class of all settings."""

    @field_validator("*", mode="before")
    @classmethod
    def _convert(cls, value: Any) -> Any:
        return _python(value)

    @classmethod
    def complete(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Add settings whose defaults depend on those given."""
        return values


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(dataclasses.field,))
def settings(cls: type[T]) -> type[T]:
    """Make a frozen dataclass whose values pydantic checks, alone and by the rules between them."""
    config = ConfigDict(extra="forbid", validate_default=True)
    part: Any = dataclass(cls, frozen=True, kw_only=True, config=config)
    validate = part.__init__

    @functools.wraps(validate)
    def __init__(self: T, /, **values: Any) -> None:
        wrong = {}
        values = part.complete(values)
        try:
            validate(self, **values)
        except ValidationError as error:
            wrong = _problems(part, error)
            for details in error.errors(include_url=False):
                values = _without(values, [str(key) for key in details["loc"]])
            validate(self, **values)  # the rest, to check it by the rules
        known = {
            name: value
            for name, value in dotted(self).items()
            if wrong.keys().isdisjoint((name, name.partition(".")[0]))
        }
        broken = misfits(known)
        if wrong or not all(rule.training for rule in broken):
            raise ConfigError(" ".join("; ".join([*wrong.values(), *broken.values()]).split()))

    part.__init__ = __init__
    return part


def _prefix(part: type) -> str:
    name = part.__name__.removesuffix("Config").lower()
    return f"{name}." if name else ""


def _without(values: dict[Any, Any], path: list[str]) -> dict[Any, Any]:
    """Return ``values`` without the setting that ``path`` leads to or into."""
    inside = values.get(path[0])
    if len(path) > 1 and isinstance(inside, dict):
        return values | {path[0]: _without(inside, path[1:])}
    return {name: value for name, value in values.items() if str(name) != path[0]}


def dotted(cfg: Any) -> dict[str, Any]:
    """Return the values of all settings by dotted name."""
    cls: type = type(cfg)
    own = {f"{_prefix(cls)}{name}": value for name, value in vars(cfg).items() if name not in parts(cls)}
    for name in parts(cls):
        own |= dotted(getattr(cfg, name))
    return own


@functools.cache
def schemas(part: type) -> dict[str, dict[str, Any]]:
    """Return the JSON schema of each setting of a class: its type, default and range."""
    return TypeAdapter(part).json_schema()["properties"]


def expected(schema: dict[str, Any]) -> str:
    """Say in words which values a setting may have.

    Example:
        >>> expected({"type": "integer", "minimum": 1, "maximum": 100_000})
        'a whole number from 1 to 100,000'
    """
    match schema:
        case {"enum": values}:
            return f"one of {', '.join(map(repr, values))}"
        case {"type": "array", "items": items, "minItems": least, "maxItems": most}:
            return f"{least} to {most:,} entries, each {expected(items)}"
        case {"type": "string", "minLength": least, "maxLength": most}:
            return f"printable text of {least} to {most} characters"
        case {"type": "integer" | "number" as kind, "minimum": low, "maximum": high}:
            low, high = (f"{n:,}" if isinstance(n, int) else f"{n:g}" for n in (low, high))
            step = f", a multiple of {schema['multipleOf']}" if "multipleOf" in schema else ""
            return f"a {'whole ' if kind == 'integer' else ''}number from {low} to {high}{step}"
        case {"type": "boolean"}:
            return "True or False"
    raise NotImplementedError(f"there are no words for {schema}")


@functools.cache
def parts(cls: type) -> dict[str, type]:
    """Return the fields of a class that have settings of their own, with their classes."""
    hints = get_type_hints(cls)
    return {name: hint for name, hint in hints.items() if isinstance(hint, type) and issubclass(hint, Part)}


def _problems(cls: type, error: ValidationError) -> dict[str, str]:
    """Describe everything that pydantic refused, by dotted name."""
    lines: dict[str, str] = {}  # one for each setting: a long tuple may have many wrong entries
    for details in error.errors(include_url=False):
        part, loc = cls, [str(key) for key in details["loc"]]
        if len(loc) > 1 and loc[0] in parts(cls):
            part = parts(cls)[loc.pop(0)]
        (name, *index), prefix, names = loc, _prefix(part), schemas(part)
        value = f"{prefix}{name}{f'[{index[0]}]' if index else ''}={show(details['input'])}"
        match details["type"]:
            case "unexpected_keyword_argument" | "invalid_key":
                problem = f"there is no such setting; {suggest(name, names, prefix)}"
            case "value_error":
                problem = f"expected {details['ctx']['error']}"
            case "dataclass_type":
                problem = f"expected a dictionary or an instance of {details['ctx']['class_name']}"
            case _:
                problem = f"expected {expected(names[name]['items'] if index else names[name])}"
        lines.setdefault(f"{prefix}{name}", f"{value}: {problem}")
    return lines
