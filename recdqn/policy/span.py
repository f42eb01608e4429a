"""Let a recurrent layer remember for long from the start."""

from __future__ import annotations

import torch
from torch import nn


@torch.no_grad()
def remember(cell: nn.LSTM | nn.GRU, span: int) -> None:
    """Initialise the gates of a recurrent layer so that its units forget in 2 to ``span`` steps.

    A unit keeps a share ``f`` of its state at each step: the sigmoid of the bias of an LSTM's forget gate or
    a GRU's update gate, plus what the inputs add. PyTorch's biases are near 0, so a state halves at each
    step. Here the bias of each unit is ``log(u)``, with ``u`` uniform between 1 and ``span - 1``, so that
    ``1 / (1 - f)``, the steps in which a state falls to about a third, is ``1 + u``. The bias of the LSTM's
    input gate is ``-log(u)``: a unit that keeps its state for long takes in little at each step. This is the
    chrono initialisation of :cite:t:`tallec2018can`.

    Args:
        cell: of one or more layers.
        span: at least 2 steps.
    """
    size = cell.hidden_size
    for layer in range(cell.num_layers):
        for name in (f"bias_ih_l{layer}", f"bias_hh_l{layer}"):  # PyTorch adds the two
            getattr(cell, name)[: 2 * size] = 0.0  # input and forget gate; of a GRU reset and update gate
        bias = getattr(cell, f"bias_ih_l{layer}")
        steps = torch.empty(size).uniform_(1.0, max(span - 1.0, 1.0)).log()
        bias[size : 2 * size] = steps
        if isinstance(cell, nn.LSTM):
            bias[:size] = -steps
