"""Processor time of an import and of the command's help, each in a new process."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys

from benchmarks.harness import Row


def import_row() -> Row:
    """Measure ``import recdqn``."""
    return _row("import recdqn", ["-c", "import recdqn"], most=0.3)


def help_row() -> Row:
    """Measure ``recdqn --help``."""
    return _row("recdqn --help", ["-m", "recdqn.cli", "--help"], most=1.5)


def _row(what: str, arguments: list[str], most: float) -> Row:
    seconds = _processor_seconds(arguments)
    empty = _processor_seconds(["-c", "pass"])
    return Row(
        what=f"{what}, processor time of a new process",
        ours=seconds,
        other=empty,
        against="Python alone",
        unit="s",
        ratio=None,
        must=f"at most {most} s",
        met=seconds <= most,
    )


def _processor_seconds(arguments: list[str], repeats: int = 5) -> float:
    """Return the median processor time of a Python process with these arguments; one call warms up."""
    times = []
    for _ in range(1 + repeats):
        before = sum(os.times()[2:4])  # user and system time of the children
        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
        times.append(sum(os.times()[2:4]) - before)
    return statistics.median(times[1:])
