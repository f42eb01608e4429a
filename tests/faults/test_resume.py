"""A run that is killed and then resumed ends as if nothing had happened."""

import os
import random
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest
from outcomes import Killed, die_after, outcome, same
from runs import fresh, go_on, join, start

from recdqn import Config, load_checkpoint, resume, train
from recdqn.envs.processes import Workers
from recdqn.errors import UserError
from recdqn.run.lock import lock
from recdqn.run.state import Checkpoints


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


def test_workers_resume_exactly(short, whole, tmp_path, monkeypatch):
    """Episodes go to processes and come back from them; it is the run of one process."""
    die_after(monkeypatch, 6)
    cfg = short.replace(env={"workers": True})
    with pytest.raises(Killed):
        fresh(cfg, tmp_path / "run")
    go_on(cfg, tmp_path / "run")
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


def test_two_processes_do_not_train_in_one_folder(killed):
    with lock(killed), pytest.raises(UserError, match="another process trains in"):
        resume(killed, progress=False)
    resume(killed, progress=False)
