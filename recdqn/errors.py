"""Errors with a one-line message, what such messages quote, and packages and functions found by name."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import reprlib
import textwrap
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tensordict import TensorDictBase

LONGEST = 300  # characters of another error's message that is quoted


class UserError(Exception):
    """Unusable input; the message is one line, and the command line exits with status 2."""


class ConfigError(UserError, ValueError):
    """An unusable setting; the message names it, what was expected, and what to try."""


class MissingAttribute(UserError, AttributeError):
    """A module exists, but does not have the attribute that a name asks for."""


class NotFinite(UserError, FloatingPointError):
    """A value that is not finite; ``batch`` contains or produced it."""

    def __init__(self, message: str, batch: TensorDictBase) -> None:
        super().__init__(message)
        self.batch = batch

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.batch)  # with its batch, from one process to another


def first_line(error: BaseException) -> str:
    r"""Return an error's type and the first line of its message, shortened to one line.

    The message of a :class:`UserError` stands alone. A first line that ends with a colon takes the next one.

    Example:
        >>> first_line(ValueError("wrong size:\n\texpected 3\n\tsee the manual"))
        'ValueError: wrong size: expected 3'
    """
    lines = [line for line in str(error).splitlines() if line.strip()]
    text = " ".join(lines[: 2 if lines and lines[0].rstrip().endswith(":") else 1])
    if not isinstance(error, UserError):
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return textwrap.shorten(text, LONGEST, placeholder=" ...")


def show(value: object) -> str:
    """Return ``repr``, shortened."""
    try:
        return reprlib.repr(value)
    except ValueError:  # Python converts no integer of more than 4,300 digits
        return "a very large number"


def suggest(name: str, known: Iterable[str], prefix: str = "") -> str:
    """Say which of the known names, with a prefix, may have been meant; or list them.

    Example:
        >>> suggest("rezume", ["train", "resume"])
        'did you mean resume?'
    """
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {prefix}{close[0]}?" if close else f"choose one of {', '.join(known)}"


def installed(package: str) -> bool:
    """Return whether a package can be imported; a folder of its name that holds no code does not count.

    Example:
        >>> installed("torch")
        True
    """
    spec = importlib.util.find_spec(package)
    return spec is not None and spec.origin is not None


def resolve(name: str) -> Any:
    """Import and return ``"module:function"`` or ``"module:Class.method"``.

    An exception other than ``ImportError`` that the module raises while it is imported passes through.

    Raises:
        MissingAttribute: if the module has no such attribute.
        UserError: if ``name`` is of another form, or the module does not exist or cannot be imported.

    Example:
        >>> resolve("math:floor")(2.5)
        2
    """
    module_name, _, path = name.partition(":")
    if not module_name or not path or module_name.startswith("."):
        raise UserError(f"{name!r}: expected 'module:function'")
    try:
        found = importlib.import_module(module_name)
    except ImportError as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing and f"{module_name}.".startswith(f"{missing}."):
            advice = ": name a file without its .py" if module_name.endswith(".py") else ""
            raise UserError(f"there is no module {module_name!r} here{advice}") from error
        raise UserError(f"the module {module_name!r} cannot be imported: {first_line(error)}") from error
    for attribute in path.split("."):
        try:
            found = getattr(found, attribute)
        except AttributeError as error:
            raise MissingAttribute(f"the module {module_name!r} has no {path!r}") from error
    return found
