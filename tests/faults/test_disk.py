"""A disk that is full, too small or read-only: one line, and the last checkpoint is intact."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import types
from pathlib import Path

import gymnasium as gym
import pytest
import torch
from runs import fresh, start

from recdqn import add_primers, make_env, make_policy, resume, train
from recdqn.errors import UserError
from recdqn.replay import preallocate, stored_bytes

MEGABYTE = 1_000_000


def states(out):
    """Return the names of the checkpoints."""
    return sorted(path.name for path in (out / "checkpoints").glob("checkpoint-*"))


def test_a_disk_that_is_too_small_is_refused(tiny, tmp_path, monkeypatch):
    """A step has two states of 8 units and observations of 2, each twice, and single numbers and flags."""
    step = 4 * (2 * 2 * 8 + 2 * 2 + 2 + 1) + 8 * (2 + 1 + 1 + 1) + 5
    size = step * tiny.replay.capacity
    usage = types.SimpleNamespace(free=5 * size - MEGABYTE // 2)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(UserError) as error:
        train(tiny, out=tmp_path / "run", progress=False)
    free, buffer, needed = (f"{number / 1e6:.0f} MB" for number in (usage.free, size, 5 * size))
    assert str(error.value) == (
        f"{tmp_path} has {free} free; a replay buffer of {buffer} and its copies need {needed}: "
        "choose another folder, or a smaller replay.capacity"
    )
    assert list(tmp_path.iterdir()) == []
    usage.free += MEGABYTE
    train(tiny, out=tmp_path / "run", progress=False)


def test_existing_checkpoints_count_as_available_space(tiny, tmp_path, monkeypatch):
    """A disk just large enough for a run is large enough to resume it."""
    train(tiny, out=tmp_path / "run", progress=False)
    env = make_env(tiny.env)
    add_primers(env, make_policy(tiny.policy, env))
    size = stored_bytes(tiny, env)
    held = sum(path.stat().st_size for path in (tmp_path / "run" / "checkpoints").iterdir())
    usage = types.SimpleNamespace(free=5 * size - held)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    resume(tmp_path / "run", frames=576, progress=False)
    held = sum(path.stat().st_size for path in (tmp_path / "run" / "checkpoints").iterdir())
    usage.free = 5 * size - held - 1
    with pytest.raises(UserError, match="choose another folder, or a smaller replay.capacity"):
        resume(tmp_path / "run", frames=640, progress=False)


def test_preallocated_files_take_their_disk_space_and_have_no_names(tmp_path):
    path = tmp_path / "scratch" / "next" / "a.memmap"
    path.parent.mkdir(parents=True)
    mapped = torch.from_file(str(path), shared=True, size=MEGABYTE, dtype=torch.uint8)
    assert path.stat().st_blocks * 512 < MEGABYTE
    with path.open("rb") as file:
        preallocate(tmp_path / "scratch")
        assert os.fstat(file.fileno()).st_blocks * 512 >= MEGABYTE
    assert list(tmp_path.iterdir()) == []
    mapped.fill_(7)
    assert mapped.sum() == 7 * MEGABYTE
    preallocate(tmp_path / "scratch")  # nothing to do


@pytest.mark.parametrize("saved", [True, False])
def test_training_survives_the_loss_of_its_scratch_folder(tiny, tmp_path, monkeypatch, saved):
    """The folder for temporary files, or the run's own, is emptied while it trains."""
    expected = train(tiny, progress=False).metrics[-1]["loss"]
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    step, steps = gym.Wrapper.step, []

    def empty(self, action):
        steps.append(action)
        if len(steps) == 300:
            for path in (tmp_path / "run" if saved else tmp_path).iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        return step(self, action)

    monkeypatch.setattr(gym.Wrapper, "step", empty)
    run = train(tiny, out=tmp_path / "run" if saved else None, progress=False)
    assert len(steps) > 300
    assert run.metrics[-1]["loss"] == expected


def test_a_file_size_limit_ends_the_run_with_one_line(tiny, tmp_path):
    """The limit of 150 kB holds the first checkpoints and not the later ones."""
    cfg = tiny.replace(train={"total_frames": 768, "save_seconds": 0.0}, replay={"capacity": 768})
    out, log = tmp_path / "run", tmp_path / "log"
    run = start(fresh, cfg, out, log=log, limit=150_000)
    run.join(600)
    assert run.exitcode == 1
    assert "cannot write into" in log.read_text() and "recdqn resume" in log.read_text()
    check_intact(cfg, out)


def check_intact(cfg, out):
    """Check that no file is incomplete, and that the resumed run ends as an uninterrupted one."""
    assert states(out) and states(out) == sorted(path.name for path in (out / "checkpoints").iterdir())
    assert not list(out.glob("*.tmp"))
    run, whole = resume(out, progress=False), train(cfg, progress=False)
    for a, b in zip(run.policy.parameters(), whole.policy.parameters(), strict=True):
        assert torch.equal(a, b)


def namespace():
    """Return the command that gives a process its own mounts; None where that is forbidden."""
    for command in (["unshare", "--mount"], ["unshare", "--map-root-user", "--mount"]):
        try:
            subprocess.run(
                [*command, "mount", "-t", "tmpfs", "tmpfs", "/mnt"], check=True, capture_output=True
            )
        except (OSError, subprocess.CalledProcessError):
            continue
        return command
    return None


@pytest.mark.skipif(namespace() is None, reason="mounting a disk is not permitted here")
@pytest.mark.parametrize("how", ["full", "read-only"])
def test_a_disk_that_becomes_full_or_read_only(tmp_path, how):
    """After the third checkpoint, on a disk of its own."""
    script = Path(__file__).with_name("small_disk.py")
    ran = subprocess.run(
        [*namespace(), sys.executable, script, tmp_path, how], capture_output=True, text=True, check=True
    )
    told = json.loads(ran.stdout.splitlines()[-1])
    reason = {"full": "No space left on device|a write failed, 0 MB are free"}
    reason["read-only"] = "Read-only file system"
    cure = {"full": "make room", "read-only": "correct that"}[how]
    advice = f"{cure}, then resume from the last checkpoint with 'recdqn resume {tmp_path}/run'"
    assert re.fullmatch(rf"cannot write into {tmp_path}/run \(({reason[how]})\): {advice}", told["line"])
    assert len(told["states"]) == 2 and all(name.startswith("checkpoint-") for name in told["states"])
    assert told["left"] == []
    assert told["same"] is True
