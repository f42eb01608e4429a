"""Q-values as the value of a state and the advantages of its actions."""

from __future__ import annotations

from torch import Tensor, nn
from torchrl.modules import MLP


class Dueling(nn.Module):
    r"""Compute Q-values by two networks, each with a hidden layer :cite:p:`wang2016dueling`.

    One network computes the value :math:`V` of the state, the other the advantages :math:`A` of the actions:
    :math:`Q_a = V + A_a - \operatorname{mean}_b A_b`. Each update of an action's Q-value also moves that of
    the others. TorchRL 0.14.1's ``DuelingMlpDQNet`` has a network of its own before the two.

    Args:
        width: size of the input.
        actions: number of Q-values.
        hidden: units of each hidden layer.
        initial_value: initial value of the last bias of :math:`V`, so that every Q-value starts near it.
    """

    def __init__(self, width: int, actions: int, hidden: int, initial_value: float) -> None:
        super().__init__()
        self.value, self.advantage = (
            MLP(width, size, num_cells=[hidden], activation_class=nn.ReLU) for size in (1, actions)
        )
        nn.init.constant_(self.value[-1].bias, initial_value)

    def forward(self, features: Tensor) -> Tensor:
        """Return Q-values ``[..., actions]`` for features ``[..., width]``."""
        advantage = self.advantage(features)
        value: Tensor = self.value(features)
        return value + advantage - advantage.mean(-1, keepdim=True)
