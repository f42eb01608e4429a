"""The examples in docstrings run and show what they print."""

import doctest
import importlib
import pkgutil
from pathlib import Path

import pytest

import recdqn
from recdqn.envs import add_primers

MODULES = [
    module.name
    for module in pkgutil.walk_packages(recdqn.__path__, "recdqn.")
    if ">>>" in Path(module.module_finder.find_spec(module.name).origin).read_text(encoding="utf-8")
]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    """An example may use the public names, and a reader's own ``cfg``, ``env`` and ``batches``."""
    cfg = recdqn.Config.preset("masked-cartpole")
    names = {public: getattr(recdqn, public) for public in recdqn.__all__}
    names |= {"add_primers": add_primers, "cfg": cfg, "env": recdqn.make_env(cfg.env), "batches": []}
    assert doctest.testmod(importlib.import_module(name), extraglobs=names).failed == 0
