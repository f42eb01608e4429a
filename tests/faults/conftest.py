"""Environments are named ``"zoo:..."``: this folder must be importable, in worker processes as well."""

import os
import sys
from pathlib import Path

import pytest

HERE = str(Path(__file__).parent)
if HERE not in sys.path:
    sys.path.insert(0, HERE)


@pytest.fixture
def subprocess_env():
    """An environment for subprocesses that import ``zoo``."""
    paths = [HERE, *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
