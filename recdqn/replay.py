"""Replay buffer and collector (chapter 5)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tensordict.nn import TensorDictModule
from torch import Tensor
from torchrl.collectors import Collector
from torchrl.data import LazyMemmapStorage, SliceSampler, TensorDictReplayBuffer
from torchrl.envs import TransformedEnv

from recdqn.config import Config

TRAJECTORY = (
    "collector",
    "traj_ids",
)  # the collector numbers episodes; slices never cross from one into another


class StepUniformSliceSampler(SliceSampler):
    """A ``SliceSampler`` that draws episodes in proportion to their length (chapter 5).

    TorchRL 0.14.1 draws every episode with the same probability, so a step of an early, short episode is replayed
    many times as often as one of a long episode. Here all steps count about alike. The arguments are those of
    :class:`torchrl.data.SliceSampler`.
    """

    def _sample_slices(
        self,
        lengths: Tensor,
        start_idx: Tensor,
        stop_idx: Tensor,
        seq_length: int,
        num_slices: int,
        storage_length: int,
        traj_idx: Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[tuple[Tensor, ...], dict[str, Any]]:
        if traj_idx is None:
            traj_idx = torch.multinomial(lengths.float(), num_slices, replacement=True)
        return super()._sample_slices(
            lengths, start_idx, stop_idx, seq_length, num_slices, storage_length, traj_idx, **kwargs
        )


def make_replay_buffer(cfg: Config, scratch_dir: str | Path | None = None) -> TensorDictReplayBuffer:
    """Build a buffer on disk that returns flat batches ``[steps]`` of slices, each inside one episode.

    ``"is_init"`` is true at the start of every slice. A batch holds ``slices * slice_len`` steps, or fewer where
    episodes are shorter than a slice.

    Args:
        cfg: the whole configuration: the buffer must know how many environments fill it.
        scratch_dir: an empty folder for the data; ``None`` lets TorchRL keep it in temporary files.
    """
    ndim = 1 if cfg.env.num_envs == 1 else 2  # the collector hands over [T] or [num_envs, T]
    slices = cfg.replay.slices
    return TensorDictReplayBuffer(
        storage=LazyMemmapStorage(cfg.replay.capacity, ndim=ndim, scratch_dir=scratch_dir),
        sampler=StepUniformSliceSampler(
            slice_len=cfg.replay.slice_len, strict_length=False, traj_key=TRAJECTORY
        ),
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
