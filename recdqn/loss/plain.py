"""Call the modules of a network on plain tensors, which takes less time than on a TensorDict."""

from __future__ import annotations

from typing import Any

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase, unravel_key
from tensordict.nn import TensorDictModule
from torch import Tensor, nn

from recdqn.policy.modules import recurrent_cell

Values = dict[NestedKey, Tensor]  # entries of a TensorDict, by key


class PlainCall:
    """A module of a policy as a function of plain tensors.

    The function of a ``TensorDictModule`` and the cell of an ``LSTMModule`` or a ``GRUModule`` are called
    directly. Any other module, and one that has hooks or unusual arguments, gets a TensorDict.

    Args:
        module: reads and writes entries of a TensorDict.
    """

    def __init__(self, module: Any) -> None:
        attributes = vars(module)
        # torch 2.15 and tensordict 0.14.3 have no public names for hooks, and for arguments given by name.
        hooks = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
        self._hooks = [attributes[name] for name in hooks]
        self._module = module
        self._cell = recurrent_cell(module)
        self._is_function = type(module) is TensorDictModule and not any(
            attributes[name] for name in ("method", "method_kwargs", "_kwargs", "_get_kwargs")
        )

    def __call__(self, values: Values, shape: tuple[int, ...]) -> Values:
        """Return ``values`` and the output of the module.

        Args:
            values: the entries that it reads, ``[*shape, ...]`` each. Recurrent states are those that slices
                start from, ``[slices, 1, layers, hidden]``; without them a cell starts from zeros.
            shape: ``(frames,)``, or ``(slices, time)`` for slices that start in the first column.

        Returns:
            A new dictionary. The state after a slice is the last one: ``[:, -1]``.
        """
        if not any(self._hooks):
            if self._cell is not None and len(shape) == 2:
                return values | self._call_cell(self._cell, values)
            if self._is_function:
                keys = self._module.in_keys
                if all(map(values.__contains__, keys)):
                    return values | _entries(self._module, self._module.module(*map(values.get, keys)))
        return values | self._call_with_tensordict(values, shape)

    def _call_cell(self, cell: nn.LSTM | nn.GRU, values: Values) -> Values:
        key, *state_keys, _ = self._module.in_keys  # the last one is "is_init": a cell starts with its slice
        state: Any = None
        if all(map(values.__contains__, state_keys)):
            state = tuple(values[name][:, 0].transpose(0, 1).contiguous() for name in state_keys)
            state = state[0] if isinstance(cell, nn.GRU) else state
        output, after = cell(values[key], state)
        states = (after,) if isinstance(cell, nn.GRU) else after
        after = (part.transpose(0, 1).unsqueeze(1) for part in states)
        return dict(zip(self._module.out_keys, (output, *after), strict=True))

    def _call_with_tensordict(self, values: Values, shape: tuple[int, ...]) -> Values:
        data = TensorDict(batch_size=shape, device=next(iter(values.values())).device)
        for key, value in values.items():
            data[key] = value if len(shape) == 1 else value.expand(*shape, *value.shape[2:])
        if len(shape) == 2:
            data["is_init"] = torch.zeros(*shape, 1, dtype=torch.bool, device=data.device)
            data["is_init"][:, 0] = True
        return dict(self._module(data).items(True, True))


def _entries(module: TensorDictModule, output: Any) -> Values:
    """Assign the output of a function to the keys of its module, as ``TensorDictModule`` does."""
    keys = module.out_keys
    if isinstance(output, Tensor) and len(keys) == 1:
        return {keys[0]: output}
    if isinstance(output, (dict, TensorDictBase)) and all(key in output for key in keys):
        output = tuple(output[key] for key in keys)
    if not isinstance(output, tuple):
        output = (output,)
    result: Values = {}
    for key, value in zip(keys, output, strict=True):
        if not isinstance(value, Tensor):
            value = TensorDict.from_any(value)
        if isinstance(value, TensorDictBase):
            result |= {unravel_key((key, name)): leaf for name, leaf in value.items(True, True)}
        elif key != "_":
            result[key] = value
    return result
