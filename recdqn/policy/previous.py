"""Features of the observation together with the previous action and reward."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class WithPrevious(nn.Module):
    """Append the previous action and reward to the features, for the recurrent layer.

    :cite:t:`kapturowski2019recurrent` give the recurrent layer the same three inputs.

    Args:
        features: a network that reads observations.
        actions: number of actions.
    """

    def __init__(self, features: nn.Module, actions: int) -> None:
        super().__init__()
        self.features, self.actions = features, actions

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return ``[..., features + actions + 1]``; the previous step, ``[..., actions + 1]``, comes last."""
        return torch.cat([self.features(*inputs[:-1]), inputs[-1]], -1)
