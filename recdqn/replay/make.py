"""Build the replay buffer of a configuration."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from torchrl.data import TensorDictReplayBuffer
from torchrl.envs import ExcludeTransform

from recdqn.config import Config
from recdqn.replay.buffer import SliceReplayBuffer
from recdqn.replay.pixels import PixelReplayBuffer
from recdqn.replay.prioritized import PrioritySliceSampler
from recdqn.replay.sampler import TRAJECTORY, StepUniformSliceSampler
from recdqn.replay.storage import FlatMemmapStorage

# Entries of a collected step that nothing reads later.
UNUSED = ("embed", "memory", "chosen_action_value", "done", "terminated", "truncated", ("next", "step_count"))


def make_replay_buffer(cfg: Config, scratch_dir: str | Path | None = None) -> TensorDictReplayBuffer:
    """Build a replay buffer on disk; a batch consists of slices of episodes, laid end to end: ``[steps]``.

    ``"is_init"`` is true at the start of every slice. A batch holds at most ``slices * slice_len`` steps;
    slices at the ends of episodes are shorter.

    Args:
        cfg: the whole configuration; the layout depends on the number of environments.
        scratch_dir: an empty folder for the data; ``None`` for TorchRL's temporary files.
    """
    ndim = 1 if cfg.env.num_envs == 1 else 2  # the collector writes [T] or [num_envs, T]
    slices = cfg.replay.slices
    kind: Callable[..., SliceReplayBuffer] = SliceReplayBuffer
    if cfg.env.observation == "pixels":
        kind = partial(PixelReplayBuffer, shift=cfg.replay.shift)
    sampler: Callable[..., StepUniformSliceSampler] = StepUniformSliceSampler
    if cfg.replay.priority:
        sampler = partial(
            PrioritySliceSampler,
            alpha=cfg.replay.priority,
            eta=cfg.replay.priority_max,
            beta=cfg.replay.importance,
        )
    return kind(
        transform=ExcludeTransform(*UNUSED, inverse=True),
        storage=FlatMemmapStorage(cfg.replay.capacity, ndim=ndim, scratch_dir=scratch_dir),
        sampler=sampler(
            slice_len=cfg.replay.slice_len,
            traj_key=TRAJECTORY,
            whole=cfg.replay.whole,
            period=cfg.replay.period,
        ),
        batch_size=slices * cfg.replay.slice_len,
        dim_extend=ndim - 1,
    )
