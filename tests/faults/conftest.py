"""Environments are named ``"zoo:..."``: this folder must be importable, in worker processes as well."""

import os
import sys
import time
from pathlib import Path

import pytest

from recdqn import Config, train

HERE = str(Path(__file__).parent)
if HERE not in sys.path:
    sys.path.insert(0, HERE)


@pytest.fixture
def subprocess_env():
    """An environment for subprocesses that import ``zoo``."""
    paths = [HERE, *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths)}


@pytest.fixture(scope="session")
def short() -> Config:
    """Masked CartPole with a ring that wraps, evaluations, and a checkpoint at every chance."""
    return Config.preset("masked-cartpole").replace(
        env={"num_envs": 8},
        train={
            "total_frames": 640,
            "warmup_frames": 128,
            "updates": 2,
            "eval_every": 4,
            "eval_episodes": 2,
            "save_seconds": 0.0,
        },
        policy={"hidden_size": 8, "features": 8, "head": 8},
        replay={"slices": 4, "slice_len": 10, "capacity": 256},
    )


@pytest.fixture(scope="session")
def whole(short, tmp_path_factory):
    """What a run reaches that never stops, and the seconds it takes."""
    from outcomes import outcome
    from runs import fresh, start

    out = tmp_path_factory.mktemp("whole") / "run"
    start(fresh, short, out.with_name("first")).join()  # imports what is imported late
    begun = time.perf_counter()
    start(fresh, short, out).join()
    return outcome(out), time.perf_counter() - begun


@pytest.fixture
def killed(short, tmp_path, monkeypatch):
    """The folder of a run that ended after its sixth checkpoint, in the middle of everything."""
    from outcomes import Killed, die_after

    die_after(monkeypatch, 6)
    with pytest.raises(Killed):
        train(short, out=tmp_path / "run", progress=False)
    monkeypatch.undo()
    return tmp_path / "run"
