"""What an actor of the fleet does: step its share of the environments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchrl.checkpoint import GlobalRNGState

from recdqn.collect import CollectorState, make_collector
from recdqn.config import Config
from recdqn.envs import add_primers, make_env
from recdqn.envs.replayable import seed_globals
from recdqn.envs.sending import unpack
from recdqn.policy import ladder, make_policy
from recdqn.replay import TRAJECTORY, UNUSED

Result = tuple[dict[str, np.ndarray], dict[str, Any], str | None]


class Actor:
    """One process of the fleet: some of a run's environments, a copy of the policy, and a collector.

    A collection depends only on the weights and on the actor's state before it. Another actor with the same
    state repeats it exactly, if the environments can be restored (see :mod:`recdqn.envs.replayable`).

    Args:
        cfg: the configuration of the run.
        number: of this actor, from 0.
        packed: what only the learner's program knows about the environments.
    """

    def __init__(self, cfg: Config, number: int, packed: Sequence[bytes] = ()) -> None:
        self.cfg, self.number, self.packed = cfg, number, packed
        self._made = False

    def ready(self) -> None:
        """Return as soon as the process runs."""

    def collect(self, weights: dict[str, Tensor], state: dict[str, Any] | None) -> Result:
        """Collect with ``weights``.

        Args:
            weights: ``state_dict`` of the learner's policy, with its share of random actions.
            state: where another actor stood; ``None`` goes on from this actor's last collection.

        Returns:
            The steps, flattened: arrays ``[envs, time, ...]``, which Ray shares between processes without a
            copy. The state after them. Why new episodes began, or ``None`` if the old ones went on.
        """
        problem = None
        if not self._made:  # here and not in __init__: an error then reaches the learner as it is
            self._make()
        if state is not None:
            self.collection.load_state_dict(state["collection"])
            problem = self.collection.replay()
            self.random.load_state_dict(state["random"])
        self.policy.load_state_dict(weights | self.exploration)
        steps = next(self.collections).exclude(*UNUSED)
        steps = steps.reshape(-1, steps.shape[-1])  # one environment has no dimension of its own
        steps[TRAJECTORY] = steps[TRAJECTORY] * self.cfg.scale.actors + self.number  # each counts from 0
        after = {"collection": self.collection.state_dict(), "random": self.random.state_dict()}
        return {name: value.numpy() for name, value in steps.flatten_keys(".").items()}, after, problem

    def _make(self) -> None:
        torch.set_num_threads(1)
        unpack(self.packed)
        run, actors = self.cfg, self.cfg.scale.actors
        each = run.env.num_envs // actors
        cfg = run.replace(
            device="cpu",
            env={"num_envs": each},
            train={"frames_per_batch": run.train.frames_per_batch // actors, "total_frames": 10**12},
            scale={"actors": 0, "ladder": False},
        )
        seed_globals(int(np.random.SeedSequence((run.seed, self.number)).generate_state(1)[0]))
        env = make_env(cfg.env)
        env.set_seed(run.seed + self.number * each)
        self.policy = make_policy(cfg.policy, env)
        add_primers(env, self.policy)
        self.exploration: dict[str, Tensor] = {}  # replaces that of the learner's weights
        if run.scale.ladder:
            shares = ladder(run.env.num_envs)[self.number * each :][:each]
            self.policy[-1].eps = shares if each > 1 else shares[0]
            self.exploration = {
                name: value for name, value in self.policy.state_dict().items() if name.endswith(".eps")
            }
        collector = make_collector(cfg, env, self.policy, None)
        self.collections = iter(collector)
        self.collection = CollectorState(collector, env, cfg.env.replay_seconds)
        self.random = GlobalRNGState()
        self._made = True
