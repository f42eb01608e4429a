"""Files of a run where a machine is unusual: network disks, other folders, other reasons than a full disk."""

import errno
import fcntl
import os

import pytest
import zoo
from zoo import Walk

from recdqn import load_checkpoint, resume, train
from recdqn.errors import UserError
from recdqn.run.state import Checkpoints

PLAIN = {"observation": "whole", "loc": (0.0,), "scale": (1.0,), "num_envs": 2}


class Wanders(Walk):
    """Changes the working directory, as some simulators do."""

    def step(self, action):
        os.chdir("/")
        return super().step(action)


class FailsAtFirst(Walk):
    """Raises at the first step until its mistake is corrected."""

    broken = True

    def step(self, action):
        if FailsAtFirst.broken:
            raise RuntimeError("a mistake")
        return super().step(action)


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    """Let the configuration name the classes of this file, which pytest imports under another name."""
    for kind in (Wanders, FailsAtFirst):
        monkeypatch.setattr(zoo, kind.__name__, kind, raising=False)
        monkeypatch.setattr(kind, "__module__", "zoo")


def test_relative_paths_are_those_of_the_start(tiny, tmp_path, monkeypatch):
    cfg = tiny.replace(env=PLAIN | {"id": Wanders}, train={"save_seconds": 0.0})
    monkeypatch.chdir(tmp_path)
    train(cfg, out="runs/one", logger="csv", progress=False)
    assert os.getcwd() == "/"
    os.chdir(tmp_path)
    resume("runs/one", frames=640, logger="csv", progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
    assert load_checkpoint(tmp_path / "runs/one").metrics[-1]["frames"] == 640
    assert len(list((tmp_path / "runs/one/checkpoints").iterdir())) == 2


def test_the_folder_of_a_run_that_cannot_start_is_removed(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(FailsAtFirst, "broken", True)
    cfg = tiny.replace(env=PLAIN | {"id": FailsAtFirst})
    with pytest.raises(UserError, match="step raised RuntimeError: a mistake"):
        train(cfg, out=tmp_path / "runs/one", progress=False)
    assert list(tmp_path.iterdir()) == []
    FailsAtFirst.broken = False
    train(cfg, out=tmp_path / "runs/one", progress=False)
    before = sorted(tmp_path.rglob("*"))
    FailsAtFirst.broken = True
    with pytest.raises(UserError, match="a mistake"):
        resume(tmp_path / "runs/one", frames=640, progress=False)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_disk_without_locks(tiny, tmp_path, monkeypatch, capsys, number):
    def refuse(file, operation):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    train(tiny, out=tmp_path / "run", progress=False)
    assert capsys.readouterr().err.splitlines() == [
        f"{tmp_path / 'run'} cannot be locked ({os.strerror(number)}): let no other process train there"
    ]
    assert not (tmp_path / "run/.lock").exists()


def broken_part(error):
    class Part:
        def state_dict(self):
            raise error

    return Part()


@pytest.mark.parametrize(
    ("error", "expected", "message"),
    [
        (
            RecursionError("too deep"),
            UserError,
            r"the state cannot be saved in .* \(RecursionError: too deep\)",
        ),
        (
            TypeError("cannot pickle"),
            UserError,
            r"the state cannot be saved in .* \(TypeError: cannot pickle",
        ),
        (UserError("a worker is gone"), UserError, "^a worker is gone$"),
        (
            RuntimeError("[enforce fail at inline_container.cc:671]"),
            OSError,
            "a write failed, .* MB are free",
        ),
    ],
)
def test_a_save_that_fails_says_why(tiny, tmp_path, error, expected, message):
    checkpoints = Checkpoints(tmp_path, tiny, part=broken_part(error))
    with pytest.raises(expected, match=message):
        checkpoints.save(1)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), r"\(No space left on device\): make room, then"),
        (OSError(errno.EACCES, "Permission denied"), r"\(Permission denied\): correct that, then"),
        (OSError("lost"), r"\(OSError: lost\): correct that, then"),
    ],
)
def test_a_write_that_fails_says_why(tiny, tmp_path, monkeypatch, error, reason):
    def fail(self, step):
        raise error

    monkeypatch.setattr(Checkpoints, "save", fail)
    with pytest.raises(UserError, match=f"^cannot write into {tmp_path}/run {reason} resume from the last"):
        train(tiny, out=tmp_path / "run", progress=False)
    monkeypatch.undo()
    resume(tmp_path / "run", progress=False)


def test_what_an_environment_holds_is_not_saved(tiny, tmp_path):
    cfg = tiny.replace(env=PLAIN | {"id": "zoo:Walk"})
    sizes = []
    for megabytes in (0, 20):
        Walk.map = bytes(megabytes * 1_000_000)
        train(cfg, out=tmp_path / str(megabytes), progress=False)
        newest = max((tmp_path / str(megabytes) / "checkpoints").iterdir())
        sizes.append(newest.stat().st_size)
    del Walk.map
    assert abs(sizes[1] - sizes[0]) < 1_000
