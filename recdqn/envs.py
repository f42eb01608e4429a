"""Environments seen through transforms (chapter 1): pixel CartPole, and CartPole without velocities."""

from __future__ import annotations

import os
import sys
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pygame
import torch
from torch import Tensor
from torchrl.envs import (
    Compose,
    GymWrapper,
    InitTracker,
    ObservationNorm,
    RewardScaling,
    StepCounter,
    ToTensorImage,
    TransformedEnv,
    UnaryTransform,
)
from torchrl.envs.common import EnvBase

from recdqn.config import ENV_ID, ConfigError, EnvConfig, UserError

GREY = np.array([0.2989, 0.587, 0.114], dtype=np.float32)  # shares of red, green and blue (ITU-R BT.601)
LOST = 2  # 8-bit levels that smoothscale loses by rounding down, in each direction once
MOST_OFF = 3.0  # 8-bit levels, mean over a picture, between the fast way of drawing and the slow one
VISIBLE = [0, 2]  # of CartPole's cart position, cart velocity, pole angle and pole's angular velocity


def hide_velocities(observation: Tensor) -> Tensor:
    """Keep the cart's position and the pole's angle: ``[..., 4]`` becomes ``[..., 2]``."""
    return observation[..., VISIBLE]


def make_env(cfg: EnvConfig) -> TransformedEnv:
    """Build CartPole with its transforms; the statistics are set, the specs are those of the transformed env.

    The observation is ``"observation"`` of shape ``[..., 2]`` when masked and ``"pixels"`` of shape
    ``[..., 1, size, size]`` otherwise, float32. ``"is_init"`` and ``"step_count"`` are ``[..., 1]``. The
    batch size is ``[num_envs]``, or empty for one environment. An episode ends when the pole falls or the
    cart leaves the track (``"terminated"``), or after 500 steps (``"truncated"``). Every reward is
    ``reward_scale``.

    Raises:
        ConfigError: ``loc`` or ``scale`` has neither one entry nor one for every entry of the observation.
            The defaults of ``EnvConfig`` are for masked observations; the preset ``"pixel-cartpole"`` has the
            values for pictures.

    Example:
        >>> env = make_env(EnvConfig(num_envs=1))
        >>> env.rollout(3)["observation"].shape
        torch.Size([3, 2])
    """
    _check_norm(cfg)
    if cfg.observation == "pixels":
        prepare_display()
        key = "pixels"
        see = [ToTensorImage(in_keys=[key])]
    else:
        key = "observation"
        see = [UnaryTransform(in_keys=[key], out_keys=[key], fn=hide_velocities)]
    # As tensors: ObservationNorm would raise a negative number to 1e-6.
    loc, scale = torch.tensor(cfg.loc), torch.tensor(cfg.scale)
    normalise = ObservationNorm(loc, scale, in_keys=[key])
    return TransformedEnv(
        _base_env(cfg),
        Compose(*see, normalise, RewardScaling(0.0, cfg.reward_scale), StepCounter(), InitTracker()),
    )


class Pictures(gym.Wrapper):
    """Show a pygame environment as small grey pictures (chapter 1).

    The observation is ``{"pixels": [size, size, 1]}``, uint8. Gymnasium's environments draw on a surface of
    pygame, turn it upside down, copy it onto a second one, and hand out a copy of all its pixels. Here the
    surface is shrunk as soon as it is drawn (``pygame.transform.smoothscale``, an average over the area of
    each small pixel), so that everything behind it handles a fraction of the data.

    Args:
        env: made with ``render_mode="rgb_array"``.
        size: height and width of the picture, in pixels.

    Raises:
        UserError: at the first reset, if the environment draws in another way, so that the picture is not its
            frame made small.

    Example:
        >>> env = Pictures(gym.make("MountainCar-v0", render_mode="rgb_array"), size=84)
        >>> env.reset()[0]["pixels"].shape
        (84, 84, 1)
    """

    def __init__(self, env: gym.Env, size: int) -> None:
        super().__init__(env)
        self.size = size
        box = gym.spaces.Box(0, 255, (size, size, 1), np.uint8)
        self.observation_space = gym.spaces.Dict(pixels=box)
        self._checked = False

    def reset(self, **kwargs: Any) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Reset, and look."""
        _, info = self.env.reset(**kwargs)
        if not self._checked:
            self._check()
        return self._look(), info

    def step(self, action: Any) -> tuple[dict[str, np.ndarray], Any, bool, bool, dict[str, Any]]:
        """Step, and look."""
        _, *outcome = self.env.step(action)
        return self._look(), *outcome

    def _look(self) -> dict[str, np.ndarray]:
        small = []  # the picture, once the environment has drawn it

        def shrink(surface: pygame.Surface) -> pygame.Surface:
            small[:] = [pygame.transform.smoothscale(surface, (self.size, self.size))]
            return small[0]

        def turn(surface: pygame.Surface, across: bool, down: bool) -> pygame.Surface:
            small[:] = [flip(shrink(surface), across, down)]
            return small[0]

        def pixels(surface: pygame.Surface) -> np.ndarray:
            return pixels3d(small[0] if small else shrink(surface))

        flip, pixels3d = pygame.transform.flip, pygame.surfarray.pixels3d
        pygame.transform.flip, pygame.surfarray.pixels3d = turn, pixels
        try:
            frame = self.env.render()  # [size, size, 3]
        finally:
            pygame.transform.flip, pygame.surfarray.pixels3d = flip, pixels3d
        grey = np.minimum(frame @ GREY + LOST + 0.5, 255)
        return {"pixels": grey.astype(np.uint8)[..., None]}

    def _check(self) -> None:
        """Compare one picture with the whole frame, averaged."""
        frame = torch.from_numpy(self.env.render() @ GREY)[None]
        slow = torch.nn.functional.adaptive_avg_pool2d(frame, self.size)[0]
        fast = torch.from_numpy(self._look()["pixels"][..., 0])
        if fast.shape != slow.shape or (fast - slow).abs().mean() > MOST_OFF:
            raise UserError(
                f"{self.env.unwrapped} draws in a way that Pictures cannot follow: "
                "use GymEnv(..., from_pixels=True) with ToTensorImage, GrayScale and Resize"
            )
        self._checked = True


def _check_norm(cfg: EnvConfig) -> None:
    entries = 1 if cfg.observation == "pixels" else len(VISIBLE)
    for name, values in (("loc", cfg.loc), ("scale", cfg.scale)):
        if len(values) not in (1, entries):
            expected = "1 number" if entries == 1 else f"1 or {entries} numbers"
            raise ConfigError(
                f"{name}={values}: expected {expected} for observation={cfg.observation!r}; "
                "Config.preset has values for each kind"
            )


def _base_env(cfg: EnvConfig) -> EnvBase:
    wrappers = [partial(Pictures, size=cfg.image_size)] if cfg.observation == "pixels" else []
    if cfg.num_envs == 1:
        env = gym.make(ENV_ID, render_mode="rgb_array")
        for wrap in wrappers:
            env = wrap(env)
        return GymWrapper(env)
    # One vectorised Gymnasium environment costs TorchRL one step where SerialEnv costs num_envs of them.
    return GymWrapper(
        gym.make_vec(
            ENV_ID,
            cfg.num_envs,
            vectorization_mode="sync",
            vector_kwargs={"autoreset_mode": gym.vector.AutoresetMode.DISABLED},
            wrappers=wrappers,
            **({"render_mode": "rgb_array"} if wrappers else {}),
        )
    )


def prepare_display() -> None:
    """Let pygame draw where there is no screen (Linux without a display), unless the reader chose a driver.

    Raises:
        UserError: if the chosen driver cannot draw here.
    """
    if sys.platform.startswith("linux") and not (
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    ):
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    try:
        pygame.display.init()
    except pygame.error as error:
        driver = os.environ.get("SDL_VIDEODRIVER")
        raise UserError(
            f"SDL_VIDEODRIVER={driver!r} cannot draw here ({error}): set SDL_VIDEODRIVER=dummy"
        ) from None
