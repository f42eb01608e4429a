"""A disk that is full, too small or cannot be written: one line, and the last checkpoint stands."""

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
    """The names of the checkpoints."""
    return sorted(path.name for path in (out / "checkpoints").glob("checkpoint-*"))


def test_a_disk_that_is_too_small_is_refused_with_the_numbers(tiny, tmp_path, monkeypatch):
    """Two states of 8 units, now and next; two observations of 2; and what else is stored of a step."""
    step = 4 * (2 * 2 * 8 + 2 * 2 + 2 + 1) + 8 * (2 + 1 + 1 + 1) + 5
    size = step * tiny.replay.capacity
    usage = types.SimpleNamespace(free=5 * size - MEGABYTE // 2)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage)
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


def test_checkpoints_that_are_there_need_no_more_room(tiny, tmp_path, monkeypatch):
    """A disk that was just large enough for a run is so for going on with it."""
    train(tiny, out=tmp_path / "run", progress=False)
    env = make_env(tiny.env)
    add_primers(env, make_policy(tiny.policy, env))
    size = stored_bytes(tiny, env)
    held = sum(path.stat().st_size for path in (tmp_path / "run" / "checkpoints").iterdir())
    usage = types.SimpleNamespace(free=5 * size - held)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage)
    resume(tmp_path / "run", frames=576, progress=False)
    held = sum(path.stat().st_size for path in (tmp_path / "run" / "checkpoints").iterdir())
    usage.free = 5 * size - held - 1
    with pytest.raises(UserError, match="choose another folder, or a smaller replay.capacity"):
        resume(tmp_path / "run", frames=640, progress=False)


def test_files_of_the_buffer_are_filled_and_have_no_names(tmp_path):
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
def test_a_scratch_folder_that_vanishes_harms_nothing(tiny, tmp_path, monkeypatch, saved):
    """Somebody empties the folder for temporary files, or the run's own, while it trains."""
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


def test_a_file_that_may_not_grow_ends_the_run(tiny, tmp_path):
    """A quota of 150 kB a file, which the first checkpoints keep to and the later ones do not."""
    cfg = tiny.replace(train={"total_frames": 768, "save_seconds": 0.0}, replay={"capacity": 768})
    out, log = tmp_path / "run", tmp_path / "log"
    run = start(fresh, cfg, out, log=log, limit=150_000)
    run.join(60)
    assert run.exitcode == 1
    assert "cannot write into" in log.read_text() and "recdqn resume" in log.read_text()
    check_intact(cfg, out)


def check_intact(cfg, out):
    """Nothing is half-written, and the run goes on from what there is to the end it would have had."""
    assert states(out) and states(out) == sorted(path.name for path in (out / "checkpoints").iterdir())
    assert not list(out.glob("*.tmp"))
    run, whole = resume(out, progress=False), train(cfg, progress=False)
    for a, b in zip(run.policy.parameters(), whole.policy.parameters(), strict=True):
        assert torch.equal(a, b)


def namespace():
    """The command that gives a process mounts of its own, as root or not; None where that is forbidden."""
    for command in (["unshare", "--mount"], ["unshare", "--map-root-user", "--mount"]):
        try:
            subprocess.run(
                [*command, "mount", "-t", "tmpfs", "tmpfs", "/mnt"], check=True, capture_output=True
            )
        except (OSError, subprocess.CalledProcessError):
            continue
        return command
    return None


@pytest.mark.skipif(namespace() is None, reason="this machine lets nobody mount a disk")
@pytest.mark.parametrize("how", ["full", "read-only"])
def test_a_disk_that_cannot_be_written_any_more(tmp_path, how):
    """On a disk of its own that gets full, or is found read-only, after the third checkpoint."""
    script = Path(__file__).with_name("small_disk.py")
    ran = subprocess.run(
        [*namespace(), sys.executable, script, tmp_path, how], capture_output=True, text=True, check=True
    )
    told = json.loads(ran.stdout.splitlines()[-1])
    reason = {"full": "No space left on device|a write failed, 0 MB are free"}
    reason["read-only"] = "Read-only file system"
    advice = f"make room, then resume from the last checkpoint with 'recdqn resume {tmp_path}/run'"
    assert re.fullmatch(rf"cannot write into {tmp_path}/run \(({reason[how]})\): {advice}", told["line"])
    assert len(told["states"]) == 2 and all(name.startswith("checkpoint-") for name in told["states"])
    assert told["left"] == []
    assert told["same"] is True
