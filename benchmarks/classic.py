"""The classic pipeline: recurrent DQN from pictures as TorchRL's own tutorial sets it up, the other side.

Written afresh from TorchRL's documented API, with the tutorial's settings: pictures made float before they
are made small, a pooled network of stride 1, float32 frames stored twice, TorchRL's ``DQNLoss`` on rows of 50
steps. Figures of the benchmarks that name the "classic pipeline" come from here and are the other side's,
never the package's. The statistics are one mean and one standard deviation for the whole picture, where the
tutorial's arguments make one for each column of it; this costs no time, and ``per_column`` gives the
tutorial's.
"""

from __future__ import annotations

import torch
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import nn
from torchrl.collectors import Collector
from torchrl.data import LazyMemmapStorage, TensorDictReplayBuffer
from torchrl.envs import (
    Compose,
    GrayScale,
    GymEnv,
    InitTracker,
    ObservationNorm,
    Resize,
    RewardScaling,
    StepCounter,
    ToTensorImage,
    TransformedEnv,
)
from torchrl.modules import MLP, ConvNet, EGreedyModule, LSTMModule, QValueModule
from torchrl.objectives import DQNLoss, SoftUpdate

from recdqn.envs import prepare_display

ROW = 50  # environment steps that are stored, and sampled, together
BATCH = 4  # rows in a batch
LEARNING_RATE = 3e-4


def make_env(normalise: bool = True, frames: int = 100, per_column: bool = False) -> TransformedEnv:
    """Build CartPole seen as float pictures ``[1, 84, 84]``.

    Args:
        normalise: whether the picture gets mean 0 and standard deviation 1; else it stays in 0 to 1.
        frames: random environment steps that the statistics are taken from.
        per_column: whether every column of the picture has statistics of its own, as in the tutorial.
    """
    prepare_display()
    see = [ToTensorImage(), GrayScale(), Resize(84, 84)]
    count = [StepCounter(), InitTracker(), RewardScaling(0.0, 0.1)]
    norm = ObservationNorm(in_keys=["pixels"], standard_normal=True)
    env = TransformedEnv(
        GymEnv("CartPole-v1", from_pixels=True), Compose(*see, *count, *([norm] if normalise else []))
    )
    if normalise and per_column:
        norm.init_stats(frames, cat_dim=0, reduce_dim=[0, 1, 2], keep_dims=[0])
    elif normalise:
        norm.init_stats(frames, cat_dim=0, reduce_dim=[0, 2, 3], keep_dims=[2, 3])
    return env


def make_policy(
    env: TransformedEnv,
    pooled: bool = True,
    eps_init: float = 0.2,
    eps_end: float = 0.1,
    annealing_num_steps: int = 1_000_000,
) -> TensorDictSequential:
    """Build features, memory, Q-values and exploration, and add the memory's primer to ``env``.

    Args:
        env: from :func:`make_env`.
        pooled: average the features over the picture, as in the tutorial; or else keep where they are, with
            the strides and sizes of the first DQN.
        eps_init: probability of a random action at the start, as in the tutorial.
        eps_end: probability at the end; the tutorial leaves TorchRL's default.
        annealing_num_steps: environment steps between the two, as in the tutorial.
    """
    if pooled:
        convolutions = ConvNet(
            num_cells=[32, 32, 64],
            squeeze_output=True,
            aggregator_class=nn.AdaptiveAvgPool2d,
            aggregator_kwargs={"output_size": (1, 1)},
        )
    else:
        convolutions = ConvNet(num_cells=[32, 32, 64], kernel_sizes=[8, 4, 3], strides=[4, 2, 1])
    features = TensorDictModule(convolutions, in_keys=["pixels"], out_keys=["embed"])
    with torch.no_grad():
        width = features(env.fake_tensordict())["embed"].shape[-1]
    memory = LSTMModule(input_size=width, hidden_size=128, in_key="embed", out_key="embed")
    env.append_transform(memory.make_tensordict_primer())
    spec = env.action_spec
    head = MLP(in_features=128, out_features=spec.shape[-1], num_cells=[64])
    return TensorDictSequential(
        features,
        memory,
        TensorDictModule(head, in_keys=["embed"], out_keys=["action_value"]),
        QValueModule(spec=spec),
        EGreedyModule(spec, eps_init=eps_init, eps_end=eps_end, annealing_num_steps=annealing_num_steps),
    )


def make_loss(policy: TensorDictSequential, env: TransformedEnv) -> tuple[DQNLoss, SoftUpdate]:
    """Build the loss and the updater that keeps 95 % of the target network each time."""
    loss = DQNLoss(policy[:-1], action_space=env.action_spec, delay_value=True)
    loss.make_value_estimator(gamma=0.99)
    return loss, SoftUpdate(loss, eps=0.95)


def make_replay_buffer(
    rows: int = 20_000, batch_size: int = BATCH, scratch_dir: str | None = None
) -> TensorDictReplayBuffer:
    """Build a buffer on disk whose entries, and those of its batches, are rows of 50 steps."""
    storage = LazyMemmapStorage(rows, scratch_dir=scratch_dir)
    return TensorDictReplayBuffer(storage=storage, batch_size=batch_size)


def fill(
    buffer: TensorDictReplayBuffer, env: TransformedEnv, policy: TensorDictSequential, rows: int
) -> None:
    """Step ``env`` with ``policy``, exploring, and store ``rows`` rows."""
    collector = Collector(env, policy, frames_per_batch=ROW, total_frames=rows * ROW)
    try:
        for row in collector:
            buffer.extend(row.unsqueeze(0).cpu())
    finally:
        collector.shutdown(close_env=False)
