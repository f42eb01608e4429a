"""A run that a signal stops: it saves, says how to go on, and goes on as if nothing had happened."""

import contextlib
import io
import json
import os
import signal
import time
import zipfile

import pytest
import torch
from outcomes import equal, newest, outcome, parts, parts_seconds, same
from runs import command, fresh, hang, start, wait

from recdqn import evaluate, resume
from recdqn.envs.processes import Workers
from recdqn.loss import RecurrentDQNLoss
from recdqn.run.signals import Stopped
from recdqn.run.state import Checkpoints


@pytest.mark.parametrize("call", [5, 11])
def test_stopped_between_two_updates(short, tmp_path, monkeypatch, call):
    """The first of two updates is made; the second comes before any collection, on a ring that has wrapped.

    All that is saved at the end is what a run saves that never stopped, down to the numbers of episodes.
    """
    fresh(short, tmp_path / "whole")
    forward, calls = RecurrentDQNLoss.forward, []

    def stop(self, batch):
        calls.append(1)
        if len(calls) == call:
            os.kill(os.getpid(), signal.SIGTERM)
        return forward(self, batch)

    monkeypatch.setattr(RecurrentDQNLoss, "forward", stop)
    with pytest.raises(Stopped, match=f"^stopped after {128 + (call - 1) // 2 * 64} frames; resume with"):
        fresh(short, tmp_path / "run")
    monkeypatch.undo()
    seconds = parts_seconds(tmp_path / "run")
    resume(tmp_path / "run", progress=False)
    assert equal(parts(tmp_path / "run"), parts(tmp_path / "whole"))
    rows = json.loads((tmp_path / "run" / "metrics.json").read_text())["evaluations"]
    assert parts_seconds(tmp_path / "run") > seconds > 0
    assert [row["seconds"] for row in rows] == sorted(row["seconds"] for row in rows)


def test_an_evaluation_is_broken_off_and_comes_again(short, whole, tmp_path, monkeypatch):
    played = []

    def stop(*args, **kwargs):
        played.append(1)
        if len(played) == 2:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)  # the signal must not wait for this
            played.append("waited")
        return evaluate(*args, **kwargs)

    monkeypatch.setattr("recdqn.training.evaluate", stop)
    with pytest.raises(Stopped, match="^stopped after 512 frames"):
        fresh(short, tmp_path / "run")
    monkeypatch.undo()
    assert played == [1, 1]
    assert [row["frames"] for row in outcome(tmp_path / "run")[0]] == [256]
    resume(tmp_path / "run", progress=False)
    assert same(outcome(tmp_path / "run"), whole[0])


def test_patience_ends_where_saving_begins(short, whole, tmp_path, monkeypatch):
    """A save that takes longer than a step may is waited for."""
    save, forward = Checkpoints.save, RecurrentDQNLoss.forward

    def slow(self, step):
        time.sleep(2.5)
        save(self, step)

    def stop(self, batch):
        os.kill(os.getpid(), signal.SIGTERM)
        return forward(self, batch)

    monkeypatch.setattr("recdqn.run.signals.DEADLINE", 2.0)
    monkeypatch.setattr(Checkpoints, "save", slow)
    monkeypatch.setattr(RecurrentDQNLoss, "forward", stop)
    with pytest.raises(Stopped, match="^stopped after 128 frames; resume with"):
        fresh(short.replace(train={"save_seconds": 60.0}), tmp_path / "run")
    monkeypatch.undo()
    assert len(newest(tmp_path / "run")) == 1


def test_a_signal_that_comes_when_all_is_done_changes_nothing(short, whole, tmp_path, monkeypatch):
    save = Checkpoints.save

    def late(self, step):
        save(self, step)
        if step == 640 + 18 + 3:  # environment steps, updates and evaluations
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Checkpoints, "save", late)
    fresh(short, tmp_path / "run")
    assert same(outcome(tmp_path / "run"), whole[0])


def test_workers_leave_signals_to_their_parent(short, whole, tmp_path, monkeypatch):
    """Ctrl-C reaches all processes of a terminal, and some schedulers send SIGTERM to all as well."""
    save, workers, start_workers = Checkpoints.save, [], Workers.__init__

    def note(self, *args):
        start_workers(self, *args)
        workers.append(self)

    def disturb(self, step):
        save(self, step)
        for process in workers[0].processes:
            os.kill(process.pid, signal.SIGTERM)
            os.kill(process.pid, signal.SIGINT)

    monkeypatch.setattr(Workers, "__init__", note)
    monkeypatch.setattr(Checkpoints, "save", disturb)
    fresh(short.replace(env={"workers": True}), tmp_path / "run")
    assert same(outcome(tmp_path / "run"), whole[0])


@pytest.mark.parametrize(
    "preset, number, status",
    [
        ("masked-cartpole", signal.SIGINT, 130),
        ("masked-cartpole", signal.SIGTERM, 143),
        ("masked-cartpole", signal.SIGHUP, 129),
        ("pixel-cartpole", signal.SIGINT, 130),
        ("pixel-cartpole", signal.SIGTERM, 143),
    ],
)
def test_a_signal_saves_and_stops(tmp_path, preset, number, status):
    """A real command; the pixel one draws, and pygame's library would take SIGTERM for itself."""
    out, log = tmp_path / "run", tmp_path / "log"
    run = start(command, "train", preset, "--out", out, log=log)
    wait(lambda: "frame/s" in log.read_text() and " 0/" not in log.read_text().splitlines()[-1], run, log)
    os.kill(run.pid, number)
    run.join(600)
    assert run.exitcode == status
    last = log.read_text().splitlines()[-1]
    assert last.startswith("recdqn: stopped after ") and last.endswith(f"'recdqn resume {out}'")
    frames = int(last.split()[3])
    (path,) = newest(out)
    with zipfile.ZipFile(path) as file:
        manifest = json.loads(file.read("manifest.json"))
        state = io.BytesIO(file.read(manifest["components"]["progress"]["path"] + "/state.pt"))
    assert torch.load(state, weights_only=True)["frames"] == frames > 0


def test_nohup_is_respected(short, whole, tmp_path):
    """A terminal that closes does not stop a run that was started to outlive it."""
    out = tmp_path / "run"
    run = start(fresh, short, out, nohup=True)
    wait(lambda: newest(out), run)
    os.kill(run.pid, signal.SIGHUP)
    run.join(600)
    assert run.exitcode == 0
    assert same(outcome(out), whole[0])


@pytest.mark.parametrize("stopped", [False, True])
def test_the_alarm_belongs_to_the_program(short, tmp_path, monkeypatch, stopped):
    """An environment, a time limit of a cluster and pytest-timeout use SIGALRM."""
    forward, rung = RecurrentDQNLoss.forward, []

    def ring(self, batch):
        if not rung:
            signal.raise_signal(signal.SIGALRM)
            os.kill(os.getpid(), signal.SIGTERM) if stopped else None
        return forward(self, batch)

    monkeypatch.setattr(RecurrentDQNLoss, "forward", ring)
    before = signal.signal(signal.SIGALRM, lambda *_: rung.append(1))
    signal.setitimer(signal.ITIMER_REAL, 1000)
    try:
        with pytest.raises(Stopped) if stopped else contextlib.nullcontext():
            fresh(short, tmp_path / "run")
        assert rung == [1]
        assert 0 < signal.setitimer(signal.ITIMER_REAL, 0)[0] < 1000
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_a_second_signal_stops_at_once(short, tmp_path):
    """The first one comes while a step hangs, so that only the second can end the run by itself."""
    out = tmp_path / "run"
    run = start(hang, short, out)
    wait(lambda: (out / "hangs").exists(), run)
    os.kill(run.pid, signal.SIGINT)
    time.sleep(0.2)  # two signals at the same moment may be told as one
    os.kill(run.pid, signal.SIGTERM)
    run.join(600)
    assert run.exitcode == 143  # of the second; the first would end the step with 130


def test_a_step_that_hangs_is_given_up(short, tmp_path):
    out, log = tmp_path / "run", tmp_path / "log"
    run = start(hang, short, out, log=log)
    wait(lambda: (out / "hangs").exists(), run)
    os.kill(run.pid, signal.SIGTERM)
    run.join(600)
    assert run.exitcode == 143
    assert "a step took longer than 3 seconds" in log.read_text()
    assert len(newest(out)) == 2  # those of before
