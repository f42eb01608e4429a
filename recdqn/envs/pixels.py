"""Observe an environment as small grey pixels, rendered or resized."""

from __future__ import annotations

import functools
import os
import sys
import warnings
from collections.abc import Callable
from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
import pygame
import torch
from gymnasium.envs.classic_control import AcrobotEnv, CartPoleEnv, MountainCarEnv, PendulumEnv
from gymnasium.wrappers import OrderEnforcing, PassiveEnvChecker

from recdqn.envs.cartpole import CartPolePainter
from recdqn.envs.checked import CheckedEnv
from recdqn.envs.entries import MASK
from recdqn.envs.shrink import grey, resize, small_grey
from recdqn.errors import UserError

Painter = Callable[[], np.ndarray | None]  # draws [1, size, size], uint8, or None where it cannot
PASS_ON = {gym.Wrapper.render, OrderEnforcing.render, PassiveEnvChecker.render, CheckedEnv.render}
MOMENTS = {0, 1, 4, 16, 64, 256}  # pictures that are compared with the plain way, and every 1,024th
TOLERANCE = 1  # 8-bit levels: largest difference


class RenderedPixels(gym.Wrapper):
    """Replace the observation by a small grey picture of what the environment draws.

    The observation is ``{"pixels": [1, size, size]}``, uint8: ``render()``'s frame, shrunk with the filter
    of TorchRL's ``Resize`` on bytes, and made grey. If the observation below is a mask of legal actions
    alone, it is kept.

    Where :data:`PAINTERS` has a painter for the environment's own ``render``, and no wrapper has a ``render``
    of its own, the painter draws the same picture faster. Pictures 0, 1, 4, 16, 64 and 256, and every
    1,024th, are compared with the frame. If one pixel is more than one level off, the painter is given up
    with a warning.

    Args:
        env: made with ``render_mode="rgb_array"``.
        size: height and width of the observation, in pixels.

    Raises:
        UserError: at a reset or step, if the frame is not an array ``[height, width, 3]`` of bytes.

    Example:
        >>> env = RenderedPixels(gym.make("MountainCar-v0", render_mode="rgb_array"), size=84)
        >>> env.reset()[0]["pixels"].shape
        (1, 84, 84)
    """

    def __init__(self, env: gym.Env, size: int) -> None:
        super().__init__(env)
        self.size = size
        spaces: dict[str, Any] = {"pixels": gym.spaces.Box(0, 255, (1, size, size), np.uint8)}
        below: Any = env.observation_space
        self._masks = isinstance(below, gym.spaces.Dict) and list(below) == [MASK]
        if self._masks:
            spaces[MASK] = below[MASK]
        self.observation_space = gym.spaces.Dict(spaces)
        self._painter = _painter(env, size)
        self._drawn = 0

    def reset(self, **kwargs: Any) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Reset and render."""
        seen, info = self.env.reset(**kwargs)
        return self.observe() | self._mask(seen), info

    def step(self, action: Any) -> tuple[dict[str, np.ndarray], SupportsFloat, bool, bool, dict[str, Any]]:
        """Step and render."""
        seen, reward, terminated, truncated, info = self.env.step(action)
        return self.observe() | self._mask(seen), reward, terminated, truncated, info

    def _mask(self, seen: Any) -> dict[str, np.ndarray]:
        return {MASK: seen[MASK]} if self._masks else {}

    def observe(self) -> dict[str, np.ndarray]:
        """Render the current state, and return the observation."""
        picture = None if self._painter is None else self._painter()
        if picture is None:
            picture = self._plain()
        elif self._drawn in MOMENTS or self._drawn % 1024 == 0:
            picture = self._compare(picture)
        self._drawn += 1
        return {"pixels": picture}

    def _plain(self) -> np.ndarray:
        frame = np.asarray(self.env.render())
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
            raise UserError(
                f"{self.env.unwrapped} draws frames of shape {frame.shape} and type {frame.dtype}: "
                "expected [height, width, 3] of bytes; change its render"
            )
        return small_grey(frame, self.size)

    def _compare(self, picture: np.ndarray) -> np.ndarray:
        """Return the painter's picture, or the plain one if they differ, and then give up the painter."""
        plain = self._plain()
        off = np.abs(picture - plain.astype(int)).max()
        if off <= TOLERANCE:
            return picture
        self._painter = None
        warnings.warn(
            f"{self.env.unwrapped} is drawn in a slower way from picture {self._drawn} on: "
            f"its painter is {off} of 255 levels off in one place",
            stacklevel=2,
        )
        return plain


class ScreenReader:
    """Shrink the pygame screen of an environment before its pixels are copied.

    While ``render()`` runs, ``pygame.surfarray.pixels3d`` returns a fixed pattern of the screen's size, in an
    array that is faster to copy. If ``render()`` returns that pattern, nothing was drawn on the array, and
    the picture counts. It is for environments that remember nothing of what they draw.

    Args:
        env: its ``render`` is called.
        size: height and width of the picture, in pixels.
    """

    def __init__(self, env: gym.Env, size: int) -> None:
        self._env, self._size = env, size

    def __call__(self) -> np.ndarray | None:
        """Return the picture ``[1, size, size]``, uint8, or ``None`` if that is not all that is drawn."""
        read: list[tuple[torch.Tensor, np.ndarray]] = []

        def pattern(surface: pygame.Surface) -> np.ndarray:
            if surface.get_bytesize() != 4:
                return whole(surface)
            read.append((self._shrink(surface), _pattern(*surface.get_size())))
            return read[-1][1]

        patched: Any = pygame.surfarray  # module attributes cannot be assigned in typed code
        whole, patched.pixels3d = patched.pixels3d, pattern
        try:
            frame: Any = self._env.render()
        except Exception:  # the plain way raises it again, unless the pattern is the cause
            return None
        finally:
            patched.pixels3d = whole
        if len(read) != 1 or not np.array_equal(frame, read[0][1].swapaxes(0, 1)):
            return None
        return grey(read[0][0])

    def _shrink(self, surface: pygame.Surface) -> torch.Tensor:
        """Shrink the screen's own 32-bit pixels to ``[3, size, size]``."""
        width, height = surface.get_size()
        rows = np.asarray(surface.get_buffer()).reshape(height, width, 4)
        colours = [shift // 8 for shift in surface.get_shifts()[:3]]  # the bytes of red, green and blue
        return resize(torch.from_numpy(rows).permute(2, 0, 1), self._size)[colours]


#: For methods that draw, what makes a painter of the same picture from the environment and its size.
PAINTERS: dict[Callable[..., Any], Callable[[Any, int], Painter]] = {
    CartPoleEnv.render: CartPolePainter,
    AcrobotEnv.render: ScreenReader,
    MountainCarEnv.render: ScreenReader,
    PendulumEnv.render: ScreenReader,
}


def _painter(env: gym.Env, size: int) -> Painter | None:
    layer: Any = env
    while isinstance(layer, gym.Wrapper):
        if type(layer).render not in PASS_ON or "render" in vars(layer):
            return None
        layer = layer.env
    make = None if "render" in vars(layer) else PAINTERS.get(type(layer).render)
    return None if make is None else make(layer, size)


@functools.cache
def _pattern(width: int, height: int) -> np.ndarray:
    """Return random bytes ``[width, height, 3]``, always the same."""
    pattern = np.random.default_rng(0).integers(0, 256, (width, height, 3), np.uint8)
    pattern.flags.writeable = False
    return pattern


def prepare_display() -> None:
    """Let pygame draw on Linux without a display, unless ``SDL_VIDEODRIVER`` is set, and leave SIGTERM alone.

    Raises:
        UserError: if the chosen driver cannot draw here.
    """
    if sys.platform.startswith("linux") and not (
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    ):
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    # Otherwise SDL handles SIGTERM, and a process that has drawn ignores `kill`.
    os.environ.setdefault("SDL_NO_SIGNAL_HANDLERS", "1")
    try:
        pygame.display.init()
    except pygame.error as error:
        driver = os.environ.get("SDL_VIDEODRIVER")
        raise UserError(
            f"SDL_VIDEODRIVER={driver!r} cannot draw here ({error}): set SDL_VIDEODRIVER=dummy"
        ) from None
