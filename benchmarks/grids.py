"""The command line of the grids of recorded runs: which names there are, and one line for each error."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection

import tyro

from recdqn.errors import UserError, suggest
from recdqn.run.signals import Stopped


def choose(names: Collection[str], known: Collection[str]) -> tuple[str, ...]:
    """Return ``names``, or all known ones if there are none.

    Raises:
        UserError: if a name is not known.
    """
    for name in names:
        if name not in known:
            raise UserError(f"{name!r} is unknown: {suggest(name, known)}")
    return tuple(names or known)


def command(main: Callable[..., None]) -> None:
    """Call ``main`` with the command line's arguments; a user's error or a stop is one line."""
    module = sys.modules["__main__"].__spec__
    prog = "benchmarks" if module is None else module.name.removesuffix(".__main__")
    try:
        tyro.cli(main, prog=f"python -m {prog}")
    except UserError as error:
        sys.exit(f"{prog}: {error}")
    except Stopped as stopped:
        print(f"{prog}: {stopped}", file=sys.stderr)
        sys.exit(stopped.status)
    except KeyboardInterrupt:
        print(f"{prog}: stopped; the same command goes on with a grid, and repeats a row", file=sys.stderr)
        sys.exit(130)
