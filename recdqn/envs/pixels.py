"""Environments seen as small grey pictures."""

from __future__ import annotations

import os
import sys
from typing import Any

import gymnasium as gym
import numpy as np
import pygame
import torch
from torch import Tensor

from recdqn.errors import UserError

GREY = np.array([0.2989, 0.587, 0.114], dtype=np.float32)  # shares of red, green and blue (ITU-R BT.601)


MOST_OFF = 1.0  # 8-bit levels, mean over a picture, between the fast way of drawing and the slow one


class Pictures(gym.Wrapper):
    """Show a pygame environment as small grey pictures (chapter 1).

    The observation is ``{"pixels": [1, size, size]}``, uint8. Gymnasium's environments draw on a surface of
    pygame, turn it upside down, copy it onto a second one, and hand out a copy of all its pixels. Here the
    surface is shrunk as soon as it is drawn, with the filter of TorchRL's ``Resize`` on bytes, so that
    everything behind it handles a fraction of the data.

    Args:
        env: made with ``render_mode="rgb_array"``.
        size: height and width of the picture, in pixels.

    Raises:
        UserError: at the first reset, if the environment draws in another way, so that the picture is not its
            frame made small.

    Example:
        >>> env = Pictures(gym.make("MountainCar-v0", render_mode="rgb_array"), size=84)
        >>> env.reset()[0]["pixels"].shape
        (1, 84, 84)
    """

    def __init__(self, env: gym.Env, size: int) -> None:
        super().__init__(env)
        self.size = size
        box = gym.spaces.Box(0, 255, (1, size, size), np.uint8)
        self.observation_space = gym.spaces.Dict(pixels=box)
        self._frame: tuple[int, int] | None = None  # width and height; known once the picture was checked

    def reset(self, **kwargs: Any) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Reset, and look."""
        _, info = self.env.reset(**kwargs)
        if self._frame is None:
            self._check()
        return self.look(), info

    def step(self, action: Any) -> tuple[dict[str, np.ndarray], Any, bool, bool, dict[str, Any]]:
        """Step, and look."""
        _, *outcome = self.env.step(action)
        return self.look(), *outcome

    def look(self) -> dict[str, np.ndarray]:
        """Draw the environment as it stands, and return the observation."""
        drawn = []  # the picture [width, height, 3], once the environment has turned it over

        def turn(surface: pygame.Surface, across: bool, down: bool) -> pygame.Surface:
            if surface.get_size() != self._frame:  # a detail, such as Pendulum's arrow
                return flip(surface, across, down)
            picture = self._shrink(surface)
            drawn[:] = [picture[:: -1 if across else 1, :: -1 if down else 1]]
            return pygame.Surface((1, 1))  # for the environment to copy

        def pixels(surface: pygame.Surface) -> np.ndarray:
            return drawn[0] if drawn else self._shrink(surface)

        flip, pixels3d = pygame.transform.flip, pygame.surfarray.pixels3d
        pygame.transform.flip, pygame.surfarray.pixels3d = turn, pixels
        try:
            frame = self.env.render()  # [size, size, 3]
        finally:
            pygame.transform.flip, pygame.surfarray.pixels3d = flip, pixels3d
        return {"pixels": (frame @ GREY + 0.5).astype(np.uint8)[None]}

    def _shrink(self, surface: pygame.Surface) -> np.ndarray:
        """Shrink the surface's own 32-bit pixels to ``[size, size, 3]``, width first as pygame has it."""
        width, height = surface.get_size()
        rows = np.frombuffer(surface.get_buffer(), np.uint8).reshape(height, width, 4)
        small = _resize(torch.from_numpy(rows).permute(2, 0, 1), self.size)
        colours = [shift // 8 for shift in surface.get_shifts()[:3]]  # where red, green and blue are
        return small[colours].permute(2, 1, 0).numpy()

    def _check(self) -> None:
        """Compare one picture with the whole frame, made small."""
        frame = self.env.render()
        self._frame = frame.shape[1::-1]
        slow = _resize(torch.from_numpy(frame @ GREY)[None], self.size)[0]
        fast = torch.from_numpy(self.look()["pixels"][0])
        if fast.shape != slow.shape or (fast - slow).abs().mean() > MOST_OFF:
            raise UserError(
                f"{self.env.unwrapped} draws in a way that Pictures cannot follow: "
                "use GymEnv(..., from_pixels=True) with ToTensorImage, GrayScale and Resize, or, in recdqn, "
                "gymnasium's AddRenderObservation with observation='whole'"
            )


class SmallPictures(gym.ObservationWrapper):
    """Turn the pictures that an environment returns into small grey ones (chapter 1).

    The observation is ``{"pixels": [1, size, size]}``, uint8, as that of :class:`Pictures`.

    Args:
        env: it returns ``[height, width]``, ``[height, width, 1]`` or ``[height, width, 3]``, uint8.
        size: height and width of the picture, in pixels.
    """

    def __init__(self, env: gym.Env, size: int) -> None:
        super().__init__(env)
        self.size = size
        box = gym.spaces.Box(0, 255, (1, size, size), np.uint8)
        self.observation_space = gym.spaces.Dict(pixels=box)

    def observation(self, observation: np.ndarray) -> dict[str, np.ndarray]:
        """Shrink, and make grey."""
        height, width = observation.shape[:2]
        frame = np.array(observation, order="C").reshape(height, width, -1)  # a copy: it may be read-only
        small = _resize(torch.from_numpy(frame).permute(2, 0, 1), self.size).numpy()
        if len(small) == 3:
            small = (np.tensordot(GREY, small, 1) + 0.5).astype(np.uint8)[None]
        return {"pixels": small}


def _resize(picture: Tensor, size: int) -> Tensor:
    """Shrink ``[channels, height, width]`` to ``[channels, size, size]``."""
    resize = torch.nn.functional.interpolate
    return resize(picture[None], (size, size), mode="bilinear", antialias=True)[0]


def prepare_display() -> None:
    """Let pygame draw where there is no screen (Linux without a display), unless the reader chose a driver.

    It is also told to leave SIGTERM alone.

    Raises:
        UserError: if the chosen driver cannot draw here.
    """
    if sys.platform.startswith("linux") and not (
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    ):
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    # SDL would take SIGTERM for itself, and a process that has drawn would then ignore `kill`.
    os.environ.setdefault("SDL_NO_SIGNAL_HANDLERS", "1")
    try:
        pygame.display.init()
    except pygame.error as error:
        driver = os.environ.get("SDL_VIDEODRIVER")
        raise UserError(
            f"SDL_VIDEODRIVER={driver!r} cannot draw here ({error}): set SDL_VIDEODRIVER=dummy"
        ) from None
