"""TorchRL's loggers: the metrics of a run as CSV files, in TensorBoard or in Weights & Biases."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args

from torchrl.record.loggers import get_logger
from torchrl.record.loggers.common import Logger

from recdqn.config import Config
from recdqn.errors import UserError, first_line, installed
from recdqn.fields import dotted
from recdqn.run.folder import LOG, mean_return

LoggerName = Literal["csv", "tensorboard", "wandb"]
CURE = {"wandb": ": log in with 'wandb login', or set WANDB_MODE=offline"}


class Log:
    """The metrics of a run, under the name of its folder and with its configuration.

    A resumed run is written again from the first row, so that none is there twice. A logger that fails later
    ends with one line, and the run goes on without it.

    Args:
        out: the run folder.
        name: the kind of logger.
        cfg: the configuration of the run.
        say: is told if the logger fails.

    Raises:
        UserError: if the logger cannot start; an earlier log is still there then.
    """

    def __init__(self, out: Path, name: LoggerName, cfg: Config, say: Callable[[str], None]) -> None:
        self.name, self.say = name, say
        self.logger: Logger | None = None
        folder, before = out / LOG, out / f"{LOG}.tmp"
        if folder.exists():
            folder.rename(before)
        try:
            self.logger = _start(folder, name, out.name, cfg)
        except (Exception, SystemExit) as error:
            shutil.rmtree(folder, ignore_errors=True)
            if before.exists():
                before.rename(folder)
            raise UserError(
                f"logger={name!r} cannot start ({first_line(error)}){CURE.get(name, '')}"
            ) from error
        shutil.rmtree(before, ignore_errors=True)

    def add(self, row: dict[str, Any]) -> None:
        """Write one row."""
        if self.logger is None:
            return
        try:
            for name in ("loss", "grad_norm", "clipped", "eps"):
                self.logger.log_scalar(f"train/{name}", row[name], step=row["frames"])
            self.logger.log_scalar("eval/return", mean_return(row), step=row["frames"])
        except Exception as error:
            self.say(
                f"logger={self.name!r} has failed ({first_line(error)}): the run goes on without it, "
                "and 'recdqn resume' with the same logger writes all rows"
            )
            self.close()

    def close(self) -> None:
        """Write what is left, and let go of the files."""
        logger, self.logger = self.logger, None
        if logger is not None:
            with contextlib.suppress(Exception):  # what it has not written is in the metrics of the run
                logger.close()
                for file in getattr(logger.experiment, "files", {}).values():
                    file.close()  # CSVExperiment has no method for it


def _start(folder: Path, name: LoggerName, run: str, cfg: Config) -> Logger:
    values = dotted(cfg)
    if name == "wandb":
        # A run of its own, also where another one is open in this process.
        options = {"reinit": "create_new", "group": cfg.name, "config": values}
        return get_logger(name, str(folder), run, wandb_kwargs=options)
    logger = get_logger(name, str(folder), run)
    if name == "csv":
        logger.log_hparams(values)
    else:  # log_hparams would make a second run beside this one
        plain = {k: v if isinstance(v, (bool, int, float, str)) else str(v) for k, v in values.items()}
        logger.experiment.add_hparams(plain, {}, run_name=".")
    return logger


def check_logger(name: LoggerName, out: str | Path | None) -> None:
    """Check that there is such a logger, that it has a folder and that its package is installed.

    Raises:
        UserError: if not.
    """
    if name not in get_args(LoggerName):
        raise UserError(f"logger={name!r}: choose one of {', '.join(get_args(LoggerName))}")
    if out is None:
        raise UserError(f"logger={name!r} needs a folder to write into: give out as well")
    if name != "csv" and not installed(name):
        raise UserError(f"logger={name!r} needs the package {name}: pip install {name}")
