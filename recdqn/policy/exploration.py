"""A share of random actions for each environment."""

from __future__ import annotations

import torch
from torch import Tensor


def ladder(envs: int, eps: float = 0.4, alpha: float = 7.0) -> Tensor:
    """Return each environment's share of random actions, ``[envs]`` (:cite:t:`horgan2018distributed`).

    Example:
        >>> [round(share, 4) for share in ladder(3).tolist()]
        [0.4, 0.0162, 0.0007]
    """
    return eps ** (1 + alpha * torch.arange(envs, dtype=torch.float32) / max(envs - 1, 1))
