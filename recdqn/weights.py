"""The weights of a network in one vector, so that one operation changes all of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def one_vector(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Move tensors on the CPU into one vector, of which they become views; other tensors stay as they are.

    On a GPU, cuDNN copies the weights of a recurrent layer at each call unless they lie alone in memory.

    Args:
        tensors: parameters of any shapes, on one device.

    Returns:
        A list with the vector ``[weights]`` alone, or with the tensors. The tensors stay the same objects;
        a later ``tensor.data = ...`` or ``module.to(...)`` separates them from the vector.
    """
    if any(tensor.device.type != "cpu" for tensor in tensors):
        return list(tensors)
    vector = torch.cat([tensor.detach().reshape(-1) for tensor in tensors])
    for tensor, part in zip(tensors, vector.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.data = part.view_as(tensor)
    return [vector]
