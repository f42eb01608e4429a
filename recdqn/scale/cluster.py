"""The connection to Ray: started or found, watched, and every failure in one line."""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import importlib.util
import logging
import math
import os
import secrets
import signal
import socket
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from recdqn.config import Config
from recdqn.envs.sockets import socket_folder
from recdqn.errors import UserError, first_line, installed

LOST: tuple[type[Exception], ...] = ()  # an actor is gone, or what it returned
with contextlib.suppress(ImportError):  # the extra "scale"
    import ray

    LOST = (ray.exceptions.RayActorError, ray.exceptions.ObjectLostError, ray.exceptions.RaySystemError)

OBJECT_STORE = 256 * 2**20  # bytes of shared memory of a Ray that is started here
HEARTBEAT = 0.5  # seconds between two looks at the head; `ray start --block` ends its machine after 1
SOCKET = len("/ray/session_2026-01-01_00-00-00_123456_1234567/sockets/plasma_store")  # bytes
CONNECT = 10.0  # seconds to reach it


class Cluster:
    """Ray, started on this machine or found on a cluster, until :meth:`close`.

    A Ray that the program has already started is used as it is, and left running. Ray itself reports a worker
    that died on standard output. If Ray's processes on the machine of this program end, Ray 2.60 may end the
    program as well, with status 1 and without a line.

    A Ray that is started here reports nothing to its makers. Its processes share a token that is in memory
    only, unless ``RAY_AUTH_TOKEN``, ``RAY_AUTH_TOKEN_PATH`` or ``~/.ray/auth_token`` has one. At each start,
    Ray 2.60 asks 169.254.169.254 and metadata.google.internal in which cloud it is; no setting prevents that.

    Args:
        cfg: ``scale.address`` says which; the module of ``env.id`` is sent to the nodes, as this package is.

    Raises:
        UserError: if Ray is not installed, or the cluster cannot be used.
    """

    def __init__(self, cfg: Config) -> None:
        check_ray()
        self._address = cfg.scale.address
        self._checked = -math.inf
        self._own = not ray.is_initialized()
        if self._own:
            self._start(cfg)
        host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
        self._head = host, int(port)

    def get(self, reference: Any, seconds: float = math.inf) -> Any:
        """Wait for a result.

        Raises:
            TimeoutError: after ``seconds``.
            UserError: if an actor raised it, or the cluster has lost its head.
        """
        end = time.monotonic() + seconds
        future = reference.future()  # ray.get would replace what the handler of a signal raises
        while True:
            self.check()
            try:
                return future.result(timeout=max(min(HEARTBEAT, end - time.monotonic()), 0))
            except concurrent.futures.TimeoutError:
                if time.monotonic() >= end:
                    raise TimeoutError from None
            except ray.exceptions.RayTaskError as error:
                if isinstance(error.cause, UserError):
                    raise error.cause from None
                raise

    def check(self, now: bool = False) -> None:
        """Look whether the head answers, ``now`` or at times: a minute after it, Ray would end this process.

        Raises:
            UserError: if it does not.
        """
        if not now and time.monotonic() - self._checked < HEARTBEAT:
            return
        try:
            _reach(*self._head)
        except OSError as error:
            raise UserError(
                f"the head of the Ray cluster at {':'.join(map(str, self._head))} is lost "
                f"({first_line(error)}): start it again and resume, or resume on another one with "
                "'recdqn resume --address'"
            ) from None
        self._checked = time.monotonic()

    def resources(self) -> str:
        """Say how many processors the cluster has."""
        total, free = ray.cluster_resources(), ray.available_resources()
        return f"{total.get('CPU', 0):g} processors, {free.get('CPU', 0):g} of them free"

    def close(self) -> None:
        """Disconnect, and end a Ray that was started here."""
        if self._own:
            ray.shutdown()

    def _start(self, cfg: Config) -> None:
        options: dict[str, Any] = {"address": self._address}
        if self._address == "local":
            options |= {"num_cpus": cfg.scale.actors or None, "object_store_memory": OBJECT_STORE}
            paths = os.pathsep.join(map(os.path.abspath, sys.path))
            options |= {"include_dashboard": False, "runtime_env": {"env_vars": {"PYTHONPATH": paths}}}
        else:
            options |= {"runtime_env": {"py_modules": sources(cfg)}}
        try:
            if ":" in self._address:
                _reach(*self._parsed())
            with _sigterm_kept(), _private() if self._address == "local" else contextlib.nullcontext():
                ray.init(logging_level=logging.ERROR, log_to_driver=False, **options)
        except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            raise UserError(
                f"scale.address={self._address!r} cannot be used ({first_line(error)}): expected 'local', "
                "'auto' on a node of a cluster that 'ray start' has made, or its 'host:port'"
            ) from None

    def _parsed(self) -> tuple[str, int]:
        host, _, port = self._address.rpartition(":")
        return host, int(port)


def check_ray() -> None:
    """Check that Ray is installed.

    Raises:
        UserError: if not.
    """
    if not installed("ray"):
        raise UserError("Ray is not installed: pip install 'recdqn[scale]'")


def sources(cfg: Config) -> list[str]:
    """Return what the nodes of a cluster need: this package, and the module of the user's environment.

    The module is its file, or the folder of its package. An installed one is expected on the nodes as well.
    """
    found = [str(Path(__file__).parents[1])]
    name, colon, _ = str(cfg.env.id).partition(":")
    spec = importlib.util.find_spec(name.partition(".")[0]) if colon and name != "__main__" else None
    if spec is not None and spec.origin is not None and Path(spec.origin).is_file():
        path = Path(spec.submodule_search_locations[0] if spec.submodule_search_locations else spec.origin)
        installed = [sysconfig.get_path(kind) for kind in ("stdlib", "purelib", "platlib")]
        if not any(path.is_relative_to(folder) for folder in installed):
            found.append(str(path))
    return found


def _reach(host: str, port: int) -> None:
    socket.create_connection((host.strip("[]"), port), timeout=CONNECT).close()


@contextlib.contextmanager
def _private() -> Iterator[None]:
    """Let Ray, which is started inside, report nothing, and find a token instead of writing one into a file.

    Where TMPDIR is too long for its sockets, it gets another folder for temporary files. Its processes
    inherit the settings. Ray also sets the mode, for this process and for good.
    """
    names = "RAY_USAGE_STATS_ENABLED", "RAY_AUTH_TOKEN", "RAY_AUTH_MODE", "RAY_TMPDIR"
    before = {name: os.environ[name] for name in names if name in os.environ}
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if (folder := socket_folder(SOCKET)) not in (None, tempfile.gettempdir()):
        os.environ.setdefault("RAY_TMPDIR", str(folder))
    if "RAY_AUTH_TOKEN_PATH" not in os.environ and not (Path.home() / ".ray" / "auth_token").is_file():
        os.environ.setdefault("RAY_AUTH_TOKEN", _token())
    try:
        yield
    finally:
        for name in names:
            os.environ.pop(name, None)
        os.environ.update(before)


@functools.cache  # Ray reads the token once in each process
def _token() -> str:
    return secrets.token_hex(16)


@contextlib.contextmanager
def _sigterm_kept() -> Iterator[None]:
    """Keep the handler of SIGTERM, which ``ray.init`` replaces by one that exits at once."""
    main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if main and handler is not None:
            signal.signal(signal.SIGTERM, handler)
