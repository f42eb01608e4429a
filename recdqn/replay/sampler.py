"""A slice sampler that draws every stored step equally often."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tensordict import NestedKey, TensorDictBase
from torch import Tensor
from torchrl.data import SliceSampler, Storage

from recdqn.errors import UserError

TRAJECTORY = ("collector", "traj_ids")  # number of the episode, from the collector
DONE = ("next", "done")


@dataclass(frozen=True)
class Episodes:
    """The stored episodes, ``[episodes]`` each.

    Attributes:
        stored: all stored steps.
        env, row: place of the first step.
        length: in steps.
        longest: length of the longest slice.
        offsets: number of slices, with those that extend beyond an end.
        share: probability of each slice, not normalised.
        weight: cumulative sum of the probabilities, not normalised.
    """

    stored: TensorDictBase
    env: np.ndarray
    row: np.ndarray
    length: np.ndarray
    longest: np.ndarray
    offsets: np.ndarray
    share: np.ndarray
    weight: np.ndarray


class StepUniformSliceSampler(SliceSampler):
    """A ``SliceSampler`` that draws every stored step equally often.

    TorchRL 0.14.1 draws each episode with the same probability, so it draws a step of a short episode more
    often than a step of a long one. Its slices also lie completely inside the episode, so it draws the first
    and the last step of a long episode ``slice_len`` times less often than those in the middle; in CartPole
    the pole falls in the last step. Here a slice may extend beyond either end of its episode and is truncated
    there, and the probability of an episode is the number of such slices, divided by their length.

    Args:
        slice_len: environment steps of one slice; shorter at the ends of an episode.
        traj_key: key of the episode's number.
        whole: draw an episode that is not longer than ``slice_len`` only as a whole; all steps are still
            drawn equally often.
        period: draw only the slices that begin at a multiple of this many steps in their episode, each
            equally often, as :cite:t:`kapturowski2019recurrent` with half of the steps after burn-in. If
            slices overlap, the first steps of an episode are then drawn less often than others. 0 draws
            slices at any step.
    """

    # Two private names of TorchRL 0.14.1's samplers have no public counterpart: the buffer calls _empty to
    # reset the sampler, and set_rng stores the generator as _rng.

    def __init__(self, *, slice_len: int, traj_key: NestedKey, whole: bool = False, period: int = 0) -> None:
        super().__init__(slice_len=slice_len, traj_key=traj_key, strict_length=False)
        self.whole, self.period = whole, period
        self._empty()

    def _empty(self) -> None:
        """Reset the index of episodes; the next sample reads the whole storage."""
        super()._empty()
        self._starts: Tensor | None = None  # [environments, rows]: whether a stored step starts an episode
        self._written: list[Tensor] = []  # rows written since the last sample
        self._cached: Episodes | None = None

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Reset the index of episodes, which is rebuilt from the storage."""
        super().load_state_dict(state_dict)
        self._empty()

    def loads(self, path: Path) -> None:
        """Reset the index of episodes, as :meth:`load_state_dict` does."""
        super().loads(path)
        self._empty()

    def extend(self, index: Tensor) -> None:
        """Record written indices, ``[steps]`` or ``[steps, dimensions]``."""
        super().extend(index)
        self._written.append(index.reshape(len(index), -1)[:, 0])

    def add(self, index: Tensor | int) -> None:
        """Record one written index."""
        super().add(index)
        self._written.append(torch.as_tensor(index).reshape(-1)[:1])

    def _episodes(self, storage: Storage) -> Episodes:
        """Find the stored episodes; only new rows are compared with their neighbours."""
        if self._cached is not None and not self._written:
            return self._cached
        stored = storage[:]
        number = stored[self.traj_key].reshape(len(stored), -1)  # [rows, environments]
        size = storage.max_size // number.shape[1]
        rows = torch.cat(self._written) if self._written else torch.arange(len(stored))
        if self._starts is None or self._starts.shape != (number.shape[1], size):
            self._starts = torch.zeros(number.shape[1], size, dtype=torch.bool)
            rows = torch.cat([torch.arange(len(stored)), rows[-1:]])
        self._starts[:, rows] = (number[rows] != number[rows - 1]).T
        self._starts[:, (rows[-1] + 1) % len(stored)] = True  # the oldest row
        self._written = []

        env, row = (part.numpy() for part in self._starts[:, : len(stored)].nonzero().unbind(-1))
        self._check_runs(stored, number.numpy()[row, env], env, row)
        last = np.append(env[1:] != env[:-1], True)
        following = np.roll(row, -1)
        following[last] = row[np.roll(last, 1)] + len(stored)  # wraps around the end
        length = following - row
        longest = length.clip(max=self.slice_len)
        whole = self.whole & (length <= self.slice_len)
        offsets = np.where(whole, 1, length + longest - 1)
        parts = np.where(whole, 1, longest)
        if self.period:
            offsets = np.where(whole, 1, -(-length // self.period))
            parts = np.ones_like(longest)
        weight = (offsets / parts).cumsum()
        self._cached = Episodes(stored, env, row, length, longest, offsets, 1 / parts, weight)
        return self._cached

    def _check_runs(
        self, stored: TensorDictBase, number: np.ndarray, env: np.ndarray, row: np.ndarray
    ) -> None:
        """Refuse an episode that is stored in several pieces, with steps of others in between.

        The pieces are runs of the same ``number``, which begin at ``row`` of ``env``: ``[pieces]`` each.
        """
        order = np.lexsort((row, env, number))
        again = (number[order][1:] == number[order][:-1]) & (env[order][1:] == env[order][:-1])
        if not again.any():
            return
        done = stored[DONE].reshape(len(stored), -1)
        for piece in order[:-1][again]:
            end = row[(env == env[piece]) & (row > row[piece])].min() - 1
            if not done[end, env[piece]]:
                raise UserError(
                    f"steps of episode {number[piece]} are stored between steps of others: give each "
                    "environment a dimension of the storage, ndim=2, or store one episode after the other"
                )

    def sample(self, storage: Storage, batch_size: int) -> tuple[tuple[Tensor, ...], dict[NestedKey, Tensor]]:
        """Draw ``batch_size // slice_len`` slices: the indices of their steps, and flags."""
        episodes, slices = self._episodes(storage), batch_size // self.slice_len
        shares = torch.rand(2, slices, generator=self._rng, dtype=torch.double).numpy()
        episode = episodes.weight.searchsorted(shares[0] * episodes.weight[-1], side="right")
        offsets = episodes.offsets[episode]
        first = (shares[1] * offsets).astype(np.int64)
        if self.period:
            first *= self.period
        else:
            first -= np.where(offsets > 1, episodes.longest[episode] - 1, 0)
        return self._slices(episodes, episode, first)  # the first step may be negative

    def _slices(
        self, episodes: Episodes, episode: np.ndarray, first: np.ndarray
    ) -> tuple[tuple[Tensor, ...], dict[NestedKey, Tensor]]:
        """Return the indices of the steps of slices, cut at the ends of their episodes, and flags.

        Args:
            episodes: the stored episodes.
            episode: the episode of each slice, ``[slices]``.
            first: its first step, counted in the episode; negative if it begins before the episode does.
        """
        stop = np.minimum(first + episodes.longest[episode], episodes.length[episode])
        first = first.clip(min=0)
        length = stop - first
        end = length.cumsum()  # [slices]: in the batch
        row = np.repeat(episodes.row[episode] + first - (end - length), length) + np.arange(end[-1])
        steps = [row % len(episodes.stored), np.repeat(episodes.env[episode], length)]
        index = tuple(torch.from_numpy(part) for part in steps[: episodes.stored.ndim])
        flags = self._flags(episodes.stored, index, *map(torch.from_numpy, (end - length, end - 1)))
        return index, flags

    def _flags(
        self, stored: TensorDictBase, index: tuple[Tensor, ...], first: Tensor, last: Tensor
    ) -> dict[NestedKey, Tensor]:
        """Flag the first steps of slices as ``is_init``, the last ones as truncated and done."""
        flags = {key: torch.zeros(len(index[0]), 1, dtype=torch.bool) for key in (self.truncated_key, DONE)}
        for flag in flags.values():
            flag[last] = True
        flags[DONE] |= stored[DONE][index]
        if (start := stored.get(self.init_key, None)) is not None:
            flags[self.init_key] = start[index]
            flags[self.init_key][first] = True
        return flags
