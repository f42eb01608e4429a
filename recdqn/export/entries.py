"""Read the entries of raw observations inside an exported file, as :mod:`recdqn.envs.arrays` reads them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete, MultiDiscrete
from torch import Tensor, nn

from recdqn.config import EnvConfig
from recdqn.envs.arrays import READERS, colours_last
from recdqn.envs.make import reader_of
from recdqn.envs.shrink import GREY


class RawEntry(NamedTuple):
    """One entry of an observation, an input of the file.

    Attributes:
        name: of the input.
        space: as the environment declares the entry.
        key: ``"observation"``, ``"pixels"`` or ``"codes"``: which encoder reads it.
        read: from a batch of the entry to ``[batch, size]`` numbers or codes, or
            ``[batch, pictures, size, size]`` bytes.
    """

    name: str
    space: Any
    key: str
    read: nn.Module


def raw_entries(cfg: EnvConfig, observations: Any, actions: int) -> list[RawEntry]:
    """Return what an agent reads of an observation, in the order in which it lies side by side.

    Args:
        cfg: the environment the agent was trained in.
        observations: the space, as the environment declares it.
        actions: number of actions.
    """
    if cfg.observation == "pixels":
        picture = Box(0, 255, (1, cfg.image_size, cfg.image_size), np.uint8)
        return [RawEntry("observation", picture, "pixels", nn.Identity())]
    reader = reader_of(observations, cfg, actions)
    if cfg.stack > 1:  # the last vectors that the agent saw
        seen = observations if reader is None else reader.space
        stacked = Box(-np.inf, np.inf, (cfg.stack, *(seen.shape or ())), np.float32)
        return [RawEntry("observation", stacked, "observation", Numbers())]
    if reader is None:
        return [RawEntry("observation", observations, "observation", Numbers())]
    found, before = [], 0
    for name, space, how in reader.chosen():
        module: nn.Module
        if isinstance(space, Discrete | MultiDiscrete):
            key, module = "observation", Choices(space)
        elif not isinstance(space, Box) or how in (None, "numbers"):
            key, module = "observation", Numbers()
        elif how == "grid":
            key, module = "codes", Grid(space, before)
            before += READERS[how](space, cfg.image_size).codes
        else:
            key, module = "pixels", Pictures(space, how, cfg.image_size)
        found.append(RawEntry(f"observation.{name}" if name else "observation", space, key, module))
    return found


class Numbers(nn.Module):
    """Every number as it is."""

    def forward(self, value: Tensor) -> Tensor:
        """Return ``[batch, size]``, float32."""
        return value.reshape(value.shape[0], -1).float()


class Choices(nn.Module):
    """Zeros and a one for each choice, side by side."""

    choice: Tensor
    wanted: Tensor

    def __init__(self, space: Discrete | MultiDiscrete) -> None:
        super().__init__()
        counts, start = np.atleast_1d(
            (space.n, space.start) if isinstance(space, Discrete) else (space.nvec, space.start)
        ).reshape(2, -1)
        self.register_buffer("choice", torch.from_numpy(np.repeat(np.arange(len(counts)), counts)))
        wanted = [np.arange(count) + first for count, first in zip(counts, start, strict=True)]
        self.register_buffer("wanted", torch.from_numpy(np.concatenate(wanted).astype(np.int64)))

    def forward(self, value: Tensor) -> Tensor:
        """Return ``[batch, sum of the counts]``, float32."""
        given = value.reshape(value.shape[0], -1).long()
        return (given.index_select(1, self.choice) == self.wanted).float()


class Grid(nn.Module):
    """Codes; each position of the last axis of three has codes of its own.

    Args:
        space: of the grid.
        before: number of codes of the grids before it.
    """

    shift: Tensor

    def __init__(self, space: Box, before: int) -> None:
        super().__init__()
        low, high = int(space.low.min()), int(space.high.max())
        channels = space.shape[-1] if len(space.shape) == 3 else 1
        shift = np.arange(channels) * (high - low + 1) - low + before
        self.register_buffer("shift", torch.from_numpy(shift))

    def forward(self, value: Tensor) -> Tensor:
        """Return ``[batch, positions]``, int32."""
        batch, channels = value.shape[0], self.shift.shape[0]
        codes = value.long().reshape(batch, -1, channels) + self.shift
        return codes.reshape(batch, -1).int()


class Pictures(nn.Module):
    """Pictures, small and grey, exactly as :func:`recdqn.envs.shrink.small_grey` computes them.

    Args:
        space: of one picture, or of several.
        how: ``"picture"`` or ``"frames"``.
        size: of the result, pixels.
    """

    grey: Tensor

    def __init__(self, space: Box, how: str, size: int) -> None:
        super().__init__()
        shape, self.several = space.shape, how == "frames"
        self.low, self.high = float(space.low.min()), float(space.high.max())
        self.bytes = space.dtype == np.uint8 and (self.low, self.high) == (0, 255)
        axes = list(range(len(shape)))
        if self.several:  # the axis of the pictures comes first
            pictures = 0 if len(shape) == 4 or shape[0] <= shape[-1] else len(shape) - 1
            axes = [pictures, *(axis for axis in axes if axis != pictures)]
        one = [shape[axis] for axis in axes[self.several :]]
        turned = [axes[self.several :][axis] for axis in colours_last(tuple(one))]
        self.axes = [0, *(1 + axis for axis in axes[: self.several] + turned)]
        self.colours = 3 if len(turned) == 3 and shape[turned[2]] == 3 else 1
        self.register_buffer("grey", torch.from_numpy(GREY))
        self.down = Shrink(shape[turned[0]], size)
        self.across = Shrink(shape[turned[1]], size)

    def forward(self, value: Tensor) -> Tensor:
        """Return ``[batch, pictures, size, size]``, uint8."""
        if not self.bytes:
            share = (value.double() - self.low) / max(self.high - self.low, 1e-12)
            value = (share.clamp(0, 1) * 255 + 0.5).floor()
        turned = value.double().permute(self.axes)
        frames = turned if self.several else turned.unsqueeze(1)
        if frames.dim() == 4:
            frames = frames.unsqueeze(-1)
        images = frames.movedim(-1, 2)  # [batch, pictures, colours, height, width]
        small = self.down(self.across(images).transpose(-1, -2)).transpose(-1, -2)
        if self.colours == 1:
            return small[:, :, 0].to(torch.uint8)
        red, green, blue = small.float().unbind(2)
        weighted = self.grey[0] * red + self.grey[1] * green + self.grey[2] * blue
        return (weighted + 0.5).floor().to(torch.uint8)


class Shrink(nn.Module):
    """Resize the last axis of bytes, in the whole numbers of PyTorch's ``interpolate`` with ``antialias``.

    Weights are multiples of a power of two, the largest that keeps them below 2^15.
    """

    weights: Tensor

    def __init__(self, length: int, size: int) -> None:
        super().__init__()
        eye = torch.eye(length, dtype=torch.float64)[None, None]
        share = nn.functional.interpolate(eye, (size, length), mode="bilinear", antialias=True)[0, 0]
        bits = 0
        while bits < 22 and int(0.5 + float(share.max()) * 2 ** (bits + 1)) < 2**15:
            bits += 1
        self.same, self.unit = length == size, float(2**bits)
        self.register_buffer("weights", (share * self.unit + 0.5).floor().T.contiguous())

    def forward(self, value: Tensor) -> Tensor:
        """Return the resized values, whole numbers in float64."""
        if self.same:
            return value
        return ((value @ self.weights + self.unit / 2) / self.unit).floor().clamp(0, 255)
