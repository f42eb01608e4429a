"""The commands of the command line: train, resume, sweep, evaluate, watch, export, serve and others.

Each is a function: positional parameters are given by their place, the others are options. It returns its
result.
"""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Callable
from json import dumps, loads
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, get_args

import tyro

import recdqn
from recdqn.config import Config
from recdqn.errors import UserError, first_line
from recdqn.fields import dotted
from recdqn.options import Choices, Settings, argument, one_of, whole_number
from recdqn.presets import PRESETS

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
        preset: such as masked-cartpole; recdqn train --help lists all.
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
        preset: such as masked-cartpole; recdqn train --help lists all.
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
    return train_all(combinations(base, choices), out, jobs, address, say)


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
    say(f"{steps} steps")
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
        say(f"{kind}: {', '.join(shapes).replace(chr(39), '')}")
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
    say(f"loading {run}")  # that and the imports take seconds
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
    say(f"{run.cfg.name}, seed {run.cfg.seed}, for {run.cfg.env.id}")
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


def _read_config(file: Path) -> Config:
    try:
        return Config.from_dict(loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise UserError(f"--config {file} cannot be used: {first_line(error)}") from None


def _report(run: Run, out: Path) -> Path:
    from recdqn.evaluation import decimals
    from recdqn.run.folder import mean_return

    if run.final is not None:
        say(f"solved after {run.metrics[-1]['frames']} frames: {run.final}")
    else:
        best = max(map(mean_return, run.metrics))
        say(f"not solved; best evaluation: {best:.{decimals([best])}f}")
    return out


def say(text: str) -> None:
    """Print a message for the reader to standard error."""
    print(text, file=sys.stderr, flush=True)
