"""What a policy consists of: its modules in order, and the recurrent layer of a module."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tensordict.nn import TensorDictModuleBase, TensorDictSequential
from torch import nn
from torchrl.modules import GRUModule, LSTMModule


def modules_of(policy: TensorDictModuleBase) -> Iterator[Any]:
    """Yield the modules of a policy in the order in which they run; sequences inside it are opened."""
    if isinstance(policy, TensorDictSequential):
        for module in policy:
            yield from modules_of(module)
    else:
        yield policy


def recurrent_cell(module: TensorDictModuleBase) -> nn.LSTM | nn.GRU | None:
    """Return the LSTM or GRU that can run in place of ``module`` on plain tensors; ``None`` if none can.

    It reads ``[batch, time, features]``. Its state is ``[layers, batch, hidden]``, one tensor for each entry
    of the module's state.
    """
    cell: Any = getattr(module, {LSTMModule: "lstm", GRUModule: "gru"}.get(type(module), ""), None)
    plain = type(cell) in (nn.LSTM, nn.GRU) and not cell.bidirectional and not cell.proj_size
    return cell if plain else None
