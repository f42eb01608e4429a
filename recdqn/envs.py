"""Environments seen through transforms (chapter 1): pixel CartPole, and CartPole without velocities."""

from __future__ import annotations

import os
import sys

import gymnasium as gym
import pygame
import torch
from torch import Tensor
from torchrl.envs import (
    Compose,
    GrayScale,
    GymEnv,
    GymWrapper,
    InitTracker,
    ObservationNorm,
    Resize,
    RewardScaling,
    SerialEnv,
    StepCounter,
    ToTensorImage,
    TransformedEnv,
    UnaryTransform,
)
from torchrl.envs.common import EnvBase

from recdqn.config import ENV_ID, ConfigError, EnvConfig, UserError

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
        see = [ToTensorImage(in_keys=[key]), GrayScale(in_keys=[key]), Resize(cfg.image_size, in_keys=[key])]
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
    pixels = cfg.observation == "pixels"
    if cfg.num_envs == 1:
        return GymEnv(ENV_ID, from_pixels=True) if pixels else GymEnv(ENV_ID, render_mode="rgb_array")
    if pixels:
        return SerialEnv(cfg.num_envs, lambda: GymEnv(ENV_ID, from_pixels=True))
    # One vectorised Gymnasium environment costs TorchRL one step where SerialEnv costs num_envs of them.
    disabled = gym.vector.AutoresetMode.DISABLED
    return GymWrapper(
        gym.make_vec(
            ENV_ID, cfg.num_envs, vectorization_mode="sync", vector_kwargs={"autoreset_mode": disabled}
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
