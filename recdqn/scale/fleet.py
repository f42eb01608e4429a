"""The fleet: Ray actors that collect in the collector's place while the learner learns."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModule
from torch import Tensor
from torchrl.data import TensorDictReplayBuffer

from recdqn.config import Config
from recdqn.envs.sending import pack
from recdqn.errors import UserError, first_line
from recdqn.scale.actor import Actor, Result
from recdqn.scale.cluster import LOST, Cluster

with contextlib.suppress(ImportError):  # the extra "scale"
    import ray

DEATHS = 5  # of one actor, during the same collection, until the run ends


@dataclass
class Round:
    """A collection that is under way: the weights, in Ray's object store, and each actor's result."""

    weights: Any
    results: list[Any]


class Fleet:
    """Ray actors in the place of a collector and of its :class:`~recdqn.collect.CollectorState`.

    Every actor collects with weights that are ``scale.pipeline`` collections old. A collection depends only
    on these and on the state of its actors, and each result includes the state after it. An actor that dies
    is replaced by one that repeats the lost collections, and a resumed run repeats those that were under way.
    So the numbers stay the same.

    Ray's object store holds ``scale.pipeline + 1`` collections with their weights. A collection of 64 frames
    takes 0.15 MB for ``masked-cartpole`` and 1.1 MB for ``pixel-cartpole``, and its weights take as much.

    Args:
        cfg: ``env.num_envs`` and ``train.frames_per_batch`` are those of all actors together.
        policy: the learner's, whose weights the actors get.
        say: is told what happens to actors.

    Raises:
        UserError: if the cluster cannot be used or has too few processors. Also while iterating: if an
            environment fails, the cluster loses its head, or an actor dies again and again.
    """

    def __init__(self, cfg: Config, policy: TensorDictModule, say: Callable[[str], None] = print) -> None:
        self.cfg, self.policy, self.say = cfg, policy, say
        self.rounds: deque[Round] = deque()
        numbers = range(cfg.scale.actors)
        self._states: list[dict[str, Any] | None] = [None for _ in numbers]  # after the last collection
        self._restore = [False for _ in numbers]  # whether the actor's next collection begins with its state
        self._actors: list[Any] = []
        self._packed = pack(str(cfg.env.id))
        self._cluster = Cluster(cfg)
        try:
            self._remote = ray.remote(num_cpus=1, scheduling_strategy="SPREAD")(Actor)
            self._actors = [self._remote.remote(cfg, number, self._packed) for number in numbers]
            with contextlib.suppress(*LOST):  # the first collection replaces it
                self._await_start(numbers)
        except BaseException:
            self.shutdown()
            raise

    def collect_into(self, buffer: TensorDictReplayBuffer) -> Iterator[None]:
        """Write one collection into ``buffer`` for each ``next``."""
        while True:
            buffer.extend(self.collect())
            yield

    def collect(self) -> TensorDictBase:
        """Return the next collection, ``[num_envs, T]``, or ``[T]`` of one environment."""
        while len(self.rounds) < self.cfg.scale.pipeline:
            self._send()
        results = [self._result(number) for number in range(len(self._actors))]
        self.rounds.popleft()
        self._states = [state for _, state, _ in results]
        self._send()  # the actors go on while the learner learns
        parts = [arrays for arrays, _, _ in results]
        joined = {name: torch.from_numpy(np.concatenate([part[name] for part in parts])) for name in parts[0]}
        steps = TensorDict(joined, joined["action"].shape[:2]).unflatten_keys(".")
        return steps if self.cfg.env.num_envs > 1 else steps[0]

    def state_dict(self) -> dict[str, Any]:
        """Return where the actors stood, and the weights of the collections that are under way."""
        return {"states": self._states, "weights": [ray.get(one.weights) for one in self.rounds]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Begin the collections again that were under way; before the first one only."""
        self._states = state["states"]
        self._restore = [one is not None for one in self._states]
        for weights in state["weights"]:
            self._send(weights)

    def replay(self) -> str | None:
        """Do nothing: the actors restore their episodes at the next collection."""
        return None

    def shutdown(self) -> None:
        """End the actors, and a Ray that was started for them."""
        for actor in self._actors:
            ray.kill(actor)
        self._cluster.close()

    def __enter__(self) -> Fleet:
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()

    def _send(self, weights: dict[str, Tensor] | None = None) -> None:
        """Let every actor make one more collection, with the learner's weights or others."""
        if weights is None:
            weights = {name: value.detach().cpu() for name, value in self.policy.state_dict().items()}
        self._cluster.check(now=True)  # Ray ends a process that sends to a dead machine
        reference = ray.put(weights)
        self.rounds.append(Round(reference, [self._ask(n, reference) for n in range(len(self._actors))]))

    def _ask(self, number: int, weights: Any) -> Any:
        state = self._states[number] if self._restore[number] else None
        self._restore[number] = False
        return self._actors[number].collect.remote(weights, state)

    def _result(self, number: int) -> Result:
        """Wait for an actor's part of the oldest collection, and replace the actor if it dies."""
        reason = ""
        for _ in range(DEATHS):
            try:
                if reason:
                    self._replace(number, reason)
                result: Result = self._cluster.get(self.rounds[0].results[number])
            except LOST as error:
                reason = first_line(error)
                continue
            if result[2] is not None:
                self.say(f"actor {number}: {result[2]}: new episodes begin")
            return result
        raise UserError(
            f"actor {number} died {DEATHS} times during the same collection ({reason}): look for what kills "
            "it, for example too little memory; env.workers=True reports what an environment does"
        )

    def _replace(self, number: int, reason: str) -> None:
        """Start an actor that repeats what another one has left undone."""
        self._cluster.check(now=True)
        self.say(f"actor {number} died ({reason}): another one goes on with its episodes")
        ray.kill(self._actors[number])  # it may only be out of reach
        self._actors[number] = self._remote.remote(self.cfg, number, self._packed)
        self._restore[number] = self._states[number] is not None
        self._await_start([number])
        for one in self.rounds:
            one.results[number] = self._ask(number, one.weights)

    def _await_start(self, numbers: Sequence[int]) -> None:
        seconds = self.cfg.scale.start_seconds
        end = time.monotonic() + seconds
        started = [self._actors[number].ready.remote() for number in numbers]
        try:
            for one in started:
                self._cluster.get(one, end - time.monotonic())
        except TimeoutError:
            _, late = ray.wait(started, num_returns=len(started), timeout=0)
            raise UserError(
                f"scale.actors={self.cfg.scale.actors}: {len(late)} did not start within "
                f"scale.start_seconds={seconds:g}; the cluster has {self._cluster.resources()}: "
                "use fewer actors, or add machines"
            ) from None
