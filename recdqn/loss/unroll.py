"""Run a recurrent network over slices."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from tensordict import NestedKey, unravel_key
from tensordict.nn import TensorDictModule
from torch import Tensor
from torchrl.modules import EGreedyModule, QValueModule

from recdqn.loss.plain import PlainCall, Values
from recdqn.policy.modules import modules_of

States = dict[NestedKey, Tensor]  # by key, [slices, layers, hidden] each


@dataclass(frozen=True)
class Sequences:
    """Observations of ``S`` slices, and their cells in a rectangle with a slice in each row.

    Attributes:
        frames: the observations, ``[N, ...]`` each.
        shape: rows and columns of the rectangle, ``(S, T)``.
        cell: the cell of each observation, counted row by row, ``[N]``; ``None`` if they fill it in order.
        states: the states that the slices start from.
    """

    frames: Values
    shape: tuple[int, int]
    cell: Tensor | None
    states: States


@dataclass(frozen=True)
class Prefix:
    """Burn-in observations, which only update the state.

    Attributes:
        sequences: those of the slices that have burn-in.
        rows: their rows among all slices.
    """

    sequences: Sequences
    rows: Tensor


class Unroll:
    """Split a network at the recurrent layer, and run it over slices.

    Args:
        network: its recurrent layer reads ``"is_init"``. It may have none: then only the last module sees the
            slices as rows.

    Attributes:
        state_keys: keys of the recurrent states.
        observation_keys: keys of the observations, with the mask of legal actions.
        mask_key: key of that mask, if the network has one.
    """

    def __init__(self, network: TensorDictModule) -> None:
        keys = network.in_keys
        self.state_keys = [key for key in keys if unravel_key(("next", key)) in network.out_keys]
        self.observation_keys = [key for key in keys if key not in ("is_init", *self.state_keys)]
        modules = list(modules_of(network))
        masks = (module.action_mask_key for module in modules if isinstance(module, QValueModule))
        self.mask_key: NestedKey | None = next(masks, None)
        while len(modules) > 1 and isinstance(modules[-1], (QValueModule, EGreedyModule)):
            modules.pop()  # only the values are read
        recurrent = (k for k, module in enumerate(modules) if "is_init" in module.in_keys)
        first = next(recurrent, len(modules) - 1)
        calls = [PlainCall(module) for module in modules]
        self._encoder, self._recurrent = calls[:first], calls[first:]
        self._feature_keys: list[NestedKey] = []
        known = {"is_init", *self.state_keys}
        for module in modules[first:]:
            self._feature_keys += [key for key in module.in_keys if key not in known]
            known.update(module.in_keys, module.out_keys)  # a key may be read before it is written

    def __call__(self, sequences: Sequences, burn_in: Prefix | None) -> Values:
        """Return the output of the network, ``[S, T, ...]`` each.

        Every frame is read once, those of ``burn_in`` without gradient.
        """
        states = sequences.states
        if burn_in is not None:
            states = self._after_burn_in(states, sequences.shape[0], burn_in)
        return self._read(sequences, states)

    @torch.no_grad()
    def _after_burn_in(self, states: States, slices: int, burn_in: Prefix) -> States:
        """Replace the states of slices that have burn-in by those after it."""
        read = self._read(burn_in.sequences, burn_in.sequences.states)
        result = dict(states)
        for key in self.state_keys:
            after = read[unravel_key(("next", key))][:, -1]  # [slices with burn-in, layers, hidden]
            before = states.get(key)
            if before is None:
                before = after.new_zeros(slices, *after.shape[1:])
            result[key] = before.to(after.dtype).index_copy(0, burn_in.rows, after)
        return result

    def _read(self, sequences: Sequences, states: States) -> Values:
        """Call the network on slices, one in each row: ``[S, T]``.

        The encoder reads the flat frames, so that it does not compute on padding. A rectangle without resets
        lets PyTorch use its plain LSTM, which is faster than one over packed sequences. Padding comes last in
        each row, so nothing depends on it.
        """
        frames = sequences.frames
        for module in self._encoder:
            frames = module(frames, (len(next(iter(frames.values()))),))
        rows = {key: rectangle(frames[key], sequences) for key in self._feature_keys}
        rows |= {key: state.unsqueeze(1) for key, state in states.items()}
        for module in self._recurrent:
            rows = module(rows, sequences.shape)
        return rows


def rectangle(values: Tensor, sequences: Sequences) -> Tensor:
    """Lay out features ``[N, ...]``, with zeros in cells without any: ``[S, T, ...]``."""
    if sequences.cell is not None:
        cells = sequences.shape[0] * sequences.shape[1]
        values = values.new_zeros(cells, *values.shape[1:]).index_copy(0, sequences.cell, values)
    return values.unflatten(0, sequences.shape)
