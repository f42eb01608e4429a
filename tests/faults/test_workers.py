"""Worker processes that hang, are killed or lose their parent."""

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time

import faulty
import numpy as np
import psutil
import pytest
import zoo
from tensordict.nn import TensorDictModule

from recdqn import evaluate, make_env, train
from recdqn.config import EnvConfig
from recdqn.envs.processes import Workers
from recdqn.errors import UserError

PLAIN = {"observation": "whole", "loc": (0.0,), "scale": (1.0,), "reward_scale": 1.0}
GENEROUS = 120.0  # seconds, for what should take one


def config(kind, seconds=GENEROUS):
    return EnvConfig(**PLAIN, id=kind, num_envs=3, workers=True, step_seconds=seconds)


def make_workers(seconds=GENEROUS):
    return Workers([zoo.NeverEnds] * 3, "mine", seconds)


@pytest.mark.parametrize("kind", [zoo.Walk, zoo.Picture])
def test_training_with_workers_is_the_same_bit_for_bit(kind, tiny):
    cfg = tiny.replace(env={**PLAIN, "id": kind, "num_envs": 4}, policy={"channels": (4, 4, 4)})
    metrics, weights = [], []
    for workers in (False, True):
        run = train(cfg.replace(env={"workers": workers}), progress=False)
        metrics.append([{k: v for k, v in row.items() if k != "seconds"} for row in run.metrics])
        weights.append([p.tolist() for p in run.policy.state_dict().values()])
    assert metrics[0] == metrics[1] and weights[0] == weights[1]
    assert multiprocessing.active_children() == []


def test_a_policy_that_fails_leaves_no_worker():
    def fail(observation):
        raise ArithmeticError

    policy = TensorDictModule(fail, in_keys=["observation"], out_keys=["action"])
    with pytest.raises(ArithmeticError):
        evaluate(policy, config(zoo.Walk), episodes=2)
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize(("kind", "call"), [(faulty.Hangs, "step"), (faulty.HangsInReset, "reset")])
def test_a_worker_that_hangs_is_ended_after_the_time_limit(kind, call, capfd):
    message = f"{call} took more than step_seconds=1; raise that"
    env = make_env(config(kind))
    env.rollout(3)  # on a busy machine the first call may take longer than the limit
    env.base_env.gym._seconds = 1.0
    with pytest.raises(UserError, match=rf"^faulty:{kind.__name__} \(copy 0, 1, 2\) failed: {message}"):
        env.rollout(30, break_when_any_done=False)
    assert multiprocessing.active_children() == []
    assert capfd.readouterr().err == ""


def test_a_worker_that_kills_itself(capfd):
    message = r"^faulty:Killed \(copy [0-2, ]+\) failed: during step, its process was killed by SIGKILL: if"
    with pytest.raises(UserError, match=message):
        make_env(config(faulty.Killed)).rollout(10)
    assert multiprocessing.active_children() == []
    assert capfd.readouterr().err == ""


CALLS = {
    "reset": lambda workers: workers.reset(),
    "step": lambda workers: workers.step(np.zeros(3, dtype=np.int64)),
    "render": lambda workers: workers.call("render"),
    "metadata": lambda workers: workers.get_attr("metadata"),
    # A worker that is stopped does not read this message, which is longer than a pipe holds.
    "set_attr of note": lambda workers: workers.set_attr("note", ["x" * 1_000_000, "y", "z"]),
    "has_wrapper_attr": lambda workers: workers.call_each("has_wrapper_attr", [("x" * 1_000_000,)] * 3),
}


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL])
@pytest.mark.parametrize("call", list(CALLS))
def test_every_call_to_a_stopped_or_killed_worker_ends_with_one_line(call, number):
    workers = make_workers()
    workers.reset(seed=0)
    workers._seconds = 1.0
    os.kill(workers.processes[1].pid, number)
    if number == signal.SIGKILL:
        workers.processes[1].join()
    message = {
        signal.SIGSTOP: f"{call} took more than step_seconds=1; raise that",
        signal.SIGKILL: f"during {call}, its process was killed by SIGKILL",
    }
    with pytest.raises(UserError, match=rf"^mine \(copy 1\) failed: {message[number]}"):
        CALLS[call](workers)
    assert multiprocessing.active_children() == []


def test_attributes_of_workers():
    workers = make_workers()
    workers.set_attr("position", [1, 2, 3])
    workers.set_attr("note", "same")
    assert workers.get_attr("position") == (1, 2, 3) and workers.get_attr("note") == ("same",) * 3
    workers.close()


def test_workers_ignore_an_interrupt():
    """Ctrl-C reaches every process of a terminal; the parent decides."""
    workers = make_workers()
    for process in workers.processes:
        os.kill(process.pid, signal.SIGINT)
    assert workers.reset(seed=0)[0].shape == (3, 2)
    workers.close()
    assert multiprocessing.active_children() == []


def test_workers_that_do_not_close_are_ended():
    env = make_env(config(zoo.NeverEnds, seconds=1.0))
    workers = multiprocessing.active_children()
    assert len(workers) == 3
    for process in workers:
        os.kill(process.pid, signal.SIGSTOP)
    env.close()
    assert multiprocessing.active_children() == []


def running(processes):
    """Return the processes that still run; a zombie does not."""
    found = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def test_no_worker_outlives_a_parent_that_is_killed(subprocess_env):
    """Not even one that hangs; and no temporary file is left."""
    code = (
        "import threading\n"
        "from recdqn import make_env\n"
        "from recdqn.config import EnvConfig\n"
        "env = make_env(EnvConfig(id='faulty:Hangs', num_envs=3, workers=True, observation='whole',\n"
        "                         step_seconds=1000.0))\n"
        "threading.Timer(0.5, print, ['ready'], {'flush': True}).start()\n"
        "env.rollout(10)\n"
    )
    command = [sys.executable, "-c", code]
    with tempfile.TemporaryDirectory() as folder:  # pytest's own are too long for a socket's name
        env = subprocess_env | {"TMPDIR": folder}
        with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as parent:
            assert any("ready" in line for line in parent.stdout), "the parent ended early"
            children = psutil.Process(parent.pid).children(recursive=True)
            assert len(children) >= 3
            parent.kill()
        end = time.monotonic() + GENEROUS
        while running(children) and time.monotonic() < end:
            time.sleep(0.05)
        assert not running(children) and os.listdir(folder) == []


def test_workers_print_only_why_they_cannot_start(subprocess_env):
    """In a process of its own, since workers print where the first of them printed."""
    ids = ["faulty:RaisesInStep", "faulty:RaisesUnpicklable", "faulty:Exits", "faulty:Hangs", "faulty:Killed"]
    ids.append("zoo:fails_in_workers")
    code = (
        "from recdqn import make_env\n"
        "from recdqn.config import EnvConfig\n"
        "from recdqn.errors import UserError\n"
        f"for name in {ids}:\n"
        "    try:\n"
        "        cfg = EnvConfig(id=name, num_envs=2, workers=True, observation='whole', step_seconds=1.0)\n"
        "        make_env(cfg).rollout(10)\n"
        "    except UserError as error:\n"
        "        print('one line:', error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=subprocess_env, capture_output=True, text=True, timeout=GENEROUS
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("one line:")]
    assert [line.split(" ")[2] for line in lines] == ids
    assert "during start, its process ended with exit status 1: see what it printed" in lines[-1]
    assert 1 <= len(done.stderr.splitlines()) <= 2, done.stderr
    for line in done.stderr.splitlines():
        assert "cannot be made: OSError: the licence server does not answer" in line
