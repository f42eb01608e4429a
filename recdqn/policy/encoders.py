"""Encoders: from an observation to features."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchrl.modules import ConvNet

from recdqn.config import PolicyConfig
from recdqn.errors import UserError

SQUARE = 4  # pixels: height and width of what becomes one place with 16 channels


class Eyes(nn.Module):
    """Turn pictures into features: convolutions, one layer, and its output normalised (chapter 2).

    Pictures are ``[..., 1, size, size]``, uint8; features ``[..., features]``, float32. First, squares of
    4 x 4 pixels become channels. After that, a 2x2 convolution of stride 1 does what an 8x8 one of stride 4
    does without, and processors are quicker at it.

    Args:
        cfg: the sizes. ``bfloat16`` speeds up the convolutions where the processor has instructions for it;
            their results then have 8 significant bits. Elsewhere they run in float32.

    Raises:
        UserError: in a call, if the picture cannot be cut into such squares.
    """

    def __init__(self, cfg: PolicyConfig) -> None:
        super().__init__()
        self.contrast = cfg.contrast
        self.dtype = torch.bfloat16 if cfg.bfloat16 and has_bfloat16() else torch.float32
        self.convolutions = ConvNet(
            in_features=SQUARE**2,
            num_cells=list(cfg.channels),
            kernel_sizes=list(cfg.kernels),
            strides=list(cfg.strides),
            activation_class=nn.ReLU,
            activation_kwargs={"inplace": True},
        )
        self.features = nn.LazyLinear(cfg.features)
        self.normalise = nn.LayerNorm(cfg.features)

    def forward(self, pixels: Tensor) -> Tensor:
        """Look at pictures of any batch size."""
        ink = fold(pixels.reshape(-1, *pixels.shape[-2:])).to(self.dtype).mul_(self.contrast / 255)
        with torch.autocast(pixels.device.type, self.dtype, enabled=self.dtype != torch.float32):
            seen = self.features(self.convolutions(ink))
        return self.normalise(seen.float()).relu().reshape(*pixels.shape[:-3], -1)


def fold(pixels: Tensor) -> Tensor:
    """Turn pictures ``[N, height, width]`` into ink, 255 where black, ``[N, 16, height / 4, width / 4]``."""
    _, height, width = pixels.shape
    if height % SQUARE or width % SQUARE:
        raise UserError(f"a picture of {height}x{width} pixels: expected multiples of {SQUARE}")
    # Four bytes move as one number, which is five times as fast as moving each.
    rows = (255 - pixels).view(torch.int32).unflatten(1, (-1, SQUARE))  # [N, height / 4, 4, width / 4]
    return rows.transpose(2, 3).contiguous().view(torch.uint8).movedim(-1, 1)


def has_bfloat16() -> bool:
    """Whether this machine's processor computes in bfloat16 by itself."""
    return torch.cpu.get_capabilities().get("avx512_bf16", False)
