"""Replay buffer and collector (chapter 5)."""

from __future__ import annotations

import os
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from tensordict.nn import TensorDictModule
from torch import Tensor
from torchrl.collectors import Collector
from torchrl.data import LazyMemmapStorage, SliceSampler, Storage, TensorDictReplayBuffer
from torchrl.envs import ExcludeTransform, TransformedEnv

from recdqn.config import Config, UserError

# The collector numbers episodes; slices never cross from one into another.
TRAJECTORY = ("collector", "traj_ids")
DONE = ("next", "done")
# What collection makes and nobody reads again.
UNUSED = ("embed", "memory", "chosen_action_value", "done", "terminated", "truncated", ("next", "step_count"))


class NotFinite(UserError, FloatingPointError):
    """A number that is not finite: ``batch`` holds it, or leads to it."""

    def __init__(self, message: str, batch: TensorDictBase) -> None:
        super().__init__(message)
        self.batch = batch


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


class SliceReplayBuffer(TensorDictReplayBuffer):
    """A ``TensorDictReplayBuffer`` that is saved and loaded to the step, for slices (chapter 5).

    TorchRL 0.14.1 saves rows that were never written as well, loads into temporary files of its own, and
    leaves the sampler not knowing where the newest row lies.
    """

    def state_dict(self) -> dict[str, Any]:
        """Return what is stored, as plain tensors, and where the writer stands."""
        rows = self.storage[:].flatten_keys(".").to_dict() if len(self.storage) else {}
        return {
            # cloned out of the files: torch.save would save all of a tensor that is cut short
            "rows": {key: value.as_subclass(Tensor).clone() for key, value in rows.items()},
            "writer": self.writer.state_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Hold what was stored, and nothing else."""
        self.empty()
        rows = state_dict["rows"]
        if rows:
            shape = rows["action"].shape[: self.storage.ndim]
            stored = TensorDict(rows, shape).unflatten_keys(".")
            self.storage.set(torch.arange(shape[0]), stored)
            self.writer.load_state_dict(state_dict["writer"])
            self.sampler.extend(torch.tensor([self._newest]))

    @property
    def _newest(self) -> int:
        """The row that was written last."""
        return (self.writer._cursor - 1) % self.storage.shape[0]


class PictureReplayBuffer(SliceReplayBuffer):
    """Stores every picture once (chapter 5).

    The picture after a step is the picture of the step behind it, so ``("next", "pixels")`` is not stored,
    and batches get it back from there. The last picture of an episode has no step of its own; it is kept
    aside, and so is the newest one of an episode that goes on.

    In a batch, all pictures of a slice are moved by the same few pixels, drawn anew for each slice; the edge
    is repeated behind them. So the network cannot learn single pictures by heart
    (:cite:t:`kostrikov2021image`).

    Args:
        shift: the most pixels by which a slice is moved, up or down and to either side; 0 moves nothing.
        kwargs: those of ``TensorDictReplayBuffer``. The sampler must return slices and mark their last steps
            as done, as :class:`StepUniformSliceSampler` does.
    """

    def __init__(self, *, shift: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.shift = shift
        self._last: dict[int, Tensor] = {}  # the picture after the newest step of each episode, by its number
        self._many = 1_000  # pictures kept aside, before those of overwritten episodes are looked for

    def extend(self, tensordict: TensorDictBase, **kwargs: Any) -> Tensor:
        """Store steps ``[T]`` or ``[num_envs, T]``."""
        episode, picture = tensordict[TRAJECTORY], tensordict["next", "pixels"]
        last = torch.ones_like(episode, dtype=torch.bool)
        last[..., :-1] = episode[..., 1:] != episode[..., :-1]
        # Cloned one by one: a picture cut out of many would keep all of them in memory.
        kept = (one.clone() for one in picture[last])
        self._last.update(zip(episode[last].tolist(), kept, strict=True))
        index = super().extend(tensordict.exclude(("next", "pixels")), **kwargs)
        if len(self._last) > self._many:
            stored = set(self.storage[:][TRAJECTORY].unique().tolist())
            self._last = {number: kept for number, kept in self._last.items() if number in stored}
            self._many = 2 * len(self._last) + 1_000
        return index

    def state_dict(self) -> dict[str, Any]:
        """Return what the parent does, and the pictures kept aside."""
        return super().state_dict() | {"last": dict(self._last), "many": self._many}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Hold what was stored, and nothing else."""
        super().load_state_dict(state_dict)
        self._last, self._many = dict(state_dict["last"]), state_dict["many"]

    def sample(
        self, batch_size: int | None = None, return_info: bool = False
    ) -> TensorDictBase | tuple[TensorDictBase, dict]:
        """Draw a batch of slices, as the sampler does."""
        batch, info = super().sample(batch_size, return_info=True)
        end = batch[DONE].squeeze(-1).nonzero().flatten()  # of each slice, in the batch
        episode, place, stored = batch[TRAJECTORY][end], batch["index"][end].unbind(-1), self.storage[:]
        behind = (place[0] + 1) % len(stored), *place[1:]
        last = stored["pixels"][behind]  # the picture after each slice
        for k in ((stored[TRAJECTORY][behind] != episode) | (place[0] == self._newest)).nonzero().flatten():
            last[k] = self._last[int(episode[k])]
        picture = batch["pixels"]
        if self.shift:
            moves = torch.randint(-self.shift, self.shift + 1, (len(end), 2)).tolist()
            picture = _move(picture, end.diff(prepend=end.new_tensor([-1])).tolist(), moves, self.shift)
            last = _move(last, [1] * len(end), moves, self.shift)
        after = torch.empty_like(picture)
        after[:-1] = picture[1:]
        after[end] = last
        batch.update({"pixels": picture, "next": {"pixels": after}})
        return (batch, info) if return_info else batch


def _move(pictures: Tensor, length: list[int], moves: list[list[int]], most: int) -> Tensor:
    """Move pictures down and to the right: so many in a row by the first move, so many by the second."""
    *_, height, width = pictures.shape
    edges = ((0, 0), (0, 0), (most, most), (most, most))
    slices = torch.from_numpy(np.pad(pictures.numpy(), edges, mode="edge")).split(length)
    first = [(most - down, most - right) for down, right in moves]
    return torch.cat(
        [part[..., y : y + height, x : x + width] for part, (y, x) in zip(slices, first, strict=True)]
    )


def make_replay_buffer(cfg: Config, scratch_dir: str | Path | None = None) -> TensorDictReplayBuffer:
    """Build a buffer on disk that returns flat batches ``[steps]`` of slices, each inside one episode.

    ``"is_init"`` is true at the start of every slice. A batch holds at most ``slices * slice_len`` steps;
    slices at the ends of episodes are shorter.

    Args:
        cfg: the whole configuration: the buffer must know how many environments fill it.
        scratch_dir: an empty folder for the data; ``None`` lets TorchRL keep it in temporary files.
    """
    ndim = 1 if cfg.env.num_envs == 1 else 2  # the collector hands over [T] or [num_envs, T]
    slices = cfg.replay.slices
    kind = SliceReplayBuffer
    if cfg.env.observation == "pixels":
        kind = partial(PictureReplayBuffer, shift=cfg.replay.shift)
    return kind(
        transform=ExcludeTransform(*UNUSED, inverse=True),
        storage=LazyMemmapStorage(cfg.replay.capacity, ndim=ndim, scratch_dir=scratch_dir),
        sampler=StepUniformSliceSampler(slice_len=cfg.replay.slice_len, traj_key=TRAJECTORY),
        batch_size=slices * cfg.replay.slice_len,
        dim_extend=ndim - 1,
    )


def make_collector(
    cfg: Config, env: TransformedEnv, policy: TensorDictModule, replay_buffer: TensorDictReplayBuffer
) -> Collector:
    """Build a collector that steps ``env`` with ``policy``, exploring, and fills ``replay_buffer`` itself.

    Iterating over it yields ``None`` after every ``frames_per_batch`` environment steps.

    Raises:
        NotFinite: while iterating, if an observation or a reward is not a finite number.
    """
    return Collector(
        env,
        policy,
        frames_per_batch=cfg.train.frames_per_batch,
        total_frames=cfg.train.collections * cfg.train.frames_per_batch,
        replay_buffer=replay_buffer,
        policy_device=torch.device(cfg.device),
        env_device="cpu",
        storing_device="cpu",
        post_collect_hook=_check_finite,
    )


def _check_finite(batch: TensorDictBase) -> None:
    for key in ("observation", ("next", "observation"), ("next", "reward")):
        value = batch.get(key, None)
        if value is not None and not value.isfinite().all():
            raise NotFinite(f"{key!r} from the environment is not finite", batch)


def stored_bytes(cfg: Config, env: TransformedEnv) -> int:
    """Return how many bytes a full replay buffer takes, for an ``env`` that has the policy's primer."""
    step = env.fake_tensordict().exclude(*UNUSED)
    if cfg.env.observation == "pixels":
        step = step.exclude(("next", "pixels"))  # see PictureReplayBuffer
    added = 4 * env.action_spec_unbatched.shape[-1] + 8 + 8  # action values, number of the episode, index
    return cfg.replay.capacity * (step.bytes() // cfg.env.num_envs + added)


def claim(scratch: str | Path) -> None:
    """Take all the disk space that a buffer's files may need at once, and remove their names.

    Files on disk begin as holes, and a disk that is full when one is filled kills the process. And without
    names, nothing is left behind, however the process ends: the space is free when it does. Calling it again
    does nothing.

    Raises:
        UserError: if the space is not there.
    """
    files = list(Path(scratch).rglob("*.memmap"))
    for path in files:
        try:
            with path.open("r+b") as file:
                if hasattr(os, "posix_fallocate"):  # not on macOS
                    os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        except OSError as error:
            raise UserError(f"no room for the replay buffer in {scratch}: {error.strerror}") from None
    if files:
        shutil.rmtree(scratch, ignore_errors=True)
