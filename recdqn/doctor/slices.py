"""Slices of a batch: where they begin, which steps are padding, and batches with other observations."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tensordict import NestedKey, TensorDictBase, unravel_key
from torch import Tensor

MASKS = (("collector", "mask"), "mask")  # where TorchRL marks padding


def valid_steps(batch: TensorDictBase) -> Tensor:
    """Return which steps ``[N]`` are data, as opposed to padding."""
    valid = torch.ones(batch.numel(), dtype=torch.bool)
    for key in MASKS:
        mask = batch.get(key, None)
        if mask is not None and mask.numel() == batch.numel():
            valid &= mask.reshape(-1)
    return valid


def marked_starts(batch: TensorDictBase) -> Tensor:
    """Return ``"is_init"``, flattened to ``[N]``; all false if the batch has none."""
    marks = batch.get("is_init", None)
    return torch.zeros(batch.numel(), dtype=torch.bool) if marks is None else marks.reshape(-1)


def slice_starts(batch: TensorDictBase) -> Tensor:
    """Return which steps ``[N]`` start a slice: those that start a row, are marked, or follow a done step."""
    start = _row_starts(batch) | marked_starts(batch)
    start[1:] |= batch["next", "done"].reshape(-1)[:-1]
    return start


def slice_indices(batch: TensorDictBase) -> list[Tensor]:
    """Return the indices of each slice's steps in the flat batch, without padding."""
    number, valid = slice_starts(batch).cumsum(0) - 1, valid_steps(batch)
    lengths = torch.bincount(number[valid], minlength=int(number[-1]) + 1)
    return list(valid.nonzero().squeeze(-1).split(lengths.tolist()))


def adjacent(batch: TensorDictBase) -> Tensor:
    """Return which steps ``[N - 1]`` are in the same row as the next step, neither of them padding."""
    valid = valid_steps(batch)
    return ~_row_starts(batch)[1:] & valid[1:] & valid[:-1]


def perturb(batch: TensorDictBase, where: Tensor, keys: Sequence[NestedKey]) -> TensorDictBase:
    """Return a copy of ``batch`` with other values, always the same, in the steps ``where`` ``[N]``.

    Floating-point numbers and bytes move anywhere. Integers and flags, which may be indices or masks, take
    the values of other steps: nothing changes if all steps have the same.

    Args:
        batch: of any batch size with ``N`` steps.
        where: mask of the steps to change.
        keys: entries to change, also under ``"next"``.
    """
    torch.manual_seed(0)
    flat = batch.clone().reshape(-1)
    for key in [*keys, *(unravel_key(("next", key)) for key in keys)]:
        value = flat.get(key, None)
        if not isinstance(value, Tensor):
            continue
        value = value.clone()
        part = value[where]
        if value.is_floating_point():
            value[where] = part + (1 + value.std(correction=0)) * (1 + torch.rand_like(part))
        elif value.dtype == torch.uint8:
            value[where] = 255 - part
        else:
            value = _exchanged(value, where)
        flat.set(key, value)
    return flat.reshape(batch.shape)


def _exchanged(value: Tensor, where: Tensor) -> Tensor:
    """Return ``value`` ``[N, ...]`` with each step of ``where`` replaced by the next step that differs."""
    result, same = value.clone(), where.clone()
    for shift in range(1, min(len(value), 50)):
        other = value.roll(shift, 0)
        take = same & (other != value).reshape(len(value), -1).any(-1)
        result[take] = other[take]
        same &= ~take
        if not same.any():
            break
    return result


def _row_starts(batch: TensorDictBase) -> Tensor:
    first = torch.zeros(batch.shape, dtype=torch.bool)
    first[..., 0] = True
    return first.reshape(-1)
