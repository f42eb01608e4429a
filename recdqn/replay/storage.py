"""A memory-mapped storage that reads a batch faster."""

from __future__ import annotations

from typing import Any

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from torch import Tensor
from torchrl.data import LazyMemmapStorage


class FlatMemmapStorage(LazyMemmapStorage):
    """A ``LazyMemmapStorage`` that reads many single steps with one ``index_select`` for each entry.

    TorchRL 0.14.1 indexes each entry through its class of memory-mapped tensors, which takes about twice as
    long. Other indices, such as slices, are left to the parent.
    """

    _flat: tuple[TensorDictBase, dict[NestedKey, Tensor]] | None = None  # the stored steps, and views of them

    def get(self, index: Any) -> Any:
        """Return stored steps: ``[N]`` for indices ``[N]``, one tensor for each dimension of the storage."""
        indices = index if isinstance(index, tuple) else (index,)
        stored = self._storage
        if len(indices) != self.ndim or not all(map(_lists_steps, indices)) or not len(self):
            return super().get(index)
        if self._flat is None or self._flat[0] is not stored:
            leaves = stored.items(include_nested=True, leaves_only=True)
            views = {
                key: value.as_subclass(Tensor).view(-1, *value.shape[self.ndim :]) for key, value in leaves
            }
            self._flat = stored, views
        place = indices[0]
        for size, inner in zip(stored.shape[1:], indices[1:], strict=True):
            place = place * size + inner
        batch: dict[str, Any] = {}
        for key, value in self._flat[1].items():
            *parents, name = (key,) if isinstance(key, str) else key
            part = batch
            for parent in parents:
                part = part.setdefault(parent, {})
            part[name] = value.index_select(0, place)
        return TensorDict(batch, [len(place)])


def _lists_steps(index: Any) -> bool:
    """Whether an index is a list of steps, counted from the first."""
    if not isinstance(index, Tensor) or index.ndim != 1 or index.dtype != torch.long:
        return False
    return bool((index >= 0).all())
