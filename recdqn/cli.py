"""The command line: reads the arguments, runs one of :mod:`recdqn.commands`, prints what it returns.

Progress and messages go to standard error, results to standard output: a command returns its result. What an
environment prints goes to standard error too. Input that cannot be used ends with one line and exit status 2.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import inspect
import io
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

import tyro

from recdqn.commands import COMMANDS, say
from recdqn.config import Config
from recdqn.errors import UserError, suggest
from recdqn.fields import dotted
from recdqn.options import similar, texts_of
from recdqn.presets import PRESETS
from recdqn.run.signals import Stopped

ABOUT = "Train, evaluate, watch and examine agents that remember."


def main() -> None:
    """Run the command line."""
    # TorchRL logs to standard output, which is for results; what a reader needs is said by say.
    os.environ.setdefault("RL_LOGGING_LEVEL", "ERROR")
    here = str(Path.cwd())  # where a reader's own modules are, which runs and the doctor name
    if here not in sys.path:
        sys.path.append(here)  # behind the installed packages, which a file of the same name would hide
    if isinstance(sys.stdout, io.TextIOWrapper):  # the name of a folder may have letters that it cannot show
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        command = parse(sys.argv[1:])
        with _only_results() as results:
            result = command()
            if result is not None:
                print(result, file=results, flush=True)
        if getattr(result, "errors", ()):  # of a report of the doctor
            sys.exit(1)
    except UserError as error:
        say(f"recdqn: {error}")
        sys.exit(2)
    except Stopped as stopped:
        say(f"recdqn: {stopped}")
        sys.exit(stopped.status)
    except KeyboardInterrupt:
        say("recdqn: stopped")
        sys.exit(130)


@contextlib.contextmanager
def _only_results() -> Iterator[TextIO]:
    """Return a stream to standard output; anything else that is printed there goes to standard error.

    That includes what is printed by libraries in C and by processes that are started inside.
    """
    with contextlib.ExitStack() as stack:
        results: TextIO = sys.stdout
        if results is sys.__stdout__:
            results.flush()
            kept = os.dup(1)
            results = stack.enter_context(
                os.fdopen(kept, "w", encoding=results.encoding, errors="backslashreplace")
            )
            os.dup2(2, 1)
            stack.callback(os.dup2, kept, 1)
            if os.name == "posix":
                stack.callback(ctypes.CDLL(None).fflush, None)  # what libraries in C have not written yet
        stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        yield results


def parse(arguments: list[str]) -> Callable[[], object]:
    """Return the command that ``arguments`` ask for, as a function without arguments.

    Raises:
        UserError: if they ask for none.
        SystemExit: after ``--help``.
    """
    name, *rest = arguments = _without_resume_option(arguments) or ["--help"]
    prog = "recdqn"
    box = io.StringIO()  # tyro draws its messages in one
    try:
        with contextlib.redirect_stderr(box):
            if name.startswith("-"):
                tyro.extras.subcommand_cli_from_dict(COMMANDS, prog=prog, description=ABOUT, args=arguments)
            if name not in COMMANDS:
                raise UserError(f"{name!r} is not a command: {suggest(name, COMMANDS)}")
            prog += f" {name}"
            command, unknown = tyro.cli(
                _deferred(COMMANDS[name]),
                prog=prog,
                description=_description(name),
                args=rest,
                use_underscores=True,
                return_unknown_args=True,
            )
    except SystemExit as stop:
        if stop.code:
            raise UserError(f"{_first_paragraph(box.getvalue())}; see {prog} --help") from None
        raise
    if unknown:
        raise UserError(f"{unknown[0]}: {prog} has no such {_advice(name, unknown[0])}")
    return command


def _without_resume_option(arguments: list[str]) -> list[str]:
    """Turn ``train --resume DIR``, which will go, into ``resume DIR``."""
    if arguments[:1] != ["train"] or not any(word.partition("=")[0] == "--resume" for word in arguments):
        return arguments
    say("recdqn: 'recdqn train --resume DIR' is deprecated: use 'recdqn resume DIR'")
    return ["resume", *(word.removeprefix("--resume=") for word in arguments[1:] if word != "--resume")]


def _deferred(command: Callable[..., object]) -> Callable[..., Callable[[], object]]:
    """Return a function with the arguments of ``command``, which returns the call in place of making it."""

    @functools.wraps(command)
    def deferred(*arguments: Any, **options: Any) -> Callable[[], object]:
        return functools.partial(command, *arguments, **options)

    return deferred


def _description(name: str) -> str:
    text = (inspect.getdoc(COMMANDS[name]) or "").partition("\n")[0]
    if name == "train":
        base = dotted(Config())
        text += f" The defaults below are those of {base['name']}."
        for preset in PRESETS:
            changes = dotted(Config.preset(preset)).items() - base.items() - {("name", preset)}
            options = [f"--{name} {' '.join(texts_of(value))}" for name, value in sorted(changes)]
            text += f"\n\n{preset}: {' '.join(options)}" if options else ""
    return text


def _advice(name: str, unknown: str) -> str:
    if not unknown.startswith("-"):
        return "argument"
    options = [
        f"--{option}"
        for option, parameter in inspect.signature(COMMANDS[name]).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY and option != "settings"
    ]
    options += [f"--{setting}" for setting in dotted(Config())] if name == "train" else []
    meant = similar(unknown.partition("=")[0], options)
    return f"option; did you mean {' or '.join(meant)}?" if meant else f"option; see recdqn {name} --help"


def _first_paragraph(box: str) -> str:
    """Return the message of a box in one line: what stands between its title and the next rule."""
    plain = re.sub(r"\x1b\[[\d;]*m|╭─|[│╮╰╯]", "", box)  # without colours and frame
    title, *paragraphs = re.split(r"\s(?:─+|-{4,})\s", plain)
    return " ".join((paragraphs or [title])[0].split()).rstrip(".")


if __name__ == "__main__":
    main()
