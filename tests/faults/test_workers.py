"""Worker processes that hang, are killed or lose their parent."""

import contextlib
import multiprocessing
import os
import signal
import socket
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
from recdqn.envs import processes
from recdqn.envs.processes import Workers
from recdqn.envs.sockets import socket_folder
from recdqn.errors import UserError

PLAIN = {"observation": "whole", "loc": (0.0,), "scale": (1.0,), "reward_scale": 1.0}
GENEROUS = 600.0  # seconds, for what should take one


def config(kind, seconds=GENEROUS):
    return EnvConfig(**PLAIN, id=kind, num_envs=3, workers=True, step_seconds=seconds)


def make_workers(seconds=GENEROUS):
    return Workers([zoo.NeverEnds] * 3, "mine", seconds)


@pytest.mark.parametrize("kind", [zoo.Walk, zoo.Picture])
def test_training_with_workers_is_the_same_bit_for_bit(kind, tiny):
    cfg = tiny.replace(
        env={**PLAIN, "arrays": ("picture",), "id": kind, "num_envs": 4}, policy={"channels": (4, 4, 4)}
    )
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


def test_an_environment_that_hangs_while_it_is_made(monkeypatch):
    monkeypatch.setattr(processes, "START_SECONDS", 2.0)
    message = "start took more than 2 seconds and step_seconds=1; raise that, or look for what it waits for"
    with pytest.raises(UserError, match=rf"^faulty:HangsInAWorker \(copy 0, 1, 2\) failed: {message}$"):
        make_env(config(faulty.HangsInAWorker, seconds=1.0))
    assert multiprocessing.active_children() == []


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


PROGRAM = """
import threading
import gymnasium as gym
import numpy as np
import torch
from recdqn import make_env
from recdqn.config import EnvConfig
from recdqn.errors import UserError

class Walk(gym.Env):
    observation_space = gym.spaces.Box(-1, 1, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)
    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        return np.float32([self.np_random.random()]), {}
    def step(self, action):
        return np.float32([self.np_random.random()]), 0.0, False, False, {}

gym.register("Class-v0", Walk)
gym.register("Place-v0", "__main__:Walk")
def nested():
    return gym.make("Class-v0", max_episode_steps=5)
lock = threading.Lock()
def locked():
    with lock:
        return Walk()

for kind in (Walk, "Class-v0", "Place-v0", nested, locked):
    seen = []
    for workers in (False, True):
        cfg = EnvConfig(id=kind, num_envs=2, workers=workers, observation="whole", loc=(0,), scale=(1,))
        try:
            env = make_env(cfg)
        except UserError as error:
            print(error)
            continue
        env.set_seed(0)
        seen.append(env.rollout(3)["observation"])
        env.close()
    print(kind, len(seen), all(torch.equal(seen[0], other) for other in seen))
"""


def test_workers_know_what_only_the_program_defines(tmp_path):
    """A script without if __name__ == "__main__", where TMPDIR is too long for the name of a socket."""
    script, folder = tmp_path / "script.py", tmp_path / ("x" * 100)
    script.write_text(PROGRAM)
    folder.mkdir()
    environment = os.environ | {"TMPDIR": str(folder)}
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(" 2 True\n") == 4
    assert "env.id='__main__:locked' cannot be sent to another process (TypeError" in done.stdout
    assert done.stderr.splitlines() == [
        f"env.workers=True: {script} has no if __name__ == '__main__'; these workers do not need it, "
        "but the processes of other libraries would run the whole file again"
    ]


@pytest.mark.parametrize("inside", [32, 70])
def test_a_folder_leaves_room_for_a_socket(tmp_path, monkeypatch, inside):
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    with (
        tempfile.TemporaryDirectory(dir=socket_folder(inside)) as folder,
        socket.socket(socket.AF_UNIX) as made,
    ):
        name = "x" * (inside - 2 - len(os.path.basename(folder)))  # two separators
        made.bind(os.path.join(folder, name))
    monkeypatch.setattr("recdqn.envs.sockets.SHORT", ())
    assert socket_folder(inside) is None


def test_an_environment_of_another_program_is_refused_with_the_cure():
    with pytest.raises(
        UserError, match=r"'__main__:Walk' cannot be made: .* put it into a module of its own;"
    ):
        make_env(config("__main__:Walk"))


def test_workers_say_why_they_cannot_start_and_print_nothing(subprocess_env):
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
    reason = "cannot be made: OSError: the licence server does not answer"
    assert f"during start, env.id='zoo:fails_in_workers' {reason}" in lines[-1]
    assert done.stderr == ""
