"""Environments that others wrote: made by name, watched at every step, run in processes (chapter 1)."""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import multiprocessing.util
import os
import pkgutil
import queue
import shutil
import signal
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.spaces import Box, Discrete

from recdqn.config import ConfigError, EnvConfig, UserError

CHECK = "gymnasium.utils.env_checker.check_env(env) finds most mistakes"


def open_env(cfg: EnvConfig) -> gym.Env:
    """Make one environment by its name, with a time limit and with actions that count from 0.

    It can draw itself where pictures of it are wanted: for ``"pixels"``, and where there is only one of it,
    which may be filmed. A function that makes environments decides that by itself.

    Raises:
        ConfigError: if it cannot be made, or ``cfg`` and its spaces do not fit; the message says what would.
    """
    try:
        function = _function(cfg.id)
        env = gym.make(cfg.id) if function is None else function()
        draw = cfg.observation == "pixels" or cfg.num_envs == 1
        if function is None and draw and "rgb_array" in env.metadata.get("render_modes", ()):
            env.close()
            env = gym.make(cfg.id, render_mode="rgb_array")
    except Exception as error:
        raise ConfigError(
            f"env.id={cfg.id!r} cannot be made: {_reason(error)}; expected one of Gymnasium's ids, "
            "or the 'module:function' of a function that makes an environment"
        ) from error
    if not isinstance(env, gym.Env):
        raise ConfigError(f"env.id={cfg.id!r} makes a {type(env).__name__}: expected a gymnasium.Env")
    _check_spaces(env, cfg)
    if env.action_space.start:
        start = int(env.action_space.start)
        choices = Discrete(int(env.action_space.n))
        env = gym.wrappers.TransformAction(env, lambda action, start=start: action + start, choices)
    if env.spec is None or env.spec.max_episode_steps is None:
        env = gym.wrappers.TimeLimit(env, cfg.max_steps)
    return env


def _function(name: str) -> Callable[[], gym.Env] | None:
    """Find the function ``"module:function"``; ``None`` if the module has none, so that this may be an id."""
    if ":" not in name:
        return None
    try:
        found = pkgutil.resolve_name(name)
    except (ValueError, AttributeError):
        return None
    return found if callable(found) else None


def is_vector(space: gym.Space) -> bool:
    """Whether observations are vectors of numbers, of at least one."""
    return isinstance(space, Box) and len(space.shape) == 1 and space.shape[0] > 0


def is_picture(space: gym.Space) -> bool:
    """Whether observations are pictures of bytes: ``[height, width]``, or with 1 or 3 channels behind."""
    if not isinstance(space, Box) or space.dtype != np.uint8 or 0 in space.shape:
        return False
    return len(space.shape) == 2 or (len(space.shape) == 3 and space.shape[2] in (1, 3))


def _check_spaces(env: gym.Env, cfg: EnvConfig) -> None:
    actions, space = (getattr(env, f"{name}_space", None) for name in ("action", "observation"))
    if not isinstance(actions, Discrete):
        raise ConfigError(
            f"env.id={cfg.id!r} has actions {in_one_line(actions)}: expected Discrete; wrap it first, "
            "for example with gymnasium's DiscretizeAction"
        )
    if cfg.observation == "pixels":
        if env.render_mode != "rgb_array":
            raise ConfigError(
                f"env.observation='pixels': {cfg.id} does not draw, its render_mode is {env.render_mode!r}: "
                "expected 'rgb_array'; make it with that, or use observation='whole'"
            )
        return
    if not is_vector(space) and (cfg.observation == "masked" or not is_picture(space)):
        picture = ", or a picture of bytes [height, width], [height, width, 1] or [height, width, 3]"
        raise ConfigError(
            f"env.id={cfg.id!r} has observations {in_one_line(space)}: expected a Box, a vector of numbers"
            f"{picture if cfg.observation == 'whole' else ' for observation=' + repr(cfg.observation)}; "
            "wrap it first, for example with gymnasium's FlattenObservation"
        )
    if is_picture(space):
        return
    size = space.shape[0]
    if cfg.observation == "masked":
        if not cfg.visible or max(cfg.visible) >= size:
            raise ConfigError(
                f"env.visible={cfg.visible}: expected some of 0 to {size - 1}, the entries of {cfg.id}; "
                "observation='whole' shows all of them"
            )
        size = len(cfg.visible)
    for name, values in (("loc", cfg.loc), ("scale", cfg.scale)):
        if len(values) not in (1, size):
            raise ConfigError(f"env.{name}={values}: expected 1 or {size} numbers")


class Guard(gym.Wrapper):
    """Turns whatever goes wrong inside an environment into one line (chapter 1).

    Vectors become float32. What an environment says besides, its ``info``, nobody reads: it is left out.

    Args:
        env: any environment.
        name: what the line calls it.

    Raises:
        UserError: if ``reset``, ``step`` or ``render`` raises, and if an observation is not of the shape and
            type that was declared. The original exception is its cause.

    Example:
        >>> env = Guard(gym.make("CartPole-v1"), "my pole")
        >>> env.reset(seed=0)[0].shape
        (4,)
    """

    def __init__(self, env: gym.Env, name: str) -> None:
        super().__init__(env)
        self.name = name
        self._shape, self._dtype = env.observation_space.shape, env.observation_space.dtype
        self._checked = isinstance(env.observation_space, Box)  # any other is not looked at: it is drawn
        if is_vector(env.observation_space) and self._dtype != np.float32:
            self.observation_space = Box(-np.inf, np.inf, self._shape, np.float32)
        self._returned = self.observation_space.dtype

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """Reset, and check what is seen."""
        try:
            seen, _ = self.env.reset(**kwargs)
            return self._check("reset", seen), {}
        except (Exception, SystemExit) as error:
            raise self._failure("reset", error) from error

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Step, and check what is seen."""
        try:
            seen, reward, terminated, truncated, _ = self.env.step(action)
            return self._check("step", seen), float(reward), bool(terminated), bool(truncated), {}
        except (Exception, SystemExit) as error:
            raise self._failure("step", error) from error

    def render(self) -> np.ndarray:
        """Draw: ``[height, width, 3]``, uint8."""
        try:
            frame = self.env.render() if self.render_mode == "rgb_array" else None
        except (Exception, SystemExit) as error:
            raise self._failure("render", error) from error
        if not isinstance(frame, np.ndarray) or frame.ndim != 3:
            raise UserError(
                f"{self.name} cannot be drawn: its render gives a {type(frame).__name__}, expected an array "
                "[height, width, 3]; make it with render_mode='rgb_array'"
            )
        return frame

    def close(self) -> None:
        """Close; what goes wrong now harms nothing any more."""
        with contextlib.suppress(Exception):
            self.env.close()

    def _check(self, call: str, seen: Any) -> Any:
        if not self._checked:
            return seen
        seen = np.asarray(seen)
        if seen.shape != self._shape or (
            seen.dtype != self._dtype and not np.can_cast(seen.dtype, self._dtype, "same_kind")
        ):
            raise WrongObservation(
                f"{call} returned an observation of shape {seen.shape} and type {seen.dtype}, "
                f"and declared {self._shape} and {self._dtype}"
            )
        return seen.astype(self._returned, copy=False)

    def _failure(self, call: str, error: BaseException) -> UserError:
        what = str(error) if isinstance(error, WrongObservation) else f"{call} raised {_reason(error)}"
        return UserError(f"{self.name} failed: {what}; {CHECK}")


class WrongObservation(TypeError):
    """Not what the environment's ``observation_space`` says."""


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


def _reason(error: BaseException) -> str:
    return in_one_line(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)


def in_one_line(thing: object) -> str:
    """Describe a thing in one line."""
    return textwrap.shorten(str(thing), 300, placeholder=" ...")
