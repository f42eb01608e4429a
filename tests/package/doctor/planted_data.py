"""Planted bugs of the replay buffer and its batches."""

import torch
from pipelines import STATES, TRAJECTORY, H, collect, network, played, primed, slices, stored, vector_env
from tensordict import TensorDict
from torchrl.collectors import Collector
from torchrl.data import (
    LazyTensorStorage,
    PrioritizedSliceSampler,
    RandomSampler,
    ReplayBuffer,
    TensorDictReplayBuffer,
)
from torchrl.envs import SerialEnv, TransformedEnv
from torchrl.objectives import SoftUpdate

from benchmarks.planted import Windows, changed
from recdqn import RecurrentDQNLoss


def replayed(sampler=None, **options):
    policy, data = played()
    return {"policy": policy, "buffer": stored(data, sampler, **options)}


def prioritized(size):
    """TorchRL 0.14.1's PrioritizedSliceSampler marks the ends of its slices and not their starts."""
    options = {"slice_len": 8, "traj_key": TRAJECTORY, "strict_length": False}
    return PrioritizedSliceSampler(size, alpha=0.7, beta=0.9, **options)


def by_first_steps(**options):
    """Priorities of steps, and a loss that counts no error in the first ones."""
    parts = replayed(prioritized(2_000))
    loss = RecurrentDQNLoss(parts["policy"][:-1], action_space="one-hot", **options)
    updater = SoftUpdate(loss, tau=0.1)
    for _ in range(5):
        batch = parts["buffer"].sample()
        loss(batch)
        parts["buffer"].update_tensordict_priority(batch)
    return parts | {"loss": loss, "updater": updater}


def workers_side_by_side():
    """end_key trusts "done", and the unfinished rows of one environment lie behind another's."""
    policy = network()
    env = TransformedEnv(SerialEnv(2, vector_env), policy[1].make_tensordict_primer())
    sampler = slices(traj_key=None, end_key=("next", "done"))
    return {"policy": policy, "buffer": stored(collect(env, policy, 800), sampler)}


def borrowed_environment():
    """Evaluating in the collector's environment changes its state between collections."""
    policy = network()
    env = primed(policy)
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(2_000), sampler=slices(), batch_size=64)
    collector = Collector(env, policy, frames_per_batch=10, total_frames=400)
    for data in collector:
        buffer.extend(data)
        env.rollout(5, policy)
    return {"env": env, "policy": policy, "buffer": buffer}


def across_the_cursor(steps, first):
    """One episode in 450 rows: after 600 steps, the newest is in row 149, the oldest in row 150."""
    times = torch.arange(steps + 1.0).unsqueeze(-1)
    never = torch.zeros(steps, 1, dtype=torch.bool)
    following = {"observation": times[1:], "done": never}
    batch = TensorDict({"observation": times[:-1], "is_init": never, "next": following}, [steps])
    buffer = TensorDictReplayBuffer(
        storage=LazyTensorStorage(450), sampler=Windows(first=first), batch_size=64
    )
    buffer.extend(batch[:400])
    buffer.extend(batch[400:])
    return {"buffer": buffer}


def image_buffer(dtype, twice):
    batch = TensorDict({"pixels": torch.zeros(20, 1, 84, 84, dtype=dtype)}, [20])
    if twice:
        batch["next", "pixels"] = batch["pixels"]
    batch["next", "done"] = batch["is_init"] = torch.zeros(20, 1, dtype=torch.bool)
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(20), batch_size=20)
    buffer.extend(batch)
    return {"buffer": buffer}


PLANTED = [  # code, part of the message, function that returns the parts
    ("state-not-carried", repr(H), lambda: replayed(transform=changed(lambda h: 0.5 * h, H))),
    ("state-over-episode", repr(H), lambda: replayed(transform=changed(lambda h: h + 1, H, ("next", H)))),
    ("unrelated-transitions", "steps", lambda: replayed(RandomSampler())),
    ("slice-over-episodes", "steps", workers_side_by_side),
    ("impossible-steps", "'observation'", borrowed_environment),
    ("slice-over-cursor", "newest", lambda: across_the_cursor(600, first=146)),
    ("slice-over-cursor", "newest", lambda: across_the_cursor(900, first=446)),
    ("is-init-lost", "'is_init'", lambda: replayed(exclude=["is_init"])),
    ("is-init-lost", "'is_init'", lambda: replayed(slices(strict_length=True, init_key=None))),
    ("is-init-lost", "'is_init'", lambda: replayed(prioritized(2_000))),
    ("is-init-lost", "'is_init'", lambda: replayed(kind=ReplayBuffer)),
    ("priorities-of-steps", "burn-in", lambda: by_first_steps(burn_in=3)),
    ("state-lost", repr(H), lambda: replayed(exclude=STATES)),
    ("state-lost", repr(H), lambda: replayed(transform=changed(torch.zeros_like, H))),
    ("pixels-float32", "28,224 bytes", lambda: image_buffer(torch.float32, twice=False)),
    ("pixels-twice", "('next', 'pixels')", lambda: image_buffer(torch.uint8, twice=True)),
]
