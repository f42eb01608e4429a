"""A Gymnasium environment that is checked at every call."""

from __future__ import annotations

import contextlib
from typing import Any, TypeGuard

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box

from recdqn.envs.arrays import WrongObservation, as_declared
from recdqn.envs.entries import Reader
from recdqn.errors import ConfigError, UserError, first_line

CHECK = "check it with gymnasium.utils.env_checker.check_env(env)"


def is_vector(space: object) -> TypeGuard[Box]:
    """Return whether observations are vectors of at least one number."""
    return isinstance(space, Box) and len(space.shape) == 1 and space.shape[0] > 0


class CheckedEnv(gym.Wrapper):
    """Turn every failure of an environment into an error of one line.

    Vectors become float32; a reader turns other observations into what an agent sees. The environment's
    ``info`` is dropped.

    Args:
        env: any environment.
        name: what the error calls it.
        reader: of its observations; without one they are checked only if they are a ``Box``.

    Raises:
        UserError: if ``reset``, ``step`` or ``render`` raises, or an observation does not have the declared
            shape and type. The original exception is its cause.

    Example:
        >>> env = CheckedEnv(gym.make("CartPole-v1"), "my pole")
        >>> env.reset(seed=0)[0].shape
        (4,)
    """

    def __init__(self, env: gym.Env, name: str, reader: Reader | None = None) -> None:
        super().__init__(env)
        self.name, self._reader = name, reader
        space = env.observation_space
        self._declared = space if isinstance(space, Box) else None  # other observations are only drawn
        if is_vector(space) and space.dtype != np.float32:
            self.observation_space = Box(-np.inf, np.inf, space.shape, np.float32)
        if reader is not None:
            self.observation_space = reader.space
        self._dtype = self.observation_space.dtype

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """Reset, and check the observation."""
        try:
            observation, info = self.env.reset(**kwargs)
            seen = self._check("reset", observation, info)
            tells = "action_mask" in info
        except (Exception, SystemExit) as error:
            raise self._failure("reset", error) from error
        if tells and (self._reader is None or not self._reader.masks):
            raise ConfigError(
                f"{self.name} tells its legal actions in info['action_mask']: expected env.mask='action_mask'"
            )
        return seen, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Step, and check the observation."""
        try:
            observation, reward, terminated, truncated, info = self.env.step(action)
            return (
                self._check("step", observation, info),
                float(reward),
                bool(terminated),
                bool(truncated),
                {},
            )
        except (Exception, SystemExit) as error:
            raise self._failure("step", error) from error

    def render(self) -> Any:
        """Return a frame ``[height, width, 3]``, uint8."""
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
        """Close, ignoring errors."""
        with contextlib.suppress(Exception):
            self.env.close()

    def _check(self, call: str, observation: Any, info: dict[str, Any]) -> Any:
        try:
            if self._reader is not None:
                return self._reader(observation, info)
            if self._declared is None:
                return observation
            array = as_declared(observation, self._declared.shape, self._declared.dtype)
        except WrongObservation as error:
            raise WrongObservation(f"{call} returned {error}") from None
        return array.astype(self._dtype, copy=False)

    def _failure(self, call: str, error: BaseException) -> UserError:
        reason = str(error) if isinstance(error, WrongObservation) else f"{call} raised {first_line(error)}"
        return UserError(f"{self.name} failed: {reason}; {CHECK}")
