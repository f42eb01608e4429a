"""A run that is killed, stopped or damaged, and then resumed, ends as if nothing had happened."""

import contextlib
import io
import json
import multiprocessing
import os
import pickle
import random
import shutil
import signal
import tempfile
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import zoo
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from runs import command, fresh, go_on, hang, join, start

from recdqn import Config, evaluate, load_checkpoint, resume, train
from recdqn.collect import CollectorState
from recdqn.envs.processes import Workers
from recdqn.errors import UserError
from recdqn.loss import RecurrentDQNLoss
from recdqn.run.lock import lock
from recdqn.run.signals import Stopped
from recdqn.run.state import Checkpoints


@pytest.fixture(scope="module")
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


def outcome(out):
    """Metrics without times, and weights."""
    saved = json.loads((out / "metrics.json").read_text())
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in saved["evaluations"]]
    return rows, saved["final"], torch.load(out / "policy.pt", weights_only=True)


def same(a, b):
    """Whether two outcomes are the same, bit for bit."""
    return a[:2] == b[:2] and a[2].keys() == b[2].keys() and all(torch.equal(a[2][k], b[2][k]) for k in a[2])


@pytest.fixture(scope="module")
def whole(short, tmp_path_factory):
    """What a run reaches that never stops, and the seconds it takes."""
    out = tmp_path_factory.mktemp("whole") / "run"
    start(fresh, short, out.with_name("first")).join()  # imports what is imported late
    begun = time.perf_counter()
    start(fresh, short, out).join()
    return outcome(out), time.perf_counter() - begun


def killed_and_resumed(short, whole, folder, moment):
    """Kill a run after so many seconds, go on with it, and compare; return what is wrong, if anything is."""
    expected, _ = whole
    out, tmp, log = folder / "run", folder / "tmp", folder / "log"
    tmp.mkdir(parents=True)
    run = start(fresh, short, out, tmp=tmp, log=log)
    join(run, moment)
    run.kill()
    join(run)
    again = start(go_on, short, out, tmp=tmp, log=log)
    join(again)
    wrong = [] if again.exitcode == 0 else [f"exit {again.exitcode}", log.read_text()[-2_000:]]
    if not wrong and not same(outcome(out), expected):
        wrong.append("the outcome is another one")
    names = {path.name for path in out.iterdir()}
    if names != {"checkpoints", "config.json", "manifest.json", "metrics.json", "policy.pt"}:
        wrong.append(f"the folder holds {names}")
    states = [path.name for path in (out / "checkpoints").iterdir()]
    if len(states) > 2 or not all(name.startswith("checkpoint-") for name in states):
        wrong.append(f"the checkpoints are {states}")
    return wrong + list(tmp.iterdir())


def kill_often(short, whole, folder, times, seed):
    moments = random.Random(seed)
    jobs = [(folder / str(k), moments.uniform(0.0, 1.1) * whole[1]) for k in range(times)]
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda job: killed_and_resumed(short, whole, *job), jobs))
    wrong = {f"killed after {moment:.3f} s": w for (_, moment), w in zip(jobs, results, strict=True) if w}
    assert not wrong


def test_killed_at_random_moments(short, whole, tmp_path):
    kill_often(short, whole, tmp_path, times=50, seed=0)


@pytest.mark.long
def test_killed_at_many_random_moments(short, whole, tmp_path):
    kill_often(short, whole, tmp_path, times=500, seed=1)


class Killed(BaseException):
    """As good as kill -9, but in this process."""


def die_after(monkeypatch, *counts):
    """Let runs die after so many checkpoints; return the list that these are noted in."""
    save, saves = Checkpoints.save, []

    def count(self, step):
        save(self, step)
        saves.append(step)
        if len(saves) in counts:
            raise Killed

    monkeypatch.setattr(Checkpoints, "save", count)
    return saves


@pytest.fixture
def killed(short, tmp_path, monkeypatch):
    """The folder of a run that ended after its sixth checkpoint, in the middle of everything."""
    die_after(monkeypatch, 6)
    with pytest.raises(Killed):
        train(short, out=tmp_path / "run", progress=False)
    monkeypatch.undo()
    return tmp_path / "run"


def newest(out):
    return sorted((out / "checkpoints").glob("checkpoint-*"))


def test_pixels_resume_exactly(tmp_path, monkeypatch):
    """The picture buffer wraps, keeps last pictures aside, and moves slices at random: all of it goes on."""
    cfg = Config.preset("pixel-cartpole").replace(
        env={"num_envs": 4},
        replay={"slices": 2, "capacity": 200},
        train={
            "total_frames": 512,
            "frames_per_batch": 32,
            "warmup_frames": 64,
            "updates": 1,
            "eval_every": 5,
            "eval_episodes": 2,
            "save_seconds": 0.0,
        },
    )
    fresh(cfg, tmp_path / "whole")
    whole = outcome(tmp_path / "whole")
    saves = die_after(monkeypatch, 3, 9)
    for run in (fresh, go_on):
        with pytest.raises(Killed):
            run(cfg, tmp_path / "run")
    go_on(cfg, tmp_path / "run")
    assert len(saves) == 16 + 1
    assert same(outcome(tmp_path / "run"), whole)


def parts(out):
    """Everything in the newest checkpoint, without times."""
    with zipfile.ZipFile(newest(out)[-1]) as file:
        components = json.loads(file.read("manifest.json"))["components"]
        states = {
            name: io.BytesIO(file.read(part["path"] + "/state.pt")) for name, part in components.items()
        }
    states = {name: torch.load(state, weights_only=True) for name, state in states.items()}
    del states["progress"]["seconds"]
    for row in states["progress"]["metrics"]:
        del row["seconds"]
    for episode in states["collection"]["episodes"]:
        del episode["checksum"]  # of the spaces' generators too, which nobody seeds
        generators = json.loads(episode["random"]["generators"])
        episode["random"]["generators"] = {k: v for k, v in generators.items() if "np_random" in k}
    return states


def equal(a, b):
    """Whether nested values are the same, tensors bit for bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


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


def parts_seconds(out):
    """The seconds of training that the newest checkpoint tells."""
    with zipfile.ZipFile(newest(out)[-1]) as file:
        path = json.loads(file.read("manifest.json"))["components"]["progress"]["path"]
        return torch.load(io.BytesIO(file.read(f"{path}/state.pt")), weights_only=True)["seconds"]


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


def test_a_checkpoint_without_a_part_is_refused(killed, whole, capsys):
    newer = newest(killed)[1]
    with zipfile.ZipFile(newer) as old:
        files = {name: old.read(name) for name in old.namelist()}
    manifest = json.loads(files["manifest.json"])
    del manifest["components"]["optim"]
    files["manifest.json"] = json.dumps(manifest).encode()
    with zipfile.ZipFile(newer, "w") as new:
        for name, content in files.items():
            new.writestr(name, content)
    resume(killed, progress=False)
    assert "cannot be used (ValueError: other parts than expected)" in capsys.readouterr().err
    assert same(outcome(killed), whole[0])


def test_workers_resume_exactly(short, whole, tmp_path, monkeypatch):
    """Episodes go to processes and come back from them; it is the run of one process."""
    die_after(monkeypatch, 6)
    cfg = short.replace(env={"workers": True})
    with pytest.raises(Killed):
        fresh(cfg, tmp_path / "run")
    go_on(cfg, tmp_path / "run")
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


def test_a_killed_worker_ends_the_run_and_leaves_it_whole(short, whole, tmp_path, monkeypatch):
    """As the system does when memory runs out."""
    save, saves, workers = Checkpoints.save, [], []
    start_workers = Workers.__init__

    def note(self, *args):
        start_workers(self, *args)
        workers.append(self)

    def kill(self, step):
        save(self, step)
        saves.append(step)
        if len(saves) == 6:
            os.kill(workers[0].processes[3].pid, signal.SIGKILL)

    monkeypatch.setattr(Workers, "__init__", note)
    monkeypatch.setattr(Checkpoints, "save", kill)
    cfg = short.replace(env={"workers": True})
    with pytest.raises(
        UserError, match=r"^CartPole-v1 \(copy 3\) failed: .*killed by SIGKILL: if memory ran out"
    ):
        fresh(cfg, tmp_path / "run")
    assert not any(process.is_alive() for process in workers[0].processes)
    monkeypatch.undo()
    go_on(cfg, tmp_path / "run")
    assert same(outcome(tmp_path / "run"), whole[0])


@pytest.mark.parametrize("damage", ["truncated", "empty", "not an archive", "missing"])
def test_a_damaged_checkpoint_is_refused_and_the_older_one_used(killed, short, whole, capsys, damage):
    older, newer = newest(killed)
    data = newer.read_bytes()
    broken = {"truncated": data[: len(data) // 2], "empty": b"", "not an archive": b"\0" * len(data)}
    newer.unlink() if damage == "missing" else newer.write_bytes(broken[damage])
    resume(killed, progress=False)
    said = capsys.readouterr().err.splitlines()
    if damage == "missing":
        assert said == []
    else:
        (line,) = said
        assert line.startswith(f"{newer} cannot be used (") and line.endswith("trying the one before it")
    assert same(outcome(killed), whole[0])


def test_without_a_usable_checkpoint_a_run_begins_again(killed, whole, capsys):
    for path in newest(killed):
        path.write_bytes(path.read_bytes()[:-100])
    resume(killed, progress=False)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 3 and said[2].endswith("no checkpoint that can be used: the run begins again")
    assert same(outcome(killed), whole[0])


@settings(
    max_examples=30,
    deadline=None,
    derandomize=True,  # the same bits in every run of CI
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_flipped_bits_are_noticed_or_harmless(killed, whole, data):
    """Whichever checkpoint is taken then: the run ends as if it had never stopped."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        shutil.copytree(killed, out)
        path = newest(out)[data.draw(st.integers(0, 1), "file")]
        content = bytearray(path.read_bytes())
        # half of the flips hit the directory at the end of the archive, where zipfile looks first
        first = data.draw(st.sampled_from([0, len(content) - 2_000]), "from")
        for place in data.draw(st.lists(st.integers(first, len(content) - 1), min_size=1, max_size=5), "at"):
            content[place] ^= 1 << data.draw(st.integers(0, 7), "bit")
        path.write_bytes(content)
        resume(out, progress=False)
        assert same(outcome(out), whole[0])


class Evil:
    """What an attacker would put into a file: code that runs when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("ran",)


@pytest.mark.parametrize("how", ["in place of a state", "beside it", "as a stored directory"])
def test_a_checkpoint_with_code_is_refused(killed, whole, capsys, tmp_path, monkeypatch, how):
    """Its checksums are right, so only the way of reading it can help."""
    monkeypatch.chdir(tmp_path)
    newer = newest(killed)[1]
    code = io.BytesIO()
    torch.save(Evil(), code)
    with zipfile.ZipFile(newer) as old:
        files = {name: old.read(name) for name in old.namelist()}
    manifest = json.loads(files["manifest.json"])
    part = manifest["components"]["optim"]
    if how == "in place of a state":
        files[f"{part['path']}/state.pt"] = code.getvalue()
    else:
        # tensordict 0.14.3 unpickles such a file where it loads a directory
        name = "other.pt" if how == "beside it" else "state/other.pickle"
        files[f"{part['path']}/{name}"] = pickle.dumps(Evil())
        part["files"].append(name)
        if how == "as a stored directory":
            part["files"].remove("state.pt")
    files["manifest.json"] = json.dumps(manifest).encode()
    with zipfile.ZipFile(newer, "w") as new:
        for name, content in files.items():
            new.writestr(name, content)
    resume(killed, progress=False)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{newer} cannot be used (")
    assert not (tmp_path / "ran").exists()
    assert same(outcome(killed), whole[0])


def test_what_a_killed_run_leaves_is_swept_away(killed, whole):
    """Killed while it writes, and before it removes the oldest of three; also where nothing else is to do."""
    resume(killed, progress=False)
    older, newer = newest(killed)
    for name in (".checkpoint-1.torchrl.stage-a", ".checkpoint-1.torchrl.backup-b"):
        (killed / "checkpoints" / name).mkdir()
    (killed / ".scratch-x").mkdir()
    (killed / "metrics.json.tmp").touch()
    shutil.copy(older, older.with_name("checkpoint-000000000001.torchrl"))
    with pytest.raises(UserError, match="is finished"):
        resume(killed, progress=False)
    assert newest(killed) == sorted((killed / "checkpoints").iterdir()) == [older, newer]
    names = {path.name for path in killed.iterdir()}
    assert names == {"checkpoints", "config.json", "manifest.json", "metrics.json", "policy.pt"}


def test_checkpoints_that_do_not_fit_are_not_loaded_by_halves(killed, capsys):
    """Whole files with a network of another size in one part: nothing begins from what is half-loaded."""
    for path in newest(killed):
        with zipfile.ZipFile(path) as old:
            files = {name: old.read(name) for name in old.namelist()}
        part = json.loads(files["manifest.json"])["components"]["policy"]["path"] + "/state.pt"
        weights = torch.load(io.BytesIO(files[part]), weights_only=True)
        buffer = io.BytesIO()
        torch.save({k: v[..., :1] if v.ndim else v for k, v in weights.items()}, buffer)
        files[part] = buffer.getvalue()
        with zipfile.ZipFile(path, "w") as new:
            for name, content in files.items():
                new.writestr(name, content)
    with pytest.raises(UserError, match="has no checkpoint that fits: train anew into another folder"):
        resume(killed, progress=False)
    assert len(capsys.readouterr().err.splitlines()) == 2


def test_a_changed_configuration_is_refused(killed):
    path = killed / "config.json"
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 1'))
    with pytest.raises(UserError, match="config.json is not the configuration that .* was made with"):
        resume(killed, progress=False)


def test_a_finished_run_has_nothing_to_go_on_with_but_more_frames(short, tmp_path):
    run = train(short, out=tmp_path / "run", progress=False)
    with pytest.raises(UserError, match="is finished after 640 frames .not solved; --frames N"):
        resume(tmp_path / "run", progress=False)
    longer = resume(tmp_path / "run", frames=896, progress=False)
    assert longer.metrics[: len(run.metrics)] == run.metrics
    assert longer.metrics[-1]["frames"] == 896
    with pytest.raises(UserError, match="train.total_frames=64: expected enough for train.warmup_frames=128"):
        resume(tmp_path / "run", frames=64, progress=False)
    assert load_checkpoint(tmp_path / "run").cfg.train.total_frames == 896
    with pytest.raises(UserError, match="is finished after 896 frames"):
        resume(tmp_path / "run", progress=False)


def test_a_longer_run_remembers_how_long_it_is(short, tmp_path, monkeypatch):
    """Stopped before its next evaluation, and resumed as the message says."""
    train(short, out=tmp_path / "run", progress=False)

    def kill(self, step):
        raise Killed

    monkeypatch.setattr(Checkpoints, "save", kill)
    with pytest.raises(Killed):
        resume(tmp_path / "run", frames=896, progress=False)
    monkeypatch.undo()
    assert resume(tmp_path / "run", progress=False).metrics[-1]["frames"] == 896


def test_a_solved_run_is_finished(short, tmp_path):
    train(short.replace(train={"solved_return": 1.0, "solved_episodes": 2}), tmp_path / "run", progress=False)
    with pytest.raises(UserError, match=r"is finished after 256 frames \(solved\)"):
        resume(tmp_path / "run", progress=False)


def test_a_logger_goes_on_without_doubles(killed, short):
    resume(killed, logger="csv", progress=False)
    logged = (killed / "log" / killed.name / "scalars/eval/return.csv").read_text().split()
    assert [int(line.split(",")[0]) for line in logged] == [256, 512, 640]


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


def test_two_processes_do_not_train_in_one_folder(killed):
    with lock(killed), pytest.raises(UserError, match="another process trains in"):
        resume(killed, progress=False)
    resume(killed, progress=False)


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


def wait(ready, run, log=None):
    """Wait until something is so, at most ten minutes."""
    for _ in range(6_000):
        if (log is None or log.exists()) and ready():
            return
        assert run.is_alive(), log and log.read_text()
        time.sleep(0.1)
    raise AssertionError("it never came to that")
