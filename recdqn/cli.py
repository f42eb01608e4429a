"""The command line: ``recdqn train``, ``evaluate``, ``watch`` (chapter 5) and ``doctor`` (the field guide).

Progress and messages go to standard error, results to standard output. Input that cannot be used ends with
one line and exit status 2.
"""

from __future__ import annotations

import dataclasses
import logging
import sys
from json import dumps
from pathlib import Path
from statistics import fmean
from typing import Literal

import tyro

import recdqn
from recdqn.errors import UserError
from recdqn.film import film
from recdqn.presets import PRESETS
from recdqn.run.signals import Stopped


def train(
    preset: str | None = None,
    /,
    seed: int | None = None,
    frames: int | None = None,
    out: Path | None = None,
    logger: Literal["csv", "tensorboard", "wandb"] | None = None,
    device: str | None = None,
    save_seconds: float | None = None,
    resume: Path | None = None,
) -> None:
    """Train an agent and save it, or go on with a run that was stopped.

    Args:
        preset: masked-cartpole or pixel-cartpole.
        seed: of every random number; 0 if not given.
        frames: environment steps at most; the preset's own number if not given.
        out: the folder to save into; runs/PRESET-SEED if not given.
        logger: also write the metrics with one of TorchRL's loggers, into the same folder.
        device: cpu, or cuda where there is a GPU; cpu if not given.
        save_seconds: seconds between two checkpoints; 60 if not given.
        resume: the folder of a run to go on with; all it needs is there. More frames let it train longer.
    """
    if resume is not None:
        given = {"PRESET": preset, "--seed": seed, "--out": out, "--device": device}
        given |= {"--save-seconds": save_seconds}
        if extra := [name for name, value in given.items() if value is not None]:
            raise UserError(f"--resume takes everything from the run: leave out {', '.join(extra)}")
        out, run = resume, recdqn.resume(resume, frames=frames, logger=logger)
    else:
        if preset is None:
            raise UserError(
                f"give a preset, one of {', '.join(PRESETS)}, or --resume and the folder of a run"
            )
        changes = {"total_frames": frames, "save_seconds": save_seconds}
        changes = {key: value for key, value in changes.items() if value is not None}
        cfg = recdqn.Config.preset(preset)
        cfg = cfg.replace(seed=seed or 0, device=device or cfg.device, train=changes)
        out = out or Path("runs") / f"{preset}-{cfg.seed}"
        run = recdqn.train(cfg, out=out, logger=logger)
    if run.final is not None:
        _say(f"solved after {run.metrics[-1]['frames']} frames: {run.final}")
    else:
        best = max(fmean(evaluation["returns"]) for evaluation in run.metrics)
        _say(f"not solved; best evaluation: {best:.1f}")
    print(out)


def evaluate(run: Path, /, episodes: int = 100, json: bool = False) -> None:
    """Let a saved agent play greedy episodes and print what it reached.

    Args:
        run: the folder that recdqn train saved into.
        episodes: how many; they run side by side.
        json: print JSON instead of a line.
    """
    saved = recdqn.load_checkpoint(run)
    result = recdqn.evaluate(saved.policy, saved.cfg.env, episodes=episodes)
    if json:
        low, high = result.interval
        values = {
            "mean": result.mean,
            "iqm": result.iqm,
            "interval": [low, high],
            **dataclasses.asdict(result),
        }
        print(dumps(values))
    else:
        print(result)


def watch(run: Path, /, out: Path, seed: int = 0) -> None:
    """Film one greedy episode of a saved agent.

    Args:
        run: the folder that recdqn train saved into.
        out: the film: a file that ends in .mp4 or .gif.
        seed: of the episode.
    """
    saved = recdqn.load_checkpoint(run)
    steps = film(saved.policy, saved.cfg.env, out, seed=seed)
    _say(f"{steps} steps")
    print(out)


def doctor(target: str, /) -> None:
    """Look for silent bugs in a recurrent pipeline; the exit status is 1 if there are errors.

    Args:
        target: MODULE:FUNCTION, a function that returns a dictionary with some of env, policy, buffer,
            batch, loss and updater; or the folder that recdqn train saved into.
    """
    from recdqn.doctor.parts import parts_of

    report = recdqn.diagnose(**parts_of(target))
    print(report)
    if report.errors:
        sys.exit(1)


def main() -> None:
    """Run the command line."""
    # TorchRL's messages go to standard output, which is for results; what a reader needs is said by _say.
    logging.getLogger("torchrl").setLevel(logging.ERROR)
    here = str(Path.cwd())  # where a reader's own modules are, which runs and the doctor name
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        tyro.extras.subcommand_cli_from_dict(
            {"train": train, "evaluate": evaluate, "watch": watch, "doctor": doctor},
            prog="recdqn",
            description="Train, evaluate, watch and examine agents that remember.",
        )
    except UserError as error:
        _say(f"recdqn: {error}")
        sys.exit(2)
    except Stopped as stopped:
        _say(f"recdqn: {stopped}")
        sys.exit(stopped.status)
    except KeyboardInterrupt:
        _say("recdqn: stopped")
        sys.exit(130)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
