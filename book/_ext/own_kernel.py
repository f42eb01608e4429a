"""Run notebooks in the Python that builds or tests the book, whatever other kernels there are.

JupyterHub and others set ``JUPYTER_PATH`` to kernels of their own, which Jupyter looks for before those of
this environment, and a kernel ``python3`` there may be of another Python.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

KERNELS = Path(sys.prefix, "share", "jupyter")


def prefer_own_kernel() -> None:
    """Let Jupyter look for kernels in this environment first, in this process and in those it starts."""
    others = os.environ.get("JUPYTER_PATH", "").split(os.pathsep)
    paths = [str(KERNELS), *(path for path in others if path not in ("", str(KERNELS)))]
    os.environ["JUPYTER_PATH"] = os.pathsep.join(paths)


def setup(app: Any) -> dict[str, bool]:
    """Prefer the own kernel as soon as Sphinx loads this extension."""
    prefer_own_kernel()
    return {"parallel_read_safe": True, "parallel_write_safe": True}
