"""Environments that run in processes of their own, with a time limit for each step."""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import multiprocessing.util
import os
import queue
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from recdqn.envs.checked import _reason
from recdqn.errors import UserError


class Workers(gym.vector.AsyncVectorEnv):
    """Environments that step together, each in a process of its own (chapter 1).

    What happens in them is what would happen in one process. The processes end with this one, however it
    ends, even while an environment hangs.

    Args:
        makers: functions that make one environment each; they must be picklable.
        name: what messages call them.
        seconds: the most that a step or a reset of all of them may take.

    Raises:
        UserError: if one of them fails, takes too long, or its process ends. Then no process is left.
    """

    def __init__(self, makers: Sequence[Callable[[], gym.Env]], name: str, seconds: float) -> None:
        self.name, self._seconds = name, seconds
        # A fork of this process, which has threads, could hang. The server has none, and imports only once.
        context = "forkserver" if sys.platform.startswith("linux") else "spawn"
        multiprocessing.set_forkserver_preload(["recdqn.envs"])
        folder = multiprocessing.util.get_temp_dir()  # the server's socket lies there
        with self._watch("start"):
            super().__init__(
                [partial(_work, maker, os.getpid(), folder) for maker in makers],
                context=context,
                autoreset_mode=gym.vector.AutoresetMode.DISABLED,
            )

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """Reset all of them, or those of a mask."""
        with self._watch("reset"):
            self.reset_async(**kwargs)
            return self.reset_wait(self._seconds)

    def step(self, actions: np.ndarray) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Step all of them."""
        with self._watch("step"):
            self.step_async(actions)
            return self.step_wait(self._seconds)

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Call a method of each."""
        with self._watch(name):
            self.call_async(name, *args, **kwargs)
            return self.call_wait(self._seconds)

    def close_extras(self, timeout: float | None = None, terminate: bool = False) -> None:
        """End the processes, by force where they do not end by themselves."""
        pipes, processes = getattr(self, "parent_pipes", []), getattr(self, "processes", [])
        end = time.monotonic()
        if not terminate:
            end += self._seconds if timeout is None else timeout
            for pipe in pipes:
                with contextlib.suppress(OSError):
                    pipe.send(("close", None))
        for process in processes:
            if process.pid is not None:
                process.join(max(end - time.monotonic(), 0))
                process.kill()
                process.join()
        for pipe in pipes:
            pipe.close()

    @contextlib.contextmanager
    def _watch(self, call: str) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            line = self._line(call, error)
            self.close(terminate=True)
            if line is None:
                raise
            raise UserError(line) from error

    def _line(self, call: str, error: BaseException) -> str | None:
        """Say what happened; ``None`` where the error says it."""
        if isinstance(error, multiprocessing.TimeoutError):
            late = [copy for copy, pipe in enumerate(self.parent_pipes) if not pipe.poll()]
            return (
                f"{self._named(late)} failed: {call} took more than step_seconds={self._seconds:g}; "
                "raise that, or look for what it waits for"
            )
        if isinstance(error, (EOFError, OSError, queue.Empty)):
            running = {process.sentinel: copy for copy, process in enumerate(self.processes)}
            ended = [running[end] for end in multiprocessing.connection.wait(list(running), timeout=5)]
            codes = {self.processes[copy].exitcode for copy in ended}
            how = "; ".join(sorted(_ending(code) for code in codes)) or f"broke off ({_reason(error)})"
            return f"{self._named(sorted(ended))} failed: during {call}, its process {how}"
        return None

    def _named(self, copies: list[int]) -> str:
        return f"{self.name} (copy {', '.join(map(str, copies))})" if copies else self.name

    def _raise_if_errors(self, successes: Sequence[bool]) -> None:
        """Raise the first error; the parent would also warn of each, at length."""
        if not all(successes):
            _, _, error, trace = self.error_queue.get(timeout=self._seconds)
            raise error from RuntimeError(trace)


def _work(maker: Callable[[], gym.Env], parent: int, folder: str) -> gym.Env:
    """Make an environment in a worker, and see to it that the worker ends with its parent."""
    if os.getpid() == parent:  # Gymnasium makes one more here, to look at its spaces
        return maker()
    for signum in (signal.SIGINT, signal.SIGTERM):  # they may reach every process; the parent decides
        signal.signal(signum, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, args=[folder], daemon=True).start()
    torch.set_num_threads(1)
    try:
        return maker()
    except Exception as error:
        raise SystemExit(f"recdqn: {_reason(error)}") from None  # printed without the traceback


def _end_with_parent(folder: str) -> None:
    multiprocessing.parent_process().join()
    shutil.rmtree(folder, ignore_errors=True)  # a parent that was killed could not
    os._exit(1)


def _ending(code: int) -> str:
    if code >= 0:
        return f"ended with exit status {code}: see what it printed"
    name = signal.Signals(-code).name
    return f"was killed by {name}: if memory ran out, use a smaller num_envs or fewer episodes"
