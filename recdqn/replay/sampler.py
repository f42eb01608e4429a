"""Samplers of slices."""

from __future__ import annotations

from pathlib import Path

import torch
from tensordict import NestedKey, TensorDictBase
from torch import Tensor
from torchrl.data import SliceSampler, Storage

# The collector numbers episodes; slices never cross from one into another.
TRAJECTORY = ("collector", "traj_ids")


DONE = ("next", "done")


class StepUniformSliceSampler(SliceSampler):
    """A ``SliceSampler`` that replays every stored step equally often (chapter 5).

    TorchRL 0.14.1 draws every episode with the same probability, so a step of a short episode comes up more
    often than one of a long episode. And it draws slices that lie wholly inside the episode, so the first
    and the last step of a long episode come up ``slice_len`` times less often than those in the middle, and
    the last step is where the pole falls. Here a slice may reach over either end of its episode and is cut
    off there, and an episode is drawn in proportion to the number of places where a slice can lie.

    Args:
        slice_len: environment steps of one slice; at an episode's ends it is shorter.
        traj_key: where the number of the episode is found.
    """

    def __init__(self, *, slice_len: int, traj_key: NestedKey) -> None:
        super().__init__(slice_len=slice_len, traj_key=traj_key, strict_length=False)
        self._empty()

    def _empty(self) -> None:
        """Forget what is known of the storage; the next sample looks at all of it."""
        super()._empty()
        self._begins: Tensor | None = None  # [environments, rows]: whether a stored step begins an episode
        self._written: list[Tensor] = []  # rows, since the last sample
        self._known: tuple[Tensor, Tensor, TensorDictBase] | None = None  # what _episodes returned last

    def load_state_dict(self, state_dict: dict) -> None:
        """Load nothing: this sampler has no state but what it sees in the storage."""
        super().load_state_dict(state_dict)
        self._empty()

    def loads(self, path: Path) -> None:
        """Load nothing, as above."""
        super().loads(path)
        self._empty()

    def extend(self, index: Tensor) -> None:
        """Note what the buffer has written: ``[steps]`` or ``[steps, dimensions]``."""
        super().extend(index)
        self._written.append(index.reshape(len(index), -1)[:, 0])

    def add(self, index: Tensor | int) -> None:
        """Note what the buffer has written: one row."""
        super().add(index)
        self._written.append(torch.as_tensor(index).reshape(-1)[:1])

    def _episodes(self, storage: Storage) -> tuple[Tensor, Tensor, TensorDictBase]:
        """Find the first step ``[episodes, dimensions]`` and the length ``[episodes]`` of every episode.

        Only rows written since the last call are looked at, so this costs no more in a large buffer. Also
        returns a view of the storage.
        """
        if self._known is not None and not self._written:
            return self._known
        stored = storage[:]
        number = stored[self.traj_key].reshape(len(stored), -1)  # [rows, environments]
        size = storage.max_size // number.shape[1]
        rows = torch.cat(self._written) if self._written else torch.arange(len(stored))
        if self._begins is None or self._begins.shape != (number.shape[1], size):
            self._begins = torch.zeros(number.shape[1], size, dtype=torch.bool)
            rows = torch.cat([torch.arange(len(stored)), rows[-1:]])
        self._begins[:, rows] = (number[rows] != number[rows - 1]).T
        self._begins[:, (rows[-1] + 1) % len(stored)] = True  # the oldest row
        self._written = []

        env, row = self._begins[:, : len(stored)].nonzero().unbind(-1)
        last = torch.ones_like(env, dtype=torch.bool)
        last[:-1] = env[1:] != env[:-1]
        following = row.roll(-1)
        following[last] = row[last.roll(1)] + len(stored)  # round the ring
        start = torch.stack([row, env], -1) if stored.ndim == 2 else row[:, None]
        self._known = start, following - row, stored
        return self._known

    def sample(self, storage: Storage, batch_size: int) -> tuple[tuple[Tensor, ...], dict]:
        """Draw ``batch_size // slice_len`` slices: where their steps lie, and which start or end one."""
        start, lengths, stored = self._episodes(storage)
        longest = lengths.clamp_max(self.slice_len)  # slice of each episode
        places = lengths + longest - 1
        slices = batch_size // self.slice_len
        episode = torch.multinomial(places / longest, slices, replacement=True, generator=self._rng)
        place = (torch.rand(slices, generator=self._rng) * places[episode]).long()
        first = place - longest[episode] + 1  # may lie before the episode
        stop = torch.minimum(first + longest[episode], lengths[episode])
        first = first.clamp_min(0)

        length = stop - first
        behind = length.cumsum(0)  # each slice, in the batch
        row = torch.repeat_interleave(length)  # slice of each step
        index = start[episode[row]]  # [steps, dimensions]
        index[:, 0] += first[row] + torch.arange(len(row)) - (behind - length)[row]
        index[:, 0] %= storage.shape[0]
        index = index.unbind(-1)
        return index, self._marks(stored, index, behind - length, behind - 1)

    def _marks(
        self, stored: TensorDictBase, index: tuple[Tensor, ...], first: Tensor, last: Tensor
    ) -> dict[NestedKey, Tensor]:
        """Mark each slice's first step as a start and its last as truncated, as the parent does."""
        marks = {key: torch.zeros(len(index[0]), 1, dtype=torch.bool) for key in (self.truncated_key, DONE)}
        for mark in marks.values():
            mark[last] = True
        marks[DONE] |= stored[DONE][index]
        if (start := stored.get(self.init_key, None)) is not None:
            marks[self.init_key] = start[index]
            marks[self.init_key][first] = True
        return marks
