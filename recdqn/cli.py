"""The command line: ``recdqn train``, ``resume``, ``sweep``, ``evaluate``, ``export``, ``serve`` and others.

Progress and messages go to standard error, results to standard output: a command returns its result. What an
environment prints goes to standard error too. Input that cannot be used ends with one line and exit status 2.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import functools
import inspect
import io
import os
import re
import sys
from collections.abc import Callable, Iterator
from json import dumps, loads
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TextIO, get_args

import tyro

import recdqn
from recdqn.config import Config
from recdqn.errors import UserError, first_line, suggest
from recdqn.fields import dotted
from recdqn.options import Choices, Settings, argument, one_of, similar, texts_of, whole_number
from recdqn.presets import PRESETS
from recdqn.run.signals import Stopped

if TYPE_CHECKING:
    from recdqn.run.folder import Run

LoggerName = Literal["csv", "tensorboard", "wandb"]
Logger = Annotated[LoggerName | None, argument("NAME", one_of(*get_args(LoggerName)))]
RunFolder = Annotated[Path, argument("DIR", Path)]
OPTIONAL = tyro.conf.arg(help_behavior_hint="")  # the help shows no default


def train(
    preset: Annotated[str | None, argument("PRESET"), OPTIONAL] = None,
    /,
    *,
    config: Annotated[Path | None, argument("FILE", Path), OPTIONAL] = None,
    frames: Annotated[int | None, argument("N", whole_number), OPTIONAL] = None,
    out: Annotated[Path | None, argument("DIR", Path), OPTIONAL] = None,
    logger: Annotated[Logger, OPTIONAL] = None,
    settings: Settings,
) -> Path:
    """Train an agent and save it.

    Args:
        preset: masked-cartpole or pixel-cartpole.
        config: in place of a preset, a saved configuration: the config.json of a run folder.
        frames: environment steps in total; short for --train.total_frames, and as for recdqn resume.
        out: the folder to save into; runs/NAME-SEED if not given.
        logger: also write the metrics with one of TorchRL's loggers, csv, tensorboard or wandb, into
            the same folder.
        settings: settings that differ from those of the preset or the saved configuration.
    """
    if preset is not None and config is None:
        cfg = Config.preset(preset)
    elif config is not None and preset is None:
        cfg = _read_config(config)
    else:
        raise UserError(f"expected a preset, one of {', '.join(PRESETS)}, or --config FILE")
    cfg = cfg.replace(**settings)
    if frames is not None:
        cfg = cfg.replace(train={"total_frames": frames})
    out = out or Path("runs") / re.sub(r"[^\w.-]+", "-", f"{cfg.name}-{cfg.seed}")
    return _report(recdqn.train(cfg, out=out, logger=logger), out)


def resume(
    run: RunFolder,
    /,
    *,
    frames: Annotated[int | None, argument("N", whole_number), OPTIONAL] = None,
    logger: Annotated[Logger, OPTIONAL] = None,
    address: Annotated[str | None, argument("ADDRESS"), OPTIONAL] = None,
) -> Path:
    """Continue a run that was stopped or killed, with its own settings.

    Args:
        run: the folder of the run.
        frames: environment steps in total, to train longer than originally configured.
        logger: as for recdqn train.
        address: another Ray cluster than that of scale.address, for a run with actors.
    """
    return _report(recdqn.resume(run, frames=frames, logger=logger, address=address), run)


def sweep(
    preset: Annotated[str, argument("PRESET")],
    /,
    *,
    out: Annotated[Path, argument("DIR", Path)],
    jobs: Annotated[int, argument("N", whole_number)] = 1,
    address: Annotated[str | None, argument("ADDRESS"), OPTIONAL] = None,
    settings: Choices,
) -> str:
    """Train every combination of settings, such as --seed 0..4 --loss.n_steps 1,3,5, and compare them.

    Makes a table, and writes it into the folder of the sweep, with a figure if Matplotlib is installed.

    Args:
        preset: masked-cartpole or pixel-cartpole.
        out: the folder of the sweep; the same command goes on with a sweep that was stopped.
        jobs: runs at the same time on this machine.
        address: of a Ray cluster that trains the runs, as scale.address.
        settings: settings that differ from those of the preset, each with all its values.
    """
    from recdqn.sweep import combinations
    from recdqn.sweep import sweep as train_all

    choices, base = {}, Config.preset(preset)
    for name, value in settings.items():
        inside = {f"{name}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {name: value}
        for setting, values in inside.items():
            choices[setting] = (values,) if isinstance(dotted(base)[setting], tuple) else values
    return train_all(combinations(base, choices), out, jobs, address, _say)


def evaluate(
    run: RunFolder, /, *, episodes: Annotated[int, argument("N", whole_number)] = 100, json: bool = False
) -> str:
    """Play greedy episodes with a saved agent and print their returns.

    Args:
        run: the folder of a run.
        episodes: how many; they run side by side.
        json: print JSON instead of a line.
    """
    saved = recdqn.load_checkpoint(run)
    result = recdqn.evaluate(saved.policy, saved.cfg.env, episodes=episodes, statistics=saved.statistics)
    values = {"mean": result.mean, "iqm": result.iqm, "interval": result.interval}
    return dumps(values | dataclasses.asdict(result), allow_nan=False) if json else str(result)


def watch(
    run: RunFolder,
    /,
    *,
    out: Annotated[Path, argument("FILE", Path)],
    seed: Annotated[int, argument("N", whole_number)] = 0,
) -> Path:
    """Film one greedy episode of a saved agent.

    Args:
        run: the folder of a run.
        out: the film: a file that ends in .mp4 or .gif.
        seed: of the episode.
    """
    from recdqn.film import film

    saved = recdqn.load_checkpoint(run)
    steps = film(saved.policy, saved.cfg.env, out, seed=seed, statistics=saved.statistics)
    _say(f"{steps} steps")
    return out


def export(run: RunFolder, /, *, out: Annotated[Path, argument("FILE", Path)]) -> object:
    """Write a saved agent as one file, for programs without TorchRL.

    Args:
        run: the folder of a run.
        out: the file: .onnx, with the extra recdqn[export], or .pt2.
    """
    from recdqn.export import export_agent

    described = export_agent(run, out)
    for kind in ("inputs", "outputs"):
        shapes = (f"{one['name']} {one['dtype']} {['batch', *one['shape']]}" for one in described[kind])
        _say(f"{kind}: {', '.join(shapes).replace(chr(39), '')}")
    return out


def serve(
    run: RunFolder,
    /,
    *,
    host: Annotated[str, argument("ADDRESS")] = "127.0.0.1",
    port: Annotated[int, argument("N", whole_number)] = 8000,
    expire: Annotated[int, argument("SECONDS", whole_number)] = 600,
) -> None:
    """Serve a saved agent over HTTP and WebSocket, with a recurrent state for each session.

    Args:
        run: the folder of a run.
        host: address to listen on; by default only this machine can reach it. There is no password.
        port: 0 takes a free one.
        expire: seconds after which an unused session expires.
    """
    from recdqn.serve import serve as listen

    listen(run, host, port, expire)


def push(run: RunFolder, repo: Annotated[str, argument("REPO")], /, *, private: bool = False) -> str:
    """Upload a saved agent to the Hugging Face Hub, with a model card.

    Args:
        run: the folder of a run.
        repo: the repository, OWNER/NAME.
        private: make a new repository private.
    """
    from recdqn.hub import push as upload

    return upload(run, repo, private)


def pull(
    repo: Annotated[str, argument("REPO")],
    /,
    *,
    out: Annotated[Path, argument("DIR", Path)],
    revision: Annotated[str | None, argument("REVISION"), OPTIONAL] = None,
) -> Path:
    """Download an agent from the Hugging Face Hub.

    Args:
        repo: the repository, OWNER/NAME.
        out: the folder to make.
        revision: a branch, tag or commit; the newest if not given.
    """
    from recdqn.hub import pull as download

    run = download(repo, out, revision)
    _say(f"{run.cfg.name}, seed {run.cfg.seed}, for {run.cfg.env.id}")
    return out


def doctor(
    target: Annotated[str, argument("TARGET")],
    /,
    *,
    only: tuple[str, ...] = (),
    ignore: tuple[str, ...] = (),
    json: bool = False,
) -> object:
    """Look for silent bugs in a recurrent pipeline; the exit status is 1 if there are errors.

    Args:
        target: MODULE:FUNCTION, a function that returns a dictionary with some of env, policy, buffer,
            batch, loss and updater; or the folder of a run; or an exported agent, .onnx or .pt2.
        only: codes to look for, such as target-leak; all by default.
        ignore: codes to leave out.
        json: print the report as JSON.
    """
    from recdqn.doctor.outside import diagnose_file
    from recdqn.doctor.parts import parts_of
    from recdqn.doctor.report import JsonReport

    if target.endswith((".onnx", ".pt2")):
        report = diagnose_file(target, only, ignore)
    else:
        report = recdqn.diagnose(**parts_of(target), only=only, ignore=ignore)
    return JsonReport(report.findings, report.checked, report.skipped) if json else report


ABOUT = "Train, evaluate, watch and examine agents that remember."
COMMANDS: dict[str, Callable[..., object]] = {
    "train": train,
    "resume": resume,
    "sweep": sweep,
    "evaluate": evaluate,
    "watch": watch,
    "export": export,
    "serve": serve,
    "push": push,
    "pull": pull,
    "doctor": doctor,
}


def main() -> None:
    """Run the command line."""
    # TorchRL logs to standard output, which is for results; what a reader needs is said by _say.
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
        _say(f"recdqn: {error}")
        sys.exit(2)
    except Stopped as stopped:
        _say(f"recdqn: {stopped}")
        sys.exit(stopped.status)
    except KeyboardInterrupt:
        _say("recdqn: stopped")
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
    _say("recdqn: 'recdqn train --resume DIR' is deprecated: use 'recdqn resume DIR'")
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


def _read_config(file: Path) -> Config:
    try:
        return Config.from_dict(loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise UserError(f"--config {file} cannot be used: {first_line(error)}") from None


def _report(run: Run, out: Path) -> Path:
    from recdqn.evaluation import decimals
    from recdqn.run.folder import mean_return

    if run.final is not None:
        _say(f"solved after {run.metrics[-1]['frames']} frames: {run.final}")
    else:
        best = max(map(mean_return, run.metrics))
        _say(f"not solved; best evaluation: {best:.{decimals([best])}f}")
    return out


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
