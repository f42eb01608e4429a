"""Provenance: what made a recorded result."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("recdqn", "torch", "torchvision", "torchrl", "tensordict", "gymnasium", "pygame", "numpy")


def manifest() -> dict[str, Any]:
    """Return command, date, commit, versions, machine and PyTorch threads, ready for JSON."""
    return {
        "command": _command(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": source_commit(Path(__file__).parents[1]),
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in PACKAGES},
        "machine": {"system": platform.platform(), "processor": _processor(), "cores": os.cpu_count()},
        "threads": torch.get_num_threads(),
    }


def source_commit(package: Path) -> str | None:
    """Return the commit of the repository that holds ``package``; ``None`` outside of one.

    It ends in ``-dirty`` if a tracked file was changed. The folder ``results`` does not count: recording
    writes there.
    """
    git = ["git", "-C", str(package)]
    source = [":/", ":(top,exclude)results"]
    try:
        name = [*git, "describe", "--always", "--abbrev=12"]
        commit = subprocess.run(name, capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", *source], capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{commit}-dirty" if changed.returncode else commit


def _command() -> str:
    spec = getattr(sys.modules["__main__"], "__spec__", None)  # of python -m
    program = Path(sys.argv[0]).name if spec is None else f"python -m {spec.name.removesuffix('.__main__')}"
    line = " ".join([program, *sys.argv[1:]])
    return line.replace(f"{Path.cwd()}{os.sep}", "")  # paths are relative to the folder it was started in


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
