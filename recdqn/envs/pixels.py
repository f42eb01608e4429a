"""Observe an environment as small grey pixels, rendered or resized."""

from __future__ import annotations

import os
import sys
from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
import pygame
import torch
from torch import Tensor

from recdqn.errors import UserError

GREY = np.array([0.2989, 0.587, 0.114], dtype=np.float32)  # weights of red, green and blue (ITU-R BT.601)
TOLERANCE = 1.0  # 8-bit levels: largest mean difference between the fast and the slow way of rendering


class RenderedPixels(gym.Wrapper):
    """Replace the observation of a pygame environment by a small grey rendering.

    The observation is ``{"pixels": [1, size, size]}``, uint8. Gymnasium's environments draw on a pygame
    surface, flip it, copy it to a second one, and return a copy of all its pixels. This wrapper shrinks the
    surface as soon as it is drawn, with the filter that TorchRL's ``Resize`` uses, on bytes, so that all
    later steps handle a fraction of the data.

    Args:
        env: made with ``render_mode="rgb_array"``.
        size: height and width of the observation, in pixels.

    Raises:
        UserError: at the first reset, if the environment draws in another way, so that the observation does
            not match its resized frame.

    Example:
        >>> env = RenderedPixels(gym.make("MountainCar-v0", render_mode="rgb_array"), size=84)
        >>> env.reset()[0]["pixels"].shape
        (1, 84, 84)
    """

    def __init__(self, env: gym.Env, size: int) -> None:
        super().__init__(env)
        self.size = size
        self.observation_space = _pixel_space(size)
        self._frame: tuple[int, ...] | None = None  # width and height, set once the rendering was checked

    def reset(self, **kwargs: Any) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Reset and render."""
        _, info = self.env.reset(**kwargs)
        if self._frame is None:
            self._check()
        return self.observe(), info

    def step(self, action: Any) -> tuple[dict[str, np.ndarray], SupportsFloat, bool, bool, dict[str, Any]]:
        """Step and render."""
        _, reward, terminated, truncated, info = self.env.step(action)
        return self.observe(), reward, terminated, truncated, info

    def observe(self) -> dict[str, np.ndarray]:
        """Render the current state, and return the observation."""
        drawn: list[np.ndarray] = []  # the shrunk frame [width, height, 3], once the environment flips it

        def small_flip(surface: pygame.Surface, flip_x: bool, flip_y: bool) -> pygame.Surface:
            if surface.get_size() != self._frame:  # a detail, such as Pendulum's arrow
                return flip(surface, flip_x, flip_y)
            small = self._shrink(surface)
            drawn[:] = [small[:: -1 if flip_x else 1, :: -1 if flip_y else 1]]
            return pygame.Surface((1, 1))  # for the environment to copy

        def small_pixels(surface: pygame.Surface) -> np.ndarray:
            return drawn[0] if drawn else self._shrink(surface)

        flip, pixels3d = pygame.transform.flip, pygame.surfarray.pixels3d
        patched: Any = pygame  # module attributes cannot be assigned in typed code
        patched.transform.flip, patched.surfarray.pixels3d = small_flip, small_pixels
        try:
            frame = self._render()  # [size, size, 3]
        finally:
            patched.transform.flip, patched.surfarray.pixels3d = flip, pixels3d
        return {"pixels": (frame @ GREY + 0.5).astype(np.uint8)[None]}

    def _render(self) -> np.ndarray:
        return np.asarray(self.env.render())

    def _shrink(self, surface: pygame.Surface) -> np.ndarray:
        """Shrink the surface's own 32-bit pixels to ``[size, size, 3]``, width first like pygame."""
        width, height = surface.get_size()
        rows = np.asarray(surface.get_buffer()).reshape(height, width, 4)
        small = _resize(torch.from_numpy(rows).permute(2, 0, 1), self.size)
        colours = [shift // 8 for shift in surface.get_shifts()[:3]]  # the bytes of red, green and blue
        return small[colours].permute(2, 1, 0).numpy()

    def _check(self) -> None:
        """Compare one observation with the resized full frame."""
        frame = self._render()
        self._frame = frame.shape[1::-1]
        slow = _resize(torch.from_numpy(frame @ GREY)[None], self.size)[0]
        fast = torch.from_numpy(self.observe()["pixels"][0])
        if fast.shape != slow.shape or (fast - slow).abs().mean() > TOLERANCE:
            raise UserError(
                f"{self.env.unwrapped} draws in a way that RenderedPixels does not support: "
                "use GymEnv(..., from_pixels=True) with ToTensorImage, GrayScale and Resize, or, in recdqn, "
                "gymnasium's AddRenderObservation with observation='whole'"
            )


class ResizedPixels(gym.ObservationWrapper):
    """Turn the images that an environment returns into small grey ones.

    The observation is ``{"pixels": [1, size, size]}``, uint8, as that of :class:`RenderedPixels`.

    Args:
        env: it returns ``[height, width]``, ``[height, width, 1]`` or ``[height, width, 3]``, uint8.
        size: height and width of the observation, in pixels.
    """

    def __init__(self, env: gym.Env, size: int) -> None:
        super().__init__(env)
        self.size = size
        self.observation_space = _pixel_space(size)

    def observation(self, observation: np.ndarray) -> dict[str, np.ndarray]:
        """Resize, and convert to grey."""
        return {"pixels": small_grey(observation, self.size)}


def small_grey(picture: np.ndarray, size: int) -> np.ndarray:
    """Resize a picture, ``[height, width]`` with no channel or 1 or 3 behind, to grey ``[1, size, size]``."""
    height, width = picture.shape[:2]
    frame = np.array(picture, order="C").reshape(height, width, -1)  # a copy: it may be read-only
    small: np.ndarray = _resize(torch.from_numpy(frame).permute(2, 0, 1), size).numpy()
    if len(small) == 3:
        small = (np.tensordot(GREY, small, 1) + 0.5).astype(np.uint8)[None]
    return small


def _pixel_space(size: int) -> gym.spaces.Dict:
    return gym.spaces.Dict(pixels=gym.spaces.Box(0, 255, (1, size, size), np.uint8))


def _resize(image: Tensor, size: int) -> Tensor:
    """Resize ``[channels, height, width]`` to ``[channels, size, size]``."""
    resize = torch.nn.functional.interpolate
    return resize(image[None], (size, size), mode="bilinear", antialias=True)[0]


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
