"""The collector: steps the environment with the policy and writes into the replay buffer."""

from __future__ import annotations

from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModule
from torchrl.checkpoint import GlobalRNGState
from torchrl.collectors import Collector
from torchrl.data import TensorDictReplayBuffer
from torchrl.envs import TransformedEnv

from recdqn.config import Config
from recdqn.envs.replayable import get_episodes, restore_episodes
from recdqn.errors import NotFinite
from recdqn.plain_collector import PlainCollector


def make_collector(
    cfg: Config, env: TransformedEnv, policy: TensorDictModule, replay_buffer: TensorDictReplayBuffer | None
) -> Collector:
    """Build a collector that steps ``env`` with the exploring ``policy`` and writes into ``replay_buffer``.

    Iterating over it yields ``None`` after every ``frames_per_batch`` environment steps; without a buffer it
    yields the steps, ``[T]`` or ``[num_envs, T]``.

    Raises:
        NotFinite: while iterating, if an observation or a reward is not a finite number.
    """
    # On the CPU none is named: TorchRL copies to a named device, also from the same one.
    devices = dict.fromkeys(("env_device", "storing_device"), "cpu") | {"policy_device": cfg.device}
    if torch.device(cfg.device).type == "cpu":
        devices = {}
    return PlainCollector(
        env,
        policy,
        frames_per_batch=cfg.train.frames_per_batch,
        total_frames=cfg.train.collections * cfg.train.frames_per_batch,
        replay_buffer=replay_buffer,
        **devices,
        post_collect_hook=_check_finite,
    )


def _check_finite(batch: TensorDictBase) -> None:
    for key in ("observation", ("next", "observation"), ("next", "reward")):
        value = batch.get(key, None)
        if value is not None and not value.isfinite().all():
            raise NotFinite(f"{key!r} from the environment is not finite", batch)


class CollectorState:
    """Save and load a collector in the middle of its episodes, for ``torchrl.checkpoint``.

    TorchRL 0.14.1's ``Collector.state_dict()`` holds counters only: after a load the collector begins new
    episodes. Here it also holds the last step (observation, recurrent state, number of the episode) and the
    actions since the last reset. The private attributes of TorchRL that this needs are all in this class.

    Args:
        collector: from :func:`make_collector`.
        env: its environment, from :func:`recdqn.envs.make_env`.
        replay_seconds: time limit for replaying the actions.
    """

    def __init__(self, collector: Collector, env: TransformedEnv, replay_seconds: float) -> None:
        self.collector = collector
        self.replay_seconds = replay_seconds
        self._envs = env.base_env.gym  # Gymnasium's: one environment, or a vector of them
        self._loaded: dict[str, Any] = {}

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the collector and of its episodes, without the policy's weights."""
        counters = {k: v for k, v in self.collector.state_dict().items() if k != "policy_state_dict"}
        return {
            "collector": counters,
            "carrier": self.collector._carrier.clone().to_dict(),
            "episodes": get_episodes(self._envs),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load the collector; :meth:`replay` then restores its episodes."""
        self.collector.load_state_dict(state["collector"], strict=False)  # it has no weights
        self._loaded = state

    def replay(self) -> str | None:
        """Go on with the episodes of the loaded state, or begin new ones if they cannot be restored.

        Returns:
            Why new episodes begin; ``None`` if the old ones go on.

        Raises:
            UserError: if a worker process ends or hangs.
        """
        generators = GlobalRNGState()
        before = generators.state_dict()
        problem = self._replay()
        if problem is None:
            # Loading has counted new episodes, which do not begin now.
            self.collector._traj_pool.load_state_dict(self._loaded["collector"]["traj_pool"])
            carrier = self.collector._carrier
            self.collector._carrier = TensorDict(self._loaded["carrier"], carrier.batch_size, carrier.device)
        else:
            self.collector.reset()
        generators.load_state_dict(before)  # the environments may have drawn from them
        self._loaded = {}
        return problem

    def _replay(self) -> str | None:
        if "episodes" not in self._loaded:
            return "an earlier version of recdqn saved no actions"
        match restore_episodes(self._envs, self._loaded["episodes"], self.replay_seconds):
            case "exact":
                return None
            case "late":
                return f"replaying the actions takes more than env.replay_seconds={self.replay_seconds:g}"
            case "different":
                return "the environment does not repeat what it returned when its actions are replayed"
