"""The stored steps in the order of time, as they are in the storage, before transforms of the buffer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from tensordict import NestedKey, TensorDictBase, unravel_key
from torch import Tensor
from torchrl.data import ReplayBuffer

from recdqn.doctor.probe import Skip

TRAJECTORY = ("collector", "traj_ids")  # where TorchRL's collectors number the episodes
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
            same &= vectors(here[1:] == following[:-1]).all(-1)
    return same


def episode_lengths(row: TensorDictBase, begins: bool = False) -> Tensor:
    """Return the steps of the episode up to and including each step ``[T]`` of a row.

    Args:
        row: steps in the order of time.
        begins: whether an episode begins with the first step; otherwise steps before the first end are 0.
    """
    done = row["next", "done"].reshape(len(row), -1).any(-1)
    time, start = torch.arange(len(row)), torch.zeros(len(row), dtype=torch.bool)
    start[1:] = done[:-1]
    start[1:] |= ~same_trajectory(row)
    start[0] = begins
    first = torch.where(start, time, -1).cummax(0).values
    return torch.where(first < 0, 0, time - first + 1)


def episode_starts(row: TensorDictBase) -> Tensor:
    """Return which steps ``[T]`` begin an episode: by their marks, counts, or by ends and numbers."""
    for key, value in (("is_init", True), ("step_count", 0)):
        marks = row.get(key, None)
        if marks is not None:
            return (vectors(marks) == value).any(-1)
    start = torch.zeros(len(row), dtype=torch.bool)
    start[1:] = row["next", "done"].reshape(len(row), -1)[:-1].any(-1) | ~same_trajectory(row)
    return start


def same_trajectory(row: TensorDictBase) -> Tensor:
    """Return which steps ``[T - 1]`` have the trajectory number of the next; all without numbers."""
    number = row.get(TRAJECTORY, None)
    if number is None:
        return torch.ones(max(len(row) - 1, 0), dtype=torch.bool)
    return (vectors(number)[1:] == vectors(number)[:-1]).all(-1)


def sampled_indices(info: Mapping[str, Any]) -> Tensor:
    """Return the indices of sampled steps, ``[N, dimensions of the storage]``, from what ``sample`` says."""
    index = info["index"]
    index = torch.stack(index, -1) if isinstance(index, tuple) else torch.as_tensor(index)
    return index.reshape(len(index), -1)


def vectors(value: Tensor) -> Tensor:
    """Return the values of steps, ``[N]`` or ``[N, ...]``, as ``[N, elements]``."""
    return value.reshape(len(value), value.shape[1:].numel())
