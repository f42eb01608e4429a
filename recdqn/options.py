"""Options of the command line: one for every setting, ``--train.updates`` for ``train.updates``."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, TypedDict

import tyro
from tyro.constructors import PrimitiveConstructorSpec

from recdqn.config import Config
from recdqn.fields import expected, parts, schemas

READ: dict[str, Callable[[str], Any]] = {
    "integer": int,
    "number": float,
    "string": str,
    "boolean": lambda text: {"true": True, "false": False}[text.lower()],
}


def _read(kind: str, text: str) -> Any:
    """Convert ``text``; where it is of another kind it stays a text, which the configuration refuses."""
    try:
        return READ[kind](text)
    except (KeyError, ValueError):
        return text


def _expand(kind: str, text: str) -> tuple[Any, ...]:
    """Convert several values, ``"1,3,5"`` or, of whole numbers, ``"0..9"``."""
    first, dots, last = text.partition("..")
    if kind == "integer" and dots and first.isdecimal() and last.isdecimal():
        return tuple(range(int(first), int(last) + 1))
    return tuple(_read(kind, one) for one in text.split(","))


def whole_number(text: str) -> int:
    """Convert a whole number."""
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"expected a whole number, and found {text!r}") from None


def one_of(*choices: str) -> Callable[[str], str]:
    """Return a function that refuses any other text."""

    def read(text: str) -> str:
        if text not in choices:
            raise ValueError(f"expected one of {', '.join(choices)}, and found {text!r}")
        return text

    return read


def argument(
    metavar: str, read: Callable[[str], Any] = str, several: bool = False
) -> PrimitiveConstructorSpec[Any]:
    """Tell tyro what the value of an option is called in the help, and how to read it."""
    return PrimitiveConstructorSpec(
        nargs="*" if several else 1,
        metavar=metavar,
        instance_from_str=lambda texts: tuple(map(read, texts)) if several else read(texts[0]),
        is_instance=lambda value: True,
        str_from_instance=texts_of,
    )


def texts_of(value: Any) -> list[str]:
    """Return what to type for a value."""
    return [str(entry) for entry in (value if isinstance(value, (list, tuple)) else [value])]


def _descriptions(part: type) -> dict[str, str]:
    """Return what the docstring of a class of settings says about each of them."""
    entries = re.findall(r"(?m)^    ([a-z][\w, ]*): (.*(?:\n {8}.*)*)", inspect.getdoc(part) or "")
    plain = [(names, re.sub(r":\w+:|`", "", " ".join(text.split()))) for names, text in entries]
    return {name: text.rstrip(".") for names, text in plain for name in names.split(", ")}


def _options(part: type, sweep: bool = False) -> Any:
    """Return a TypedDict of the settings of a class, none of them required, for tyro.

    With ``sweep``, a setting of one value takes several, and has a tuple of them.
    """
    descriptions, hints = _descriptions(part), dict[str, Any]()
    for name, schema in schemas(part).items():
        if name in parts(part):
            hints[name] = _options(parts(part)[name], sweep)
            continue
        several, kind = "items" in schema, schema.get("items", schema)["type"]
        read = partial(_expand if sweep and not several else _read, kind)
        spec = argument("VALUES" if several or sweep else "VALUE", read, several)
        text = f"{descriptions.get(name, name)}: {expected(schema)}"
        default = f"(default: {' '.join(texts_of(schema['default']))})"
        hints[name] = Annotated[object, spec, tyro.conf.arg(help=text, help_behavior_hint=default)]
    typed_dict: Any = TypedDict
    options = typed_dict(part.__name__, hints, total=False)
    options.__doc__ = (inspect.getdoc(part) or "").partition("\n")[0]
    return options


if TYPE_CHECKING:
    Settings = dict[str, Any]
    Choices = dict[str, Any]
else:
    Settings = Annotated[_options(Config), tyro.conf.arg(name="")]
    Choices = Annotated[_options(Config, sweep=True), tyro.conf.arg(name="")]


def similar(option: str, options: Iterable[str]) -> list[str]:
    """Return the options that may have been meant: ``--frames`` may be ``--train.total_frames``."""
    word = option.lstrip("-").replace("-", "_").rpartition(".")[2]
    options = list(options)
    inside = [known for known in options if word and word in known.rpartition(".")[2]]
    return inside or get_close_matches(option, options, n=1, cutoff=0.7)
