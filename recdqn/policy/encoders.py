"""Encoders: from an observation to features."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torchrl.modules import MLP, ConvNet

from recdqn.config import PolicyConfig
from recdqn.errors import UserError

PATCH = 4  # pixels: each 4 x 4 patch becomes one position with 16 channels


class PixelEncoder(nn.Module):
    """Encode images: convolutions, a linear layer, layer normalisation and a ReLU.

    Images are ``[..., pictures, height, width]``, uint8; features ``[..., features]``, float32. Each 4 x 4
    patch of pixels becomes 16 channels. After that, a 2 x 2 convolution of stride 1 computes the same as an
    8 x 8 convolution of stride 4 on the image, and faster.

    Args:
        cfg: the sizes. ``bfloat16`` speeds up the layers on processors with instructions for it; their
            results then have 8 significant bits. On other processors they run in float32.
        pictures: how many lie side by side.

    Raises:
        UserError: in a call, if height or width is not a multiple of 4.
    """

    def __init__(self, cfg: PolicyConfig, pictures: int = 1) -> None:
        super().__init__()
        self.contrast = cfg.contrast
        self.dtype = torch.bfloat16 if cfg.bfloat16 and has_bfloat16() else torch.float32
        self.convolutions = ConvNet(
            in_features=pictures * PATCH**2,
            num_cells=list(cfg.channels),
            kernel_sizes=list(cfg.kernels),
            strides=list(cfg.strides),
            activation_class=nn.ReLU,
            activation_kwargs={"inplace": True},
        )
        self.features = nn.LazyLinear(cfg.features)
        self.normalise = nn.LayerNorm(cfg.features)

    def forward(self, pixels: Tensor) -> Tensor:
        """Encode images of any batch size."""
        images = pixels.reshape(-1, *pixels.shape[-2:])
        patches = inverted_patches(images)
        if pixels.shape[-3] > 1:
            patches = patches.reshape(-1, pixels.shape[-3] * PATCH**2, *patches.shape[-2:])
        inputs = patches.to(self.dtype).mul_(self.contrast / 255)  # 0 where white
        with torch.autocast(pixels.device.type, self.dtype, enabled=self.dtype != torch.float32):
            outputs = self.features(self.convolutions(inputs))
        return self.normalise(outputs.float()).relu().reshape(*pixels.shape[:-3], -1)


class CodeEncoder(nn.Module):
    """Encode codes: each is looked up in a table, then a linear layer reads all of them.

    Codes are ``[..., n]``, int32; features ``[..., features]``, float32.

    Args:
        cfg: the sizes.
        codes: number of rows of the table.
        count: number of codes of one observation.
    """

    WIDTH = 8  # numbers that stand for a code

    def __init__(self, cfg: PolicyConfig, codes: int, count: int) -> None:
        super().__init__()
        self.table = nn.Embedding(codes, self.WIDTH)
        self.features = nn.Linear(count * self.WIDTH, cfg.features)

    def forward(self, codes: Tensor) -> Tensor:
        """Encode codes of any batch size."""
        return self.features(self.table(codes).flatten(-2)).tanh()


class SideBySide(nn.Module):
    """Give each input to an encoder of its own, and join their features: ``[..., sum of features]``.

    Args:
        encoders: one for each input.
    """

    def __init__(self, encoders: Iterable[nn.Module]) -> None:
        super().__init__()
        self.encoders = nn.ModuleList(encoders)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return the features of all inputs."""
        return torch.cat([encode(x) for encode, x in zip(self.encoders, inputs, strict=True)], -1)


def _layer(cfg: PolicyConfig) -> MLP:
    return MLP(out_features=cfg.features, num_cells=[], activation_class=nn.Tanh, activate_last_layer=True)


#: What makes the encoder of an entry of the observation, from the settings and the entry's spec.
ENCODERS: dict[str, Callable[[PolicyConfig, Any], nn.Module]] = {
    "observation": lambda cfg, spec: _layer(cfg),
    "pixels": lambda cfg, spec: PixelEncoder(cfg, spec.shape[-3]),
    "codes": lambda cfg, spec: CodeEncoder(cfg, int(spec.space.high.max()) + 1, spec.shape[-1]),
}


def inverted_patches(images: Tensor) -> Tensor:
    """Return ``F.pixel_unshuffle(255 - images[:, None], 4)`` in ``channels_last`` memory format.

    It is five times as fast, because the four bytes of a patch's row move as one number.

    Args:
        images: uint8 ``[N, height, width]``.

    Returns:
        uint8 ``[N, 16, height / 4, width / 4]``.
    """
    _, height, width = images.shape
    if height % PATCH or width % PATCH:
        raise UserError(f"a picture of {height}x{width} pixels: expected multiples of {PATCH}")
    rows = (255 - images).view(torch.int32).unflatten(1, (-1, PATCH))  # [N, height / 4, 4, width / 4]
    return rows.transpose(2, 3).contiguous().view(torch.uint8).movedim(-1, 1)


def has_bfloat16() -> bool:
    """Whether this processor has instructions for bfloat16."""
    return torch.cpu.get_capabilities().get("avx512_bf16", False)
