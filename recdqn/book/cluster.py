"""Simulate a fleet on more machines than there are: actors, object store, driver and learner.

What a part costs is measured, see ``benchmarks/cluster.py``. The rest is assumed: every process has a
processor of its own, machines are alike, and the network of a machine carries one thing at a time in each
direction, without latency.
"""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import numpy as np
import simpy

Process = Generator[simpy.Event, Any, None]  # waits for each event that it yields


@dataclass(frozen=True)
class Costs:
    """Seconds and bytes of each part.

    Attributes:
        step: an actor's seconds for the step of one environment.
        fixed: an actor's seconds for a step of all its environments: the policy and TorchRL.
        call: an actor's seconds for a collection, besides its steps.
        result: the driver's seconds for each actor's result: ask for it, wait, read.
        collection: the driver's seconds for a collection, besides those for its results and frames.
        frame: the driver's seconds to join and store a frame.
        update: the learner's seconds for a sample and a gradient step.
        frame_bytes: of a step of one environment.
        state_bytes: of an actor's state, for each of its environments.
        weight_bytes: of the policy's weights.
    """

    step: float
    fixed: float
    call: float
    result: float
    collection: float
    frame: float
    update: float
    frame_bytes: float
    state_bytes: float
    weight_bytes: float


@dataclass(frozen=True)
class Setting:
    """A fleet.

    Attributes:
        actors: processes that collect.
        envs: environments of each actor.
        steps: of each environment in a collection.
        updates: gradient steps after each collection of all actors.
        pipeline: collections that the actors are ahead, as ``scale.pipeline``.
        stores: 0 is the fleet of this package, where one process stores and learns. With more, as many
            processes store, each on a machine of its own; the learner updates all the time, and no actor
            waits for others. ``updates`` and ``pipeline`` have no meaning then.
        bandwidth: bytes per second of the network of a machine; infinite for a single machine.
        neighbours: actors on a machine, which share the weights of a collection.
        spread: standard deviation of the seconds of a collection of one actor, over their mean.
    """

    actors: int
    envs: int
    steps: int
    updates: float = 0.0
    pipeline: int = 1
    stores: int = 0
    bandwidth: float = math.inf
    neighbours: int = 16
    spread: float = 0.0

    @property
    def frames(self) -> int:
        """Steps of a collection of all actors."""
        return self.actors * self.envs * self.steps


@dataclass(frozen=True)
class Outcome:
    """What a fleet does in the long run.

    Attributes:
        rate: frames per second.
        updates: gradient steps per frame.
        age: of the weights of a stored collection, in updates made since; the mean.
        collections: the same age, in collections of all actors.
        busy: share of the time in which ``"actors"``, ``"results"`` and ``"weights"`` (on the network),
            ``"driver"`` and ``"learner"`` work; of several, the mean.
    """

    rate: float
    updates: float
    age: float
    collections: float
    busy: dict[str, float]


def simulate(costs: Costs, setting: Setting, collections: int = 20, first: int = 5) -> Outcome:
    """Let a fleet make ``collections``, after ``first`` ones that do not count."""
    return _Fleet(costs, setting).run(collections, first)


class _Fleet:
    def __init__(self, costs: Costs, setting: Setting) -> None:
        self.costs, self.setting = costs, setting
        self.env, self.random = simpy.Environment(), np.random.default_rng(0)
        self.weights = simpy.Resource(self.env)  # the network of the learner's machine, towards the actors
        self.stores = [simpy.Resource(self.env) for _ in range(setting.stores)]
        self.tasks = [simpy.Store(self.env) for _ in range(setting.actors)]
        self.updates, self.frames = 0.0, 0  # made, stored
        self.ages: list[tuple[float, float]] = []
        self.busy: defaultdict[str, float] = defaultdict(float)
        actor = self._free_actor if setting.stores else self._actor
        for number in range(setting.actors):
            self.env.process(actor(number))
        self.env.process(self._free_learner() if setting.stores else self._driver())

    def run(self, collections: int, first: int) -> Outcome:
        self._run_until(first)
        start, updates, frames = self.env.now, self.updates, self.frames
        self.busy.clear()
        self.ages.clear()
        self._run_until(first + collections)
        seconds, stored = self.env.now - start, self.frames - frames
        many = {"actors": self.setting.actors} | dict.fromkeys(("driver", "results"), len(self.stores) or 1)
        busy = {part: time / seconds / many.get(part, 1) for part, time in self.busy.items()}
        age, rounds = np.mean(self.ages, 0).tolist()
        return Outcome(stored / seconds, (self.updates - updates) / stored, age, rounds, busy)

    def _run_until(self, collections: int) -> None:
        self.enough, self.until = self.env.event(), collections * self.setting.frames
        self.env.run(self.enough)

    def _work(self, part: str, seconds: float) -> simpy.Event:
        self.busy[part] += seconds
        return self.env.timeout(seconds)

    def _collect(self) -> simpy.Event:
        costs, setting = self.costs, self.setting
        seconds = costs.call + setting.steps * (costs.fixed + setting.envs * costs.step)
        if setting.spread:
            seconds *= self.random.gamma(setting.spread**-2, setting.spread**2)
        return self._work("actors", seconds)

    def _send_weights(self) -> simpy.Event:
        return self._work("weights", self.costs.weight_bytes / self.setting.bandwidth)

    def _receive(self) -> Process:
        costs, setting = self.costs, self.setting
        size = setting.envs * (setting.steps * costs.frame_bytes + costs.state_bytes)
        yield self._work("results", size / setting.bandwidth)
        yield self._work("driver", costs.result)

    def _stored(self, since: tuple[float, int], frames: int) -> None:
        """Note the age of weights that were sent at ``since``."""
        self.frames += frames
        updates, stored = since
        self.ages.append((self.updates - updates, (self.frames - stored) / self.setting.frames))
        if self.frames >= self.until and not self.enough.triggered:
            self.enough.succeed()

    # The fleet of this package: all actors make each collection together.

    def _driver(self) -> Process:
        costs, setting = self.costs, self.setting
        rounds = deque(self._ask() for _ in range(setting.pipeline))
        while True:
            since, results = rounds.popleft()
            for result in results:  # in the order of the actors
                yield result
                yield from self._receive()
            self._stored(since, setting.frames)
            rounds.append(self._ask())
            yield self._work("driver", costs.collection + setting.frames * costs.frame)
            yield self._work("learner", setting.updates * costs.update)
            self.updates += setting.updates

    def _ask(self) -> tuple[tuple[float, int], list[simpy.Event]]:
        """Begin a collection; return what was done before it, and its results."""
        machines = -(-self.setting.actors // self.setting.neighbours)
        arrived = [self.env.event() for _ in range(machines)]
        results = [self.env.event() for _ in self.tasks]
        self.env.process(self._broadcast(arrived))
        for number, task in enumerate(self.tasks):
            task.put((arrived[number // self.setting.neighbours], results[number]))
        return (self.updates, self.frames), results

    def _broadcast(self, arrived: list[simpy.Event]) -> Process:
        with self.weights.request() as turn:
            yield turn
            for machine in arrived:
                yield self._send_weights()
                machine.succeed()

    def _actor(self, number: int) -> Process:
        while True:
            arrived, result = yield self.tasks[number].get()
            yield arrived
            yield self._collect()
            result.succeed()

    # With stores: no process waits for all actors.

    def _free_learner(self) -> Process:
        while True:
            yield self._work("learner", self.costs.update)
            self.updates += 1

    def _free_actor(self, number: int) -> Process:
        costs, frames = self.costs, self.setting.envs * self.setting.steps
        yield self.env.timeout(self.random.uniform(0, frames * costs.step))  # not all at the same time
        while True:
            since = self.updates, self.frames
            with self.weights.request() as turn:
                yield turn
                yield self._send_weights()
            yield self._collect()
            with self.stores[number % len(self.stores)].request() as turn:
                yield turn
                yield from self._receive()
                yield self._work("driver", costs.collection + frames * costs.frame)
            self._stored(since, frames)
