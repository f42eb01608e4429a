"""Runs in separate processes that tests may kill, forked from one that has imported everything."""

import os
import resource
import signal
import sys
import tempfile
import time
from multiprocessing import get_context
from multiprocessing.connection import wait as wait_for
from threading import Lock

import gymnasium as gym
import torch

from recdqn import cli, resume, train
from recdqn.errors import UserError
from recdqn.run.signals import Stopped

context = get_context("forkserver")
context.set_forkserver_preload(["recdqn.cli", "recdqn.training"])
# Two threads that ask for the exit code of one process at once make one of them read 255, and start() asks
# for the exit codes of all processes.
asking = Lock()


def start(function, *args, log=os.devnull, tmp=None, limit=None, nohup=False):
    """Run ``function(*args)`` in a process; its output goes to ``log``, its temporary files to ``tmp``."""
    settings = str(log), tmp and str(tmp), limit, nohup
    process = context.Process(target=_inside, args=(function, args, *settings))
    with asking:
        process.start()
    return process


def join(process, timeout=None):
    """Wait until a process ends, as ``process.join`` does; other threads may start and join others."""
    wait_for([process.sentinel], timeout)
    with asking:
        process.join(0)


def _inside(function, args, log, tmp, limit, nohup):
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(out, 1)
    os.dup2(out, 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_IGN if nohup else signal.SIG_DFL)  # the parent may ignore it
    if limit is not None:  # bytes per file
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    tempfile.tempdir = tmp
    torch.set_num_threads(1)
    function(*args)


def command(*args):
    """Do what ``recdqn ...`` does."""
    sys.argv = ["recdqn", *map(str, args)]
    cli.main()


def fresh(cfg, out):
    """Train from the start."""
    train(cfg, out=out, progress=False)


def go_on(cfg, out):
    """Resume a run that was killed at any moment, as a user would."""
    if not (out / "config.json").exists():
        return fresh(cfg, out)
    try:
        resume(out, progress=False)
    except UserError as error:
        if "is finished" not in str(error):
            raise


def hang(cfg, out):
    """Train until an environment hangs, and create the file ``hangs`` then."""
    step, steps = gym.Wrapper.step, []

    def hanging(self, action):
        steps.append(action)
        if len(steps) == 500:
            (out / "hangs").touch()
            time.sleep(60)
        return step(self, action)

    gym.Wrapper.step = hanging
    try:
        fresh(cfg, out)
    except Stopped as stopped:
        print(stopped, flush=True)
        sys.exit(stopped.status)


def wait(ready, run, log=None):
    """Wait until something is so, at most ten minutes."""
    for _ in range(6_000):
        if (log is None or log.exists()) and ready():
            return
        assert run.is_alive(), log and log.read_text()
        time.sleep(0.1)
    raise AssertionError("it never came to that")
