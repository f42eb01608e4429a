"""A run with Ray actors ends with the same numbers when actors, machines or the learner are killed."""

import contextlib
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import psutil
import pytest
import torch
from runs import command, go_on, join, start

from recdqn import Config, load_checkpoint, resume, train
from recdqn.scale import Fleet

ray = pytest.importorskip("ray", reason="pip install 'recdqn[scale]'")
cluster_utils = pytest.importorskip("ray.cluster_utils")
SETTINGS = {
    "env": {"num_envs": 4},
    "train": {
        "total_frames": 640,
        "warmup_frames": 128,
        "updates": 1,
        "eval_every": 4,
        "eval_episodes": 2,
        "save_seconds": 0.0,
    },
    "policy": {"hidden_size": 8, "features": 8, "head": 8},
    "replay": {"slices": 4, "slice_len": 10},
    "scale": {"actors": 2, "start_seconds": 600.0},  # a slow machine may need more than usual
}
CFG = Config.preset("masked-cartpole").replace(**SETTINGS)


@pytest.fixture(scope="module")
def undisturbed():
    """The weights of a run that nothing happens to, on a Ray of its own."""
    return train(CFG, progress=False).policy.state_dict()


@pytest.fixture(scope="module")
def nodes():
    """A cluster of two simulated machines with one processor each."""
    options = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
    cluster = cluster_utils.Cluster(
        initialize_head=True, head_node_args=options | {"include_dashboard": False}
    )
    cluster.options = options
    cluster.workers = [cluster.add_node(**options)]
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def assert_same(policy, expected):
    found = policy.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def before_collections(monkeypatch, actions):
    """Call ``actions[n]`` before collection ``n`` of a fleet in this process."""
    collect, count = Fleet.collect, []

    def collect_after_action(self):
        actions.get(len(count), lambda: None)()
        count.append(1)
        return collect(self)

    monkeypatch.setattr(Fleet, "collect", collect_after_action)


def actors():
    return [p for p in psutil.Process().children(recursive=True) if p.name().startswith("ray::Actor")]


def kill_one(pick):
    time.sleep(pick.uniform(0.0, 0.2))  # while it collects, or after that
    pick.choice(actors()).kill()


def kill_actors(monkeypatch, kills, seed):
    pick = random.Random(seed)
    before_collections(monkeypatch, {n: partial(kill_one, pick) for n in pick.sample(range(10), kills)})


@pytest.mark.long
@pytest.mark.parametrize("seed", [1, 2])
def test_actors_killed_at_random_moments(undisturbed, nodes, monkeypatch, seed):
    kill_actors(monkeypatch, 10, seed)
    run = train(CFG.replace(scale={"address": nodes.address}), progress=False)
    assert_same(run.policy, undisturbed)


def test_actors_are_killed_and_a_machine_is_lost_while_another_joins(undisturbed, nodes, monkeypatch):
    """The only other machine: its actor waits until a new one comes."""
    lost, kill = [], partial(kill_one, random.Random(0))

    def lose():
        assert len(actors()) == 2
        nodes.remove_node(nodes.workers.pop(), allow_graceful=False)
        lost.append(1)
        nodes.workers.append(nodes.add_node(wait=False, **nodes.options))

    before_collections(monkeypatch, {1: kill, 5: lose, 8: kill})
    run = train(CFG.replace(scale={"address": nodes.address}), progress=False)
    assert lost
    assert_same(run.policy, undisturbed)


@pytest.mark.long
@pytest.mark.parametrize(
    ("preset", "env"),
    [("pixel-cartpole", {"image_size": 40}), ("masked-cartpole", {"workers": True})],
    ids=["pixels", "workers"],
)
def test_pictures_and_worker_processes(nodes, monkeypatch, preset, env):
    """The buffer wraps, and an actor's own worker processes end with it."""
    cfg = Config.preset(preset).replace(**SETTINGS).replace(env=env, replay={"capacity": 400})
    cfg = cfg.replace(scale={"address": nodes.address})
    expected = train(cfg, progress=False).policy.state_dict()
    kill_actors(monkeypatch, 3, seed=0)
    assert_same(train(cfg, progress=False).policy, expected)


def until(condition, seconds=600.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.05)


def checkpoints(out):
    return sorted((out / "checkpoints").glob("checkpoint-*.torchrl"))


# What another environment than the preset's is not given.
CARTPOLES = (
    "--env.observation=masked --env.visible 0 2 --env.loc 0 0 --env.scale 2 20 --env.reward-scale=0.005 "
    "--policy.initial-value=1 --train.solved-return=475"
).split()


def options(out, *more):
    parts = [
        (f"--{part}.{name}", str(value))
        for part, values in SETTINGS.items()
        for name, value in values.items()
    ]
    return ["train", "masked-cartpole", *sum(parts, ()), "--out", str(out), *more]


def end(processes):
    for each in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.kill()


def running(tree):
    """Return those that step environments or serve them; two helpers of Ray's 2.60 outlive it for minutes."""
    states = {p: p.status() for p in tree if p.is_running()}
    return [
        p for p, state in states.items() if state != psutil.STATUS_ZOMBIE and not p.name().endswith("Agent")
    ]


@pytest.mark.long
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
def test_the_learner_is_stopped_or_killed_and_resumed(undisturbed, tmp_path, signum):
    out, log = tmp_path / "run", tmp_path / "log"
    run = start(command, *options(out), log=log)
    until(lambda: len(checkpoints(out)) == 2)
    tree = psutil.Process(run.pid).children(recursive=True)
    assert {"raylet", "ray::Actor"} <= {p.name().partition(".")[0] for p in tree}
    os.kill(run.pid, signum)
    join(run)
    if signum == signal.SIGTERM:
        assert run.exitcode == 128 + signum
        assert log.read_text().splitlines()[-1].endswith(f"resume with 'recdqn resume {out}'")
    until(lambda: not running(tree))
    end(tree)
    assert_same(resume(out, progress=False).policy, undisturbed)


@pytest.mark.long
@pytest.mark.parametrize("machines", [1, 2])
def test_twenty_random_kills_of_actors_machines_and_the_learner(machines, tmp_path, request):
    """One run; each kill comes some time after one of its collections."""
    cfg = CFG.replace(train={"total_frames": 64 * 60, "eval_every": 30}, env={"id": "zoo:SlowCartPole"})
    expected = train(cfg, progress=False).policy.state_dict()
    nodes = request.getfixturevalue("nodes") if machines == 2 else None
    cfg = cfg.replace(scale={"address": nodes.address if nodes else "local"})
    pick, out, log = random.Random(machines), tmp_path / "run", tmp_path / "log"
    kinds = ["actor"] * 9 + ["learner"] * 5 + (["machine"] * 6 if nodes else ["actor"] * 6)
    pick.shuffle(kinds)
    run = start(go_on, cfg, out, log=log)
    for collection, kind in zip(sorted(pick.choices(range(45), k=len(kinds))), kinds, strict=True):
        until(lambda at=collection, run=run: (saved(out) >= at and actors()) or not run.is_alive())
        assert run.is_alive(), log.read_text()
        time.sleep(pick.uniform(0.0, 0.5))
        if kind == "actor":
            end([pick.choice(actors())])
        elif kind == "machine":
            nodes.remove_node(nodes.workers.pop(), allow_graceful=False)
            nodes.workers.append(nodes.add_node(wait=False, **nodes.options))
        else:
            tree = psutil.Process(run.pid).children(recursive=True)
            os.kill(run.pid, signal.SIGKILL)
            join(run)
            assert run.exitcode == -signal.SIGKILL
            until(lambda tree=tree: not running(tree))
            end(tree)
            run = start(go_on, cfg, out, log=log)
    join(run)
    assert run.exitcode == 0, log.read_text()
    assert log.read_text().count("another one goes on with its episodes") >= 10
    assert_same(load_checkpoint(out).policy, expected)


def saved(out):
    """Collections before the newest checkpoint."""
    return max((int(path.stem.rpartition("-")[2]) // 65 for path in checkpoints(out)), default=-1)


@contextlib.contextmanager
def ray_start(port):
    """Two machines on loopback, by ``ray start`` as a user would; yields what kills the head's server.

    Not the whole head: Ray ends a process that is just talking to its own machine's object store. So
    ``ray start``, which would end its machine a second after the server, is stopped before.
    """
    common = ["--block", "--num-cpus=1", "--disable-usage-stats", "--object-store-memory=80000000"]
    first = ["--head", "--node-ip-address=127.0.0.1", f"--port={port}", "--include-dashboard=false"]
    started = []

    def begin(*arguments):
        line = [Path(sys.executable).with_name("ray"), "start", *common, *arguments]
        started.append(psutil.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        return started[-1]

    def reachable():
        with socket.socket() as one:
            return one.connect_ex(("127.0.0.1", port)) == 0

    head = begin(*first)
    until(reachable)
    begin(f"--address=127.0.0.1:{port}")

    def kill_server():
        head.suspend()
        end([p for p in head.children(recursive=True) if p.name() == "gcs_server"])

    trees = lambda: [p for one in started for p in (*one.children(recursive=True), one)]  # noqa: E731
    try:
        yield kill_server
    finally:
        end(trees())
        for one in started:
            one.wait()


SENT = """
import gymnasium

with open({seen!r}, "a") as file:
    print(__file__, file=file)


def make():
    return gymnasium.make("CartPole-v1")
"""


def test_the_head_is_lost(undisturbed, tmp_path, monkeypatch):
    """The run ends in one line, and goes on elsewhere.

    The machines get the module of the environment from the learner.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    out, log, seen, modules = (tmp_path / name for name in ("run", "log", "seen", "modules"))
    modules.mkdir()
    (modules / "sent.py").write_text(SENT.format(seen=str(seen)))
    with ray_start(port) as kill_head:
        monkeypatch.syspath_prepend(modules)  # the learner's only
        more = "--scale.address", f"127.0.0.1:{port}", "--env.id", "sent:make", *CARTPOLES
        run = start(command, *options(out, *more), log=log)
        until(lambda: len(checkpoints(out)) == 2 or not run.is_alive())
        kill_head()
        join(run, 60)
        assert run.exitcode == 2, log.read_text()
        assert re.fullmatch(
            rf"recdqn: the head of the Ray cluster at [\d.]+:{port} is lost \(ConnectionRefusedError: .*\): "
            r"start it again and resume, or resume on another one with 'recdqn resume --address'",
            log.read_text().splitlines()[-1],
        )
    assert sum("py_modules" in line for line in seen.read_text().splitlines()) >= 2  # one for each actor
    assert_same(resume(out, progress=False, address="local").policy, undisturbed)


PROGRAM = """
import gymnasium as gym
from recdqn import Config, train
from gymnasium.envs.classic_control import CartPoleEnv
class Mine(CartPoleEnv):
    pass
gym.register("Mine-v0", Mine)
cfg = Config.preset("masked-cartpole").replace(
    env={"id": "Mine-v0", "num_envs": 2}, scale={"actors": 1}, replay={"capacity": 2_000},
    train={"total_frames": 256, "warmup_frames": 128, "updates": 1, "eval_every": 4, "eval_episodes": 2},
)
print(train(cfg, progress=False).metrics[-1]["frames"])
"""


@pytest.mark.long
def test_actors_know_what_the_program_defines(tmp_path):
    """A script without if __name__ == "__main__", where TMPDIR is too long for Ray's sockets."""
    script, folder = tmp_path / "script.py", tmp_path / ("x" * 100)
    script.write_text(PROGRAM)
    folder.mkdir()
    environment = os.environ | {"TMPDIR": str(folder)}
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1:] == ["256"], done.stderr
