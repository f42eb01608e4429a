"""Slices of episodes: find them in a batch, and lay them out as the rows of a rectangle.

In a batch, slices lie end to end. A recurrent layer reads a rectangle ``[S, T]`` in which each slice has a
row of its own, padded at the end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from torch import Tensor


@dataclass(frozen=True)
class Steps:
    """What the loss does with each step of a batch, ``[N]`` each.

    Attributes:
        row: index of the slice that the step belongs to; -1 for padding.
        column: position in that slice; -1 for padding.
        burn_in: whether the step only updates the recurrent state.
        in_loss: whether the step is in the loss. A step of a slice that is too short is neither.
    """

    row: Tensor
    column: Tensor
    burn_in: Tensor
    in_loss: Tensor


@dataclass(frozen=True)
class Rows:
    """The steps in the loss as a rectangle: ``C`` steps in ``S`` slices, one slice in each row.

    Attributes:
        row, column: the cell of each step, ``[C]``.
        first, last: whether the step is the first or the last of its slice, ``[C]``.
        burned_in: whether burn-in steps precede the slice, ``[S]``.
    """

    row: Tensor
    column: Tensor
    first: Tensor
    last: Tensor
    burned_in: Tensor


def slice_starts(is_init: Tensor, done: Tensor, valid: Tensor) -> Tensor:
    """Mark the first step of each slice: ``[N]``.

    A slice starts where ``is_init`` is true, at the beginning of a row, after a done step and after padding.

    Args:
        is_init: ``[N]`` or ``[B, T]``, as the batch.
        done: whether an episode ends with the step, ``[N]``.
        valid: false for padding, ``[N]``.
    """
    start = is_init.clone()
    start[..., 0] = True
    start = start.reshape(-1)
    start[1:] |= done[:-1] | ~valid[:-1]
    return start & valid


def split_steps(start: Tensor, valid: Tensor, burn_in: Tensor) -> Steps:
    """Number the slices and their steps, and separate burn-in from the steps in the loss.

    Args:
        start: from :func:`slice_starts`, ``[N]``.
        valid: false for padding, ``[N]``.
        burn_in: number of burn-in steps of each slice, ``[slices]``. A slice without a step after them is
            left out.
    """
    if not valid.any():
        nowhere = torch.full_like(start, -1, dtype=torch.long)
        return Steps(nowhere, nowhere, burn_in=valid, in_loss=valid)
    position = valid.cumsum(0) - 1  # among the valid steps
    row = torch.where(valid, start.cumsum(0) - 1, -1)
    column = torch.where(valid, position - position[start][row], -1)
    long_enough = row[valid].bincount() > burn_in  # [slices]
    early = valid & (column < burn_in[row])
    return Steps(row, column, burn_in=early & long_enough[row], in_loss=valid & ~early)


def loss_rows(steps: Steps) -> Rows:
    """Lay out the steps in the loss; slices without any have no row."""
    row, column = steps.row[steps.in_loss], steps.column[steps.in_loss]  # [C]
    first = torch.ones_like(row, dtype=torch.bool)
    first[1:] = row.diff() != 0
    row = first.cumsum(0) - 1
    begin = column[first]  # [S]: the burn-in steps of each slice
    return Rows(row, column - begin[row], first, last=first.roll(-1), burned_in=begin > 0)


def rectangle(
    data: TensorDictBase, row: Tensor, column: Tensor, states: Mapping[NestedKey, Tensor]
) -> TensorDict:
    """Lay out the input of a recurrent layer with one slice in each row: ``[S, T]``.

    Padding comes last in each row, so nothing depends on it. A rectangle without resets lets PyTorch use its
    plain LSTM, which is faster than one over packed sequences.

    Args:
        data: the entries to lay out, ``[N]``.
        row: the row of each, ``[N]``.
        column: the column of each, ``[N]``.
        states: the recurrent states that slices start from, ``[S, layers, hidden]`` each.
    """
    shape = int(row.max()) + 1, int(column.max()) + 1
    result = TensorDict(batch_size=shape, device=data.device)
    for key, value in data.items():
        result[key] = value.new_zeros(*shape, *value.shape[1:]).index_put((row, column), value)
    for key, state in states.items():
        result[key] = state.unsqueeze(1).expand(-1, shape[1], *state.shape[1:])  # only the first is read
    result["is_init"] = torch.zeros(*shape, 1, dtype=torch.bool, device=row.device)
    result["is_init"][:, 0] = True
    return result
