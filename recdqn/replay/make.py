"""Build the replay buffer that a configuration asks for."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from torchrl.data import LazyMemmapStorage, TensorDictReplayBuffer
from torchrl.envs import ExcludeTransform

from recdqn.config import Config
from recdqn.replay.buffer import SliceReplayBuffer
from recdqn.replay.pixels import PictureReplayBuffer
from recdqn.replay.sampler import TRAJECTORY, StepUniformSliceSampler

# What collection makes and nobody reads again.
UNUSED = ("embed", "memory", "chosen_action_value", "done", "terminated", "truncated", ("next", "step_count"))


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
