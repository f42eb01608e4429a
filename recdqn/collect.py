"""The collector: steps the environment with the policy and writes into the replay buffer."""

from __future__ import annotations

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModule
from torchrl.collectors import Collector
from torchrl.data import TensorDictReplayBuffer
from torchrl.envs import TransformedEnv

from recdqn.config import Config
from recdqn.errors import NotFinite


def make_collector(
    cfg: Config, env: TransformedEnv, policy: TensorDictModule, replay_buffer: TensorDictReplayBuffer
) -> Collector:
    """Build a collector that steps ``env`` with the exploring ``policy`` and writes into ``replay_buffer``.

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
