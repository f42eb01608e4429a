"""Environments seen through transforms (chapter 1): pixel CartPole, masked CartPole, and others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import gymnasium as gym
import torch
from torch import Tensor
from torchrl.envs import (
    Compose,
    GymWrapper,
    InitTracker,
    ObservationNorm,
    RewardScaling,
    StepCounter,
    TransformedEnv,
    UnaryTransform,
)
from torchrl.envs.common import EnvBase

from recdqn.config import EnvConfig
from recdqn.envs.checked import Guard, in_one_line, is_picture, open_env
from recdqn.envs.pixels import Pictures, SmallPictures, prepare_display
from recdqn.envs.processes import Workers
from recdqn.envs.replayable import Game
from recdqn.errors import ConfigError


def hide_velocities(observation: Tensor, visible: Sequence[int] = (0, 2)) -> Tensor:
    """Keep the cart's position and the pole's angle, or other entries: ``[..., 4]`` becomes ``[..., 2]``."""
    return observation[..., list(visible)]


def make_env(cfg: EnvConfig) -> TransformedEnv:
    """Build CartPole, or another environment, with its transforms.

    The statistics are set, the specs are those of the transformed environment. The observation is
    ``"observation"`` ``[..., n]``, float32, for a vector (two entries of CartPole's four when masked), and
    ``"pixels"`` ``[..., 1, size, size]``, uint8, for a picture. ``"is_init"`` and ``"step_count"`` are
    ``[..., 1]``. The batch size is ``[num_envs]``, or empty for one environment. An episode of CartPole ends
    when the pole falls or the cart leaves the track (``"terminated"``), or after 500 steps (``"truncated"``).
    Every reward is multiplied by ``reward_scale``; CartPole's are 1.

    Raises:
        ConfigError: if the environment cannot be made, its actions are not ``Discrete``, its observations
            neither a vector nor a picture, or ``cfg`` does not fit them; one line says what would.
        UserError: in a later call, if the environment fails.

    Example:
        >>> env = make_env(EnvConfig(num_envs=1))
        >>> env.rollout(3)["observation"].shape
        torch.Size([3, 2])
    """
    base = _base_env(cfg)
    key = "observation"
    see = []
    if cfg.observation == "masked":
        hide = partial(hide_velocities, visible=cfg.visible)
        see = [UnaryTransform(in_keys=[key], out_keys=[key], fn=hide)]
    if key in base.observation_spec.keys():
        # As tensors: ObservationNorm would raise a negative number to 1e-6.
        loc, scale = torch.tensor(cfg.loc), torch.tensor(cfg.scale)
        see.append(ObservationNorm(loc, scale, in_keys=[key]))
    return TransformedEnv(
        base, Compose(*see, RewardScaling(0.0, cfg.reward_scale), StepCounter(), InitTracker())
    )


def _base_env(cfg: EnvConfig) -> EnvBase:
    makers = []
    for copy in range(cfg.num_envs):
        # Around every single environment, from the inside to the outside.
        guard, look = partial(Guard, name=f"{cfg.id} (copy {copy})"), partial(_look, cfg=cfg)
        wrappers = [guard, look, partial(Game, alone=cfg.workers)]
        makers.append(partial(_make_one, cfg, wrappers))
    if cfg.num_envs == 1:
        return GymWrapper(makers[0]())
    # One vectorised Gymnasium environment costs TorchRL one step where SerialEnv costs num_envs of them.
    try:
        if cfg.workers:
            return GymWrapper(Workers(makers, cfg.id, cfg.step_seconds))
        return GymWrapper(gym.vector.SyncVectorEnv(makers, autoreset_mode=gym.vector.AutoresetMode.DISABLED))
    except RuntimeError as error:
        raise ConfigError(
            f"env.id={cfg.id!r} makes environments that differ: {in_one_line(error)}"
        ) from error


def _make_one(cfg: EnvConfig, wrappers: Sequence[Callable[[gym.Env], gym.Env]]) -> gym.Env:
    if cfg.observation == "pixels":
        prepare_display()
    env = open_env(cfg)
    for wrap in wrappers:
        env = wrap(env)
    return env


def _look(env: gym.Env, cfg: EnvConfig) -> gym.Env:
    """Wrap an environment that is seen as pictures."""
    if cfg.observation == "pixels":
        return Pictures(env, cfg.image_size)
    return SmallPictures(env, cfg.image_size) if is_picture(env.observation_space) else env
