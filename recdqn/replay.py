"""Replay buffer and collector (chapter 5)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tensordict import NestedKey
from tensordict.nn import TensorDictModule
from torch import Tensor
from torchrl.collectors import Collector
from torchrl.data import LazyMemmapStorage, SliceSampler, Storage, TensorDictReplayBuffer
from torchrl.envs import TransformedEnv

from recdqn.config import Config

# The collector numbers episodes; slices never cross from one into another.
TRAJECTORY = ("collector", "traj_ids")


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

    def _sample_slices(
        self,
        lengths: Tensor,
        start_idx: Tensor,
        stop_idx: Tensor,
        seq_length: int,
        num_slices: int,
        storage_length: int,
        traj_idx: Tensor | None = None,
        *,
        storage: Storage,
    ) -> tuple[tuple[Tensor, ...], dict[str, Any]]:
        longest = lengths.clamp_max(seq_length)  # slice of each episode
        places = lengths + longest - 1
        episode = torch.multinomial(places / longest, num_slices, replacement=True, generator=self._rng)
        place = (torch.rand(num_slices, generator=self._rng) * places[episode]).long()
        first = place - longest[episode] + 1
        stop = torch.minimum(first + longest[episode], lengths[episode])
        first = first.clamp_min(0)
        start_idx = start_idx[episode]
        start_idx[:, 0] += first
        # The parent turns whole episodes of these lengths into indices.
        return self._get_index(
            lengths=stop - first,
            start_idx=start_idx,
            stop_idx=stop_idx,
            seq_length=stop - first,
            num_slices=num_slices,
            storage_length=storage_length,
            traj_idx=torch.arange(num_slices),
            storage=storage,
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
    return TensorDictReplayBuffer(
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
    )
