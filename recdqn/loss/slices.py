"""Slices of episodes: find them in a batch, and lay them out as the rows of a rectangle.

In a batch, slices lie end to end. A recurrent layer reads a rectangle ``[S, T]`` in which each slice has a
row of its own, padded at the end. All positions are computed on the CPU, where the sizes of tensors are
needed: one copy of the flags of a batch is all that is read from another device.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
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
class Slices:
    """Slices of a batch of ``total`` steps.

    Attributes:
        first: index of the first step of each, ``[slices]``.
        length: number of steps, ``[slices]``.
        burn_in: number of burn-in steps, ``[slices]``. A slice without a step after them is left out.
        total: number of steps of the batch, with padding.
    """

    first: np.ndarray
    length: np.ndarray
    burn_in: np.ndarray
    total: int

    def steps(self) -> Steps:
        """Describe each step of the batch."""
        row, column, index = count_up(self.first, self.length)
        burn_in = self.burn_in[row]
        early = column < burn_in
        used = [row, column, early & (self.length[row] > burn_in), ~early]
        result = [np.full(self.total, missing) for missing in (-1, -1, False, False)]
        for described, values in zip(result, used, strict=True):
            described[index] = values
        return Steps(*map(torch.from_numpy, result))


@dataclass(frozen=True)
class Layout:
    """The ``C`` steps in the loss in a rectangle: ``S`` slices, one in each row, and ``W`` columns.

    A row has the observations of its slice, one more than there are steps. Cells are counted row by row.

    Attributes:
        shape: ``(S, W)``.
        first, last: index in the batch of the first and the last step of each slice in the loss, ``[S]``.
        step: index in the batch of each step, ``[C]``.
        cell: the cell of the observation before each step, ``[C]``.
        last_cell: the cell of the last observation of each slice, ``[S]``.
        rewards: number of rewards in the target of each step, ``[C]``.
        everything: whether all steps of the batch are in the loss.
        burn_in: for the slices that have it, or ``None``: the row of each, ``[P]``, the index in the batch of
            its first step, ``[P]``, and of its burn-in steps, ``[P * burn_in]``.
    """

    shape: tuple[int, int]
    first: Tensor
    last: Tensor
    step: Tensor
    cell: Tensor
    last_cell: Tensor
    rewards: Tensor
    everything: bool
    burn_in: tuple[Tensor, Tensor, Tensor] | None


def find_slices(
    is_init: np.ndarray, done: np.ndarray, valid: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the index of the first step of each slice, and the length of each: ``[slices]``.

    A slice starts where ``is_init`` is true, at the beginning of a row, after a done step and after padding.

    Args:
        is_init: ``[N]`` or ``[B, T]``, as the batch.
        done: whether an episode ends with the step, ``[N]``.
        valid: false for padding, ``[N]``; ``None`` if there is none.
    """
    start = is_init.copy()
    start[..., 0] = True
    start = start.reshape(-1)
    start[1:] |= done[:-1]
    if valid is None:
        edge = start.nonzero()[0]
        return edge, np.append(edge[1:], len(start)) - edge
    start[1:] |= ~valid[:-1]
    edge = (start | ~valid).nonzero()[0]  # a slice ends at the next one, or at padding
    length = np.append(edge[1:], len(start)) - edge
    return edge[valid[edge]], length[valid[edge]]


def count_up(first: np.ndarray, length: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the slice of each step, its position there, and its index ``first`` + position: ``[steps]``."""
    end = length.cumsum()
    row = np.repeat(np.arange(len(length)), length)
    column = np.arange(len(row)) - (end - length)[row]
    return row, column, first[row] + column


def lay_out(slices: Slices, n_steps: int, device: torch.device) -> Layout:
    """Lay out the steps in the loss; slices without any have no row.

    Args:
        slices: of the batch; at least one step is in the loss.
        n_steps: most rewards in a target.
        device: where the indices are needed.
    """

    def index(values: np.ndarray) -> Tensor:
        return torch.from_numpy(values).to(device, non_blocking=True)

    kept = slices.length > slices.burn_in
    before, burn_in = slices.first[kept], slices.burn_in[kept]
    first, length = before + burn_in, slices.length[kept] - burn_in
    row, column, step = count_up(first, length)
    width = int(length.max()) + 1
    prefix = None
    if burn_in.any():
        rows = burn_in.nonzero()[0]
        _, _, early = count_up(before[rows], burn_in[rows])
        prefix = index(rows), index(before[rows]), index(early)
    return Layout(
        (len(length), width),
        first=index(first),
        last=index(first + length - 1),
        step=index(step),
        cell=index(row * width + column),
        last_cell=index(np.arange(len(length)) * width + length),
        rewards=index(np.minimum(length[row] - column, n_steps)),
        everything=len(step) == slices.total,
        burn_in=prefix,
    )
