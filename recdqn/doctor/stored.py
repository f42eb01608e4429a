"""The stored steps in the order of time, as they are in the storage, before transforms of the buffer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tensordict import NestedKey, TensorDictBase, unravel_key
from torch import Tensor
from torchrl.data import ReplayBuffer

from recdqn.doctor.probe import Skip

NEWEST = 4_000  # steps of each row that are read


def stored_rows(buffer: ReplayBuffer) -> list[TensorDictBase]:
    """Return the rows ``[T]`` of a buffer, oldest step first: one for each environment, or for each item.

    Raises:
        Skip: if the storage does not hold TensorDicts of the length of the buffer.
    """
    storage, size = buffer.storage, len(buffer)
    time = min(storage.shape[0], -(-size // storage.shape[1:].numel()))
    try:
        data = storage.get(slice(0, time))
    except Exception:  # a storage of its own kind
        data = None
    if isinstance(data, list):
        data = torch.stack(list(data))
    if not isinstance(data, TensorDictBase) or not data.numel():
        raise Skip("the storage does not hold TensorDicts")
    data = data.cpu()
    if data.ndim > storage.ndim:  # each item is a row
        return list(data.reshape(-1, data.shape[-1])[-200:].unbind(0))
    cursor = buffer.write_count % storage.shape[0] if time == storage.shape[0] else 0
    order = (torch.arange(time) + cursor) % time
    data = data[order[-NEWEST:]]
    return list(data.reshape(len(data), -1).unbind(1))


def flat(rows: Sequence[TensorDictBase]) -> TensorDictBase:
    """Return all steps of the rows, ``[N]``."""
    result: TensorDictBase = torch.cat([row.exclude("index") for row in rows])
    return result


def connected(row: TensorDictBase, keys: Sequence[NestedKey]) -> Tensor:
    """Return which steps ``[T - 1]`` of a row end where the next begins, by their observations."""
    same = torch.ones(max(len(row) - 1, 0), dtype=torch.bool)
    for key in keys:
        here, following = row.get(key), row.get(unravel_key(("next", key)), None)
        if following is not None:
            same &= (here[1:] == following[:-1]).flatten(1).all(-1)
    return same


def values_of(value: Tensor) -> Tensor:
    """Return the different values of a tensor, rounded to five digits."""
    return (value.double().reshape(-1) * 1e5).round().unique() / 1e5
