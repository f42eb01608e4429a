"""A slice sampler that draws slices with large errors more often."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from tensordict import NestedKey
from torch import Tensor
from torchrl.data import PrioritizedSampler, Storage
from torchrl.data.replay_buffers.samplers import SumSegmentTreeFp64

from recdqn.replay.sampler import Episodes, StepUniformSliceSampler

BLOCK = 4_096  # stretches of steps whose places are weighted at once


class PrioritySliceSampler(StepUniformSliceSampler):
    r"""A :class:`recdqn.replay.StepUniformSliceSampler` that draws slices with large errors more often.

    A slice can lie at each place where the parent draws it, also beyond either end of its episode. The
    priority of a place, as in :cite:t:`kapturowski2019recurrent`, is

    .. math::

        p = \bigl(\eta \max_t |\delta_t| + (1 - \eta) \operatorname{mean}_t |\delta_t|\bigr)^\alpha

    over the errors :math:`\delta_t` of the steps that it covers. The probability of a place is proportional
    to :math:`p`, times its probability under the parent. If all errors are equal, the parent's
    probabilities result.

    The batch's errors come from ``TensorDictReplayBuffer.update_tensordict_priority(batch)`` after each
    update. A step whose error is 0 keeps the one it had, because losses write 0 for burn-in steps. A new step
    gets the largest error of the last batch, or 1 before the first, so it is likely to be replayed soon.
    :class:`recdqn.replay.SliceReplayBuffer` saves the errors and restores them; other buffers begin again
    with equal ones.

    With ``beta``, batches have ``"priority_weight"``, ``[steps]``: the probability of the slice under the
    parent, divided by that under this sampler, to the power of ``beta``, and divided by the largest of the
    batch as in :cite:t:`schaul2016prioritized`.

    Args:
        slice_len: environment steps of one slice; shorter at the ends of an episode.
        traj_key: key of the episode's number.
        eta: share of the largest error in a priority, 0 to 1; 0.9 as in
            :cite:t:`kapturowski2019recurrent`.
        alpha: exponent of the priorities, 0 to 1; 0 draws as the parent does. 0.9 as in
            :cite:t:`kapturowski2019recurrent`.
        beta: exponent of the importance weights, 0 to 1; 0 leaves them out.
        whole, period: as for the parent.
    """

    # A sum tree has two leaves for each stored step: the first for the place that begins with the step, the
    # second for the place that begins before the episode and ends with the step. So each place has one leaf.
    # A batch changes only the leaves of places that cover its steps.

    reduction = "max"  # what TorchRL's buffers do with several errors of one step

    def __init__(
        self,
        *,
        slice_len: int,
        traj_key: NestedKey,
        eta: float = 0.9,
        alpha: float = 0.9,
        beta: float = 0.0,
        whole: bool = False,
        period: int = 0,
    ) -> None:
        super().__init__(slice_len=slice_len, traj_key=traj_key, whole=whole, period=period)
        self.eta, self.alpha, self.beta = eta, alpha, beta

    def _empty(self) -> None:
        """Reset the index of episodes and forget all errors."""
        super()._empty()
        self._error = np.zeros((0, 0), dtype=np.float32)  # [environments, rows]: absolute error of each step
        self._largest = 1.0  # error of new steps
        self._tree = SumSegmentTreeFp64(1)

    def errors(self, storage: Storage) -> dict[str, Tensor]:
        """Return the errors of the stored steps, ``[environments, rows]``, and the error of new steps."""
        rows = len(self._episodes(storage).stored)
        return {
            "stored": torch.from_numpy(self._error[:, :rows].copy()),
            "new": torch.tensor(self._largest, dtype=torch.double),
        }

    def load_errors(self, storage: Storage, errors: dict[str, Tensor]) -> None:
        """Replace the errors of the stored steps by those from :meth:`errors`."""
        episodes = self._episodes(storage)
        rows = len(episodes.stored)
        self._error[:, :rows], self._largest = errors["stored"], errors["new"].item()
        self._weigh(
            episodes, np.arange(len(episodes.length)), np.zeros_like(episodes.length), episodes.length
        )

    @property
    def default_priority(self) -> float:
        """The squared error of a new step."""
        return self._largest**2

    def update_priority(
        self, index: Tensor | int, priority: Tensor | float, *, storage: Storage | None = None
    ) -> None:
        """Set the errors of replayed steps.

        Args:
            index: of the steps, ``[steps]`` or ``[steps, dimensions]``.
            priority: their squared errors, ``[steps]``; where it is 0 or not finite, the old error is kept.
            storage: the buffer's storage.
        """
        assert storage is not None  # TorchRL's buffers give it
        episodes = self._episodes(storage)
        place = torch.as_tensor(index).detach().cpu().numpy().reshape(-1, episodes.stored.ndim).T
        squared = torch.as_tensor(priority).detach().cpu().numpy().reshape(-1)
        known = (squared > 0) & (squared < np.inf)
        if not known.any():
            return
        row, env = place[0][known], (place[1] if len(place) > 1 else np.zeros_like(place[0]))[known]
        error = np.sqrt(squared[known])
        self._error[env, row], self._largest = error, float(error.max())

        episode = self._find(episodes, env, row)
        step = (row - episodes.row[episode]) % len(episodes.stored)
        edge = np.ones(len(step) + 1, dtype=np.bool_)  # of stretches of steps that follow each other
        edge[1:-1] = (episode[1:] != episode[:-1]) | (step[1:] != step[:-1] + 1)
        edges = edge.nonzero()[0]
        first, last = edges[:-1], edges[1:] - 1
        self._weigh(episodes, episode[first], step[first], step[last] + 1)

    def sample(self, storage: Storage, batch_size: int) -> tuple[tuple[Tensor, ...], dict[NestedKey, Tensor]]:
        """Draw ``batch_size // slice_len`` slices: the indices of their steps, flags, and weights."""
        episodes, slices = self._episodes(storage), batch_size // self.slice_len
        share = 1.0 - torch.rand(slices, generator=self._rng, dtype=torch.double).numpy()  # never 0
        total, steps = self._tree.query(0, 2 * self._error.size), self._error.size
        leaf = self._tree.scan_lower_bound(share * total)
        env, row = np.divmod(leaf % steps, self._error.shape[1])
        episode = self._find(episodes, env, row)
        first = (row - episodes.row[episode]) % len(episodes.stored)
        first[leaf >= steps] -= episodes.longest[episode[leaf >= steps]] - 1
        index, info = self._slices(episodes, episode, first)
        if self.beta:
            weight = (self._tree.at(leaf) / episodes.share[episode]) ** -self.beta
            end = info[self.truncated_key].squeeze(-1).nonzero().flatten().numpy()
            length = np.diff(end, prepend=-1)
            info["priority_weight"] = torch.from_numpy(np.repeat(weight / weight.max(), length)).float()
        return index, info

    def _episodes(self, storage: Storage) -> Episodes:
        """Find the stored episodes; new steps get the largest error."""
        written = self._written
        episodes = super()._episodes(storage)
        stored = len(episodes.stored)
        assert self._starts is not None
        if self._error.shape != self._starts.shape:
            self._error = np.zeros(self._starts.shape, dtype=np.float32)
            self._tree = SumSegmentTreeFp64(2 * self._error.size)
            newest, new = int(written[-1][-1]) if written else stored - 1, np.arange(stored)
        elif written:
            newest, new = int(written[-1][-1]), torch.cat(written).unique().numpy()
        else:
            return episodes
        self._error[:, new] = self._largest
        steps, size = self._error.size, self._error.shape[1]
        leaf = (np.arange(len(self._error))[:, None] * size + new).reshape(-1)
        self._tree.update(np.append(leaf, leaf + steps), 0.0)

        age = (episodes.row - newest - 1) % stored  # of the first step, counted from the oldest row
        first = (stored - len(new) - age - self.slice_len).clip(min=0)
        longer, oldest = (age + episodes.length > stored - len(new)).nonzero()[0], (age == 0).nonzero()[0]
        self._weigh(
            episodes,
            np.append(longer, oldest),
            np.append(first[longer], np.zeros_like(oldest)),
            # with a period, all places of an episode move with its first step
            np.append(
                episodes.length[longer], (episodes.length if self.period else episodes.longest)[oldest]
            ),
        )
        return episodes

    def _find(self, episodes: Episodes, env: np.ndarray, row: np.ndarray) -> np.ndarray:
        """Return the episode of each stored step."""
        size = self._error.shape[1]
        start = episodes.env * size + episodes.row  # ascending
        found = start.searchsorted(env * size + row, side="right") - 1
        around = (found < 0) | (episodes.env[found] != env)  # in the episode that wraps around the end
        found[around] = start.searchsorted((env[around] + 1) * size) - 1
        return found

    def _weigh(self, episodes: Episodes, episode: np.ndarray, first: np.ndarray, stop: np.ndarray) -> None:
        """Weigh again all places that cover one of the steps ``first`` to ``stop - 1`` of episodes."""
        steps = stop - first
        if steps.max() > self.slice_len:  # cut into parts that are as short as a slice
            count = -(-steps // self.slice_len)
            part = np.arange(count.sum()) - np.repeat(count.cumsum() - count, count)
            episode, stop = np.repeat(episode, count), np.repeat(stop, count)
            first = np.repeat(first, count) + part * self.slice_len
            steps = np.minimum(stop - first, self.slice_len)
        for at in range(0, len(first), BLOCK):
            block = slice(at, at + BLOCK)
            self._weigh_block(episodes, episode[block], first[block], int(steps[block].max()))

    def _weigh_block(self, episodes: Episodes, episode: np.ndarray, first: np.ndarray, steps: int) -> None:
        """Weigh all places that cover one of ``steps`` steps from ``first`` on, in each of some episodes."""
        long, (size, total) = self.slice_len, (self._error.shape[1], self._error.size)
        row, length, longest, share = (
            part[episode][:, None]
            for part in (episodes.row, episodes.length, episodes.longest, episodes.share)
        )
        base = episodes.env[episode][:, None] * size
        step = first[:, None] + np.arange(1 - long, steps + long - 1)  # [parts, line]
        leaf = base + (row + step) % len(episodes.stored)
        error = self._error.reshape(-1)[leaf].astype(np.float64)
        error[(step < 0) | (step >= length)] = 0.0
        highest, summed = (_windows(error, long, how) for how in (np.maximum, np.add))

        begin = step[:, : highest.shape[1]]
        place = (begin < length) & ((begin >= 0) | (begin < longest - long))
        covered = np.minimum(begin + long, length) - np.maximum(begin, 0)
        leaf = np.where(begin >= 0, leaf[:, : begin.shape[1]], total + leaf[:, long - 1 :])[place]
        priority = self.eta * highest[place] + (1 - self.eta) * summed[place] / covered[place]
        drawn = share * ~(self.whole & (length <= long) & (begin != 0))
        if self.period:
            drawn *= (begin >= 0) & (begin % self.period == 0)
        self._tree.update(leaf, priority**self.alpha * drawn[place])


# TorchRL's buffers pass errors on to samplers of this type only; none of its code is needed here.
PrioritizedSampler.register(PrioritySliceSampler)


def _windows(line: np.ndarray, width: int, combine: Callable[..., Any]) -> np.ndarray:
    """Combine every ``width`` neighbours: ``[parts, line]`` to ``[parts, line - width + 1]``.

    The order of the operations depends on ``width`` only, so the same numbers give the same result.
    """
    count, at, span, result = line.shape[1] - width + 1, 0, 1, None
    while True:
        if width & span:
            part = line[:, at : at + count]
            result = part if result is None else combine(result, part)
            at += span
        if 2 * span > width:
            assert result is not None
            return result
        line = combine(line[:, :-span], line[:, span:])
        span *= 2
