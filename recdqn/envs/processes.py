"""Vectorised environments in worker processes, with a time limit for every call."""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import multiprocessing.connection
import multiprocessing.spawn
import multiprocessing.util
import os
import queue
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector.async_vector_env import AsyncState

from recdqn.envs.sending import pack, unpack
from recdqn.envs.sockets import PATH, fits_socket, socket_folder
from recdqn.errors import UserError, first_line

LINUX = sys.platform.startswith("linux")
INSIDE = len("/pymp-12345678/listener-12345678")  # a socket of multiprocessing
START_SECONDS = 300.0  # to import what an environment needs and to make it, beside the limit of a call


class Workers(gym.vector.AsyncVectorEnv):
    """Environments that step together, each in a process of its own.

    They return what they would return in one process. The worker processes end when this process ends,
    however it ends, even while an environment hangs. They do not run the program's file, so a script needs no
    ``if __name__ == "__main__"``; what the file or a notebook defines is sent to them.

    Args:
        makers: picklable functions that make one environment each.
        name: the environments' ``env.id``.
        seconds: time limit of every call, for all environments together; they have ``START_SECONDS`` more
            to start.

    Raises:
        UserError: if an environment fails or a call takes too long, if a process ends, or if what a process
            needs cannot be sent to it. All processes are ended then.
    """

    def __init__(self, makers: Sequence[Callable[[], gym.Env]], name: str, seconds: float) -> None:
        self.name, self._seconds = name, seconds
        self.parent_pipes, self.processes = [], []
        # Forking this process, which has threads, could hang. The fork server has none and imports once.
        if LINUX:
            multiprocessing.set_forkserver_preload(["recdqn.envs"])
        self._folder = _temporary_folder()
        packed = pack(name)
        _note_program(getattr(sys.modules["__main__"], "__file__", None))
        with self._watch("start", START_SECONDS), _without_program():
            super().__init__(
                [functools.partial(_work, maker, packed, os.getpid(), self._folder) for maker in makers],
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

    def _check_spaces(self) -> None:
        """Compare the spaces once all are made; Gymnasium alone would wait for ever."""
        self.call_async("render_mode")
        self.call_wait(START_SECONDS + self._seconds)
        super()._check_spaces()

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
            reasons = {self._reason(self.processes[copy]) for copy in ended}
            how = "; ".join(sorted(reasons)) or f"its process broke off ({first_line(error)})"
            return f"{self._named(ended)} failed: during {call}, {how}"
        return None

    def _reason(self, process: multiprocessing.process.BaseProcess) -> str:
        """Return what a process wrote about its end, or else how it ended."""
        try:
            return _reason_file(self._folder, process.pid).read_text(encoding="utf-8")
        except OSError:
            return f"its process {_ending(process.exitcode)}"

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


def _temporary_folder() -> str:
    """Return the folder of ``multiprocessing`` for temporary files, which holds the server's socket.

    Raises:
        UserError: if its name is too long for a socket.
    """
    before = tempfile.tempdir
    try:
        tempfile.tempdir = socket_folder(INSIDE) or before
        folder = multiprocessing.util.get_temp_dir()  # the same one from the first call on
    finally:
        tempfile.tempdir = before
    place = os.path.dirname(folder)
    if LINUX and not fits_socket(place, INSIDE):
        raise UserError(
            f"env.workers=True needs a folder for temporary files with a short name, and {place} has more "
            f"than {PATH - INSIDE} bytes: set TMPDIR to another one"
        )
    return folder


@contextlib.contextmanager
def _without_program() -> Iterator[None]:
    """Start processes inside that do not run the program's file, which may train outside of any condition."""
    usual = multiprocessing.spawn.get_preparation_data

    def prepared(name: str) -> dict[str, Any]:
        return {key: value for key, value in usual(name).items() if not key.startswith("init_main")}

    vars(multiprocessing.spawn)["get_preparation_data"] = prepared
    try:
        yield
    finally:
        vars(multiprocessing.spawn)["get_preparation_data"] = usual


@functools.cache
def _note_program(file: str | None) -> None:
    """Say once if the program's file would run again in the processes of other libraries."""
    with contextlib.suppress(OSError, ValueError):  # it may be gone, or no text
        if file is not None and "__name__" not in Path(file).read_text(encoding="utf-8"):
            print(
                f"env.workers=True: {file} has no if __name__ == '__main__'; these workers do not need it, "
                "but the processes of other libraries would run the whole file again",
                file=sys.stderr,
                flush=True,
            )


def _work(maker: Callable[[], gym.Env], packed: list[bytes], parent: int, folder: str) -> gym.Env:
    """Make an environment in a worker, which ends with its parent."""
    if os.getpid() == parent:  # Gymnasium makes one more here, to look at its spaces
        return maker()
    for signum in (signal.SIGINT, signal.SIGTERM):  # they may reach every process; the parent decides
        signal.signal(signum, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, args=[folder], daemon=True).start()
    torch.set_num_threads(1)
    try:
        unpack(packed)
        return maker()
    except (Exception, SystemExit) as error:
        _reason_file(folder, os.getpid()).write_text(first_line(error), encoding="utf-8")
        raise SystemExit(1) from None  # without a traceback


def _reason_file(folder: str, pid: int | None) -> Path:
    """Return the file for the reason why a worker could not start."""
    return Path(folder, f"reason-{pid}")


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
