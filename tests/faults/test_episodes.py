"""The episodes of a resumed run: they go on where they can be replayed, and begin anew where not."""

import multiprocessing
import os
import signal

import pytest
import zoo
from outcomes import Killed, die_after, outcome, same
from runs import fresh, go_on

from recdqn import resume
from recdqn.collect import CollectorState
from recdqn.errors import UserError


def in_another(short, kind, **values):
    """The same run in another environment."""
    return short.replace(env={"id": kind, "observation": "whole", "loc": (0.0,), "scale": (1.0,), **values})


@pytest.mark.parametrize("workers", [False, True], ids=["here", "workers"])
def test_a_physics_engine_resumes_exactly(short, tmp_path, monkeypatch, workers):
    """Box2D keeps its world outside of Python."""
    pytest.importorskip("Box2D", reason="pip install recdqn[envs]")
    cfg = in_another(short, "LunarLander-v3", num_envs=4)
    fresh(cfg, tmp_path / "whole")
    cfg = cfg.replace(env={"workers": workers})
    die_after(monkeypatch, 4, 9)
    for run in (fresh, go_on):
        with pytest.raises(Killed):
            run(cfg, tmp_path / "run")
    go_on(cfg, tmp_path / "run")
    assert same(outcome(tmp_path / "run"), outcome(tmp_path / "whole"))


def new_episodes(cfg, out, capsys, monkeypatch):
    """Kill and resume a run, and return the line that it prints; its episodes begin anew."""
    die_after(monkeypatch, 5)  # 40 steps each: no multiple of the length of an episode in the zoo
    with pytest.raises(Killed):
        fresh(cfg, out)
    monkeypatch.undo()
    capsys.readouterr()
    resume(out, progress=False)
    assert [row["frames"] for row in outcome(out)[0]] == [256, 512, 640]
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.endswith(": new episodes begin\n")
    return said


@pytest.mark.parametrize("workers", [False, True], ids=["here", "workers"])
@pytest.mark.parametrize("kind", [zoo.SystemEntropy, zoo.CountsInClass])
def test_episodes_that_do_not_repeat_begin_anew(short, tmp_path, capsys, monkeypatch, kind, workers):
    cfg = in_another(short, kind, workers=workers)
    said = new_episodes(cfg, tmp_path / "run", capsys, monkeypatch)
    assert said.startswith("the environment does not repeat what it returned when its actions are replayed")


@pytest.mark.parametrize("workers", [False, True], ids=["here", "workers"])
def test_a_replay_that_takes_too_long_is_given_up(short, tmp_path, capsys, monkeypatch, workers):
    cfg = in_another(short, zoo.Walk, workers=workers, replay_seconds=0.0)
    said = new_episodes(cfg, tmp_path / "run", capsys, monkeypatch)
    assert said.startswith("replaying the actions takes more than env.replay_seconds=0")


def test_a_checkpoint_of_an_earlier_version_begins_new_episodes(short, tmp_path, capsys, monkeypatch):
    """It held the attributes of each environment, and no actions."""
    save = CollectorState.state_dict

    def old(self):
        state = save(self)
        del state["episodes"]
        return state | {"games": [{"layers": [], "random": None}]}

    monkeypatch.setattr(CollectorState, "state_dict", old)
    said = new_episodes(short, tmp_path / "run", capsys, monkeypatch)
    assert said.startswith("an earlier version of recdqn saved no actions")


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL])
def test_a_worker_that_fails_in_a_resume_ends_it_with_one_line(short, tmp_path, capfd, monkeypatch, number):
    cfg = in_another(short, zoo.Walk, workers=True, replay_seconds=1.0, step_seconds=5.0)
    die_after(monkeypatch, 6)
    with pytest.raises(Killed):
        fresh(cfg, tmp_path / "run")
    monkeypatch.undo()
    replay = CollectorState.replay

    def disturb(self):
        os.kill(self.collector.env.base_env.gym.processes[3].pid, number)
        return replay(self)

    monkeypatch.setattr(CollectorState, "replay", disturb)
    capfd.readouterr()
    message = {
        signal.SIGSTOP: "restore took more than 1 seconds and step_seconds=5",
        signal.SIGKILL: "during restore, its process was killed by SIGKILL",
    }
    with pytest.raises(UserError, match=rf"^zoo:Walk \(copy 3\) failed: {message[number]}"):
        go_on(cfg, tmp_path / "run")
    assert capfd.readouterr().err == ""
    assert multiprocessing.active_children() == []
