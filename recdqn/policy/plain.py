"""Call the modules of a policy on plain tensors, without TensorDicts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from tensordict.nn import TensorDictModule, TensorDictModuleBase
from torch import Tensor, nn
from torchrl.modules import MLP, EGreedyModule, QValueModule

from recdqn.envs.entries import KEYS as SEEN
from recdqn.errors import UserError
from recdqn.policy.modules import modules_of, recurrent_cell


def chain(policy: TensorDictModuleBase) -> list[Any]:
    """Return the modules of a policy up to the Q-values, each of which reads what the one before wrote.

    Raises:
        UserError: if the policy has other modules.
    """
    key: Any = None
    found = []
    for module in modules_of(policy):
        if type(module) in (QValueModule, EGreedyModule):
            continue
        known = recurrent_cell(module) is not None
        keys = module.in_keys[:1] if known else module.in_keys
        if type(module) is TensorDictModule:
            known = len(module.out_keys) == 1
        if not known or not set(keys) <= ({key} if key else {*SEEN, "previous"}):
            raise UserError(
                f"an agent cannot run {type(module).__name__}, from {module.in_keys} to {module.out_keys}: "
                "expected a chain from 'observation', 'pixels' or 'codes' of TensorDictModule, LSTMModule or "
                "GRUModule"
            )
        key = module.out_keys[0]
        found.append(module)
    return found


def state_count(cell: nn.LSTM | nn.GRU) -> int:
    """Return the number of states of a recurrent layer."""
    return 1 if isinstance(cell, nn.GRU) else 2


def step(
    modules: Iterable[Any], seen: Sequence[Tensor], states: Sequence[Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    """Make one step of a batch.

    Args:
        modules: from :func:`chain`.
        seen: what the first module reads, ``[batch, ...]`` each.
        states: of all recurrent layers, ``[batch, layers, hidden]`` each.

    Returns:
        The output of each module, the Q-values last; and the states after the step.
    """
    outputs: list[Tensor] = []
    after: list[Tensor] = []
    inputs = list(seen)
    for module in modules:
        if (cell := recurrent_cell(module)) is None:
            value = module.module(*inputs)
        else:
            start = len(after)
            before = [s.transpose(0, 1).contiguous() for s in states[start : start + state_count(cell)]]
            value, new = cell(
                inputs[0].unsqueeze(1), before[0] if isinstance(cell, nn.GRU) else tuple(before)
            )
            value = value.squeeze(1)
            after += [s.transpose(0, 1) for s in ((new,) if isinstance(cell, nn.GRU) else new)]
        outputs.append(value)
        inputs = [value]
    return outputs, after


def single_step(
    modules: Sequence[Any],
) -> Callable[[Tensor, Sequence[Tensor]], tuple[Tensor, list[Tensor]]]:
    """Return a function that makes one step of one environment, in a third of the time of :func:`step`.

    It looks the layers up once, and calls a recurrent layer's cell, which computes the same up to rounding.

    Args:
        modules: from :func:`chain`.

    Returns:
        A function of an observation ``[1, ...]`` and the states ``[layers, hidden]`` of all recurrent layers.
        It returns the Q-values ``[1, actions]`` and the states after the step.
    """
    parts: list[tuple[nn.LSTM | nn.GRU | None, Any]] = []
    for module in modules:
        if (cell := recurrent_cell(module)) is not None:
            parts.append((cell, torch.gru_cell if isinstance(cell, nn.GRU) else torch.lstm_cell))
        elif type(module.module) in (MLP, nn.Sequential):
            parts += [(None, layer) for layer in module.module]
        else:
            parts.append((None, module.module))

    def run(value: Tensor, states: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        after: list[Tensor] = []
        for cell, call in parts:
            if cell is None:
                value = call(value)
                continue
            before = states[len(after) : len(after) + state_count(cell)]
            new = []
            for layer, weights in enumerate(cell.all_weights):
                rows = [state[layer : layer + 1] for state in before]
                if isinstance(cell, nn.GRU):
                    value = call(value, rows[0], *weights)
                    new.append((value,))
                else:
                    new.append(call(value, rows, *weights))
                    value = new[-1][0]
            after += new[0] if len(new) == 1 else map(torch.cat, zip(*new, strict=True))
        return value, after

    return run
