"""Environments that others wrote: made by name, watched at every step, run in processes (chapter 1)."""

from __future__ import annotations

import contextlib
import pkgutil
import textwrap
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Discrete

from recdqn.config import EnvConfig
from recdqn.errors import ConfigError, UserError

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


def _reason(error: BaseException) -> str:
    return in_one_line(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)


def in_one_line(thing: object) -> str:
    """Describe a thing in one line."""
    return textwrap.shorten(str(thing), 300, placeholder=" ...")
