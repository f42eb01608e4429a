"""Replay buffers of slices, their samplers, and their disk space."""

from recdqn.replay.buffer import SliceReplayBuffer
from recdqn.replay.disk import preallocate, stored_bytes
from recdqn.replay.make import UNUSED, make_replay_buffer
from recdqn.replay.pixels import PixelReplayBuffer
from recdqn.replay.prioritized import PrioritySliceSampler
from recdqn.replay.sampler import DONE, TRAJECTORY, StepUniformSliceSampler
from recdqn.replay.storage import FlatMemmapStorage

__all__ = [
    "DONE",
    "TRAJECTORY",
    "UNUSED",
    "FlatMemmapStorage",
    "PixelReplayBuffer",
    "PrioritySliceSampler",
    "SliceReplayBuffer",
    "StepUniformSliceSampler",
    "preallocate",
    "make_replay_buffer",
    "stored_bytes",
]
