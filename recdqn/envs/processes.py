"""Vectorised environments in worker processes, with a time limit for every call."""

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
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector.async_vector_env import AsyncState

from recdqn.errors import UserError, first_line

LINUX = sys.platform.startswith("linux")


class Workers(gym.vector.AsyncVectorEnv):
    """Environments that step together, each in a process of its own.

    They return what they would return in one process. The worker processes end when this process ends,
    however it ends, even while an environment hangs.

    Args:
        makers: picklable functions that make one environment each.
        name: what error messages call the environments.
        seconds: time limit of every call, for all environments together.

    Raises:
        UserError: if an environment fails or a call takes too long, or if a process ends. All processes are
            ended then.
    """

    def __init__(self, makers: Sequence[Callable[[], gym.Env]], name: str, seconds: float) -> None:
        self.name, self._seconds = name, seconds
        self.parent_pipes, self.processes = [], []
        # Forking this process, which has threads, could hang. The fork server has none and imports once.
        if LINUX:
            multiprocessing.set_forkserver_preload(["recdqn.envs"])
        folder = multiprocessing.util.get_temp_dir()  # holds the server's socket
        with self._watch("start"):
            super().__init__(
                [partial(_work, maker, os.getpid(), folder) for maker in makers],
                context="forkserver" if LINUX else "spawn",
                autoreset_mode=gym.vector.AutoresetMode.DISABLED,
            )

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """Reset all environments, or those of a mask."""
        with self._watch("reset"):
            self.reset_async(**kwargs)
            return self.reset_wait(self._seconds)

    def step(self, actions: np.ndarray) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Step all environments."""
        with self._watch("step"):
            self.step_async(actions)
            return self.step_wait(self._seconds)

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Call a method of each environment, or get an attribute."""
        with self._watch(name):
            self.call_async(name, *args, **kwargs)
            return self.call_wait(self._seconds)

    def set_attr(self, name: str, values: Any) -> None:
        """Set an attribute of each environment to the same value, or to its entry of a list or tuple."""
        each = values if isinstance(values, list | tuple) else [values] * self.num_envs
        with self._watch(f"set_attr of {name}"):
            self._exchange([("_setattr", (name, value)) for value in each], self._seconds)

    def call_each(
        self, name: str, arguments: Sequence[tuple[Any, ...]], seconds: float = 0.0
    ) -> tuple[Any, ...]:
        """Call a method of each environment with arguments of its own; it may take ``seconds`` longer."""
        with self._watch(name, seconds):
            messages: list[tuple[str, Any]] = [("_call", (name, each, {})) for each in arguments]
            return self._exchange(messages, self._seconds + seconds)

    def close_extras(self, timeout: float | None = None, terminate: bool = False) -> None:
        """End the processes, by force where they do not end by themselves."""
        end = time.monotonic()
        if not terminate:
            end += self._seconds if timeout is None else timeout
            for pipe in self.parent_pipes:
                with contextlib.suppress(OSError):
                    pipe.send(("close", None))
        for process in self.processes:
            if process.pid is not None:
                process.join(max(end - time.monotonic(), 0))
                process.kill()
                process.join()
        for pipe in self.parent_pipes:
            pipe.close()

    def _exchange(self, messages: Sequence[tuple[str, Any]], seconds: float) -> tuple[Any, ...]:
        """Send each worker a command of Gymnasium's private protocol, and return their answers.

        ``AsyncVectorEnv`` itself can neither set attributes within a time limit nor call a method with other
        arguments for each environment.
        """
        if len(messages) != self.num_envs:
            raise ValueError(f"{len(messages)} values for {self.num_envs} environments")
        for pipe, message in zip(self.parent_pipes, messages, strict=True):
            # In threads: sending a long message to a stopped process blocks.
            threading.Thread(target=_send, args=(pipe, message), daemon=True).start()
        self._state = AsyncState.WAITING_CALL
        return self.call_wait(seconds)

    @contextlib.contextmanager
    def _watch(self, call: str, seconds: float = 0.0) -> Iterator[None]:
        """End all processes if a call fails, and turn what the processes did into one line."""
        try:
            yield
        except BaseException as error:
            line = self._line(call, error, seconds)
            self.close(terminate=True)
            if line is None:
                raise
            raise UserError(line) from error

    def _line(self, call: str, error: BaseException, seconds: float) -> str | None:
        """Describe what happened, or return ``None`` if the error is clear on its own."""
        if isinstance(error, multiprocessing.TimeoutError):
            late = [copy for copy, pipe in enumerate(self.parent_pipes) if not pipe.poll()]
            limit = f"{seconds:g} seconds and " if seconds else ""
            return (
                f"{self._named(late)} failed: {call} took more than {limit}step_seconds={self._seconds:g}; "
                "raise that, or look for what it waits for"
            )
        if isinstance(error, EOFError | OSError | queue.Empty):
            started = [process for process in self.processes if process.pid is not None]
            multiprocessing.connection.wait([process.sentinel for process in started], timeout=5)
            ended = [copy for copy, process in enumerate(self.processes) if process.exitcode is not None]
            codes = {self.processes[copy].exitcode for copy in ended}
            how = "; ".join(sorted(map(_ending, codes))) or f"broke off ({first_line(error)})"
            return f"{self._named(ended)} failed: during {call}, its process {how}"
        return None

    def _named(self, copies: list[int]) -> str:
        return f"{self.name} (copy {', '.join(map(str, copies))})" if copies else self.name

    def _raise_if_errors(self, successes: Iterable[bool]) -> None:
        """Raise the first error; Gymnasium would also log every traceback."""
        if not all(successes):
            _, _, error, trace = self.error_queue.get(timeout=self._seconds)
            raise error from RuntimeError(trace)


def _send(pipe: multiprocessing.connection.Connection, message: tuple[str, Any]) -> None:
    with contextlib.suppress(OSError):  # where the process has ended, reading its answer fails
        pipe.send(message)


def _work(maker: Callable[[], gym.Env], parent: int, folder: str) -> gym.Env:
    """Make an environment in a worker, which ends with its parent."""
    if os.getpid() == parent:  # Gymnasium makes one more here, to look at its spaces
        return maker()
    for signum in (signal.SIGINT, signal.SIGTERM):  # they may reach every process; the parent decides
        signal.signal(signum, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, args=[folder], daemon=True).start()
    torch.set_num_threads(1)
    try:
        return maker()
    except Exception as error:
        raise SystemExit(f"recdqn: {first_line(error)}") from None  # printed without the traceback


def _end_with_parent(folder: str) -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None  # only workers come here
    parent.join()
    shutil.rmtree(folder, ignore_errors=True)  # a parent that was killed could not
    os._exit(1)


def _ending(code: int | None) -> str:
    if code is None or code >= 0:
        return f"ended with exit status {code}: see what it printed"
    try:
        name = signal.Signals(-code).name
    except ValueError:  # not every signal has a name
        name = f"signal {-code}"
    return f"was killed by {name}: if memory ran out, use a smaller num_envs or fewer episodes"
