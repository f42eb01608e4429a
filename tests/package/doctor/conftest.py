from importlib import import_module

import pytest

LIMITED = [import_module(f"recdqn.doctor.{name}") for name in ("examine", "rollout", "checks.storage")]


@pytest.fixture(autouse=True)
def patient(monkeypatch):
    """Time enough on a slow machine, where a check of a large loss is skipped otherwise."""
    for module in LIMITED:
        monkeypatch.setattr(module, "SECONDS", 60.0)
