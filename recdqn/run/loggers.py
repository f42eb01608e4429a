"""TorchRL's loggers: the metrics of a run as CSV files, in TensorBoard or in Weights & Biases."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from typing import Any, Literal

from torchrl.record.loggers import get_logger

from recdqn.errors import UserError
from recdqn.run.folder import mean_return

LoggerName = Literal["csv", "tensorboard", "wandb"]
FOLDER = "log"  # in the run folder


class Log:
    """The metrics of a run, written again from the first row when the run is resumed.

    Args:
        out: the run folder.
        name: the kind of logger.
        metrics: the rows so far.
    """

    def __init__(self, out: Path, name: LoggerName, metrics: list[dict[str, Any]]) -> None:
        shutil.rmtree(out / FOLDER, ignore_errors=True)
        self.logger = get_logger(name, logger_name=str(out), experiment_name=FOLDER)
        for row in metrics:
            self.add(row)

    def add(self, row: dict[str, Any]) -> None:
        """Write one row."""
        for name in ("loss", "grad_norm", "clipped", "eps"):
            self.logger.log_scalar(f"train/{name}", row[name], step=row["frames"])
        self.logger.log_scalar("eval/return", mean_return(row), step=row["frames"])


def check_logger(name: LoggerName, out: str | Path | None) -> None:
    """Check that a logger has a folder and that its package is installed.

    Raises:
        UserError: if not.
    """
    if out is None:
        raise UserError(f"logger={name!r} needs a folder to write into: give out as well")
    if name != "csv" and importlib.util.find_spec(name) is None:
        raise UserError(f"logger={name!r} needs the package {name}: pip install {name}")
