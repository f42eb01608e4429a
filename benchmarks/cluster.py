"""Measure what each part of a fleet costs, check formula and simulation, and simulate larger fleets.

``python -m benchmarks.cluster`` writes ``results/cluster.json`` in about four minutes on two free cores:

- ``"costs"``: of each preset, in processor time of the process that does the work, so that other programs
  matter little;
- ``"clock"``: frames per second of training with 0 to 8 actors, by the clock, by the formula of the chapter
  and in the simulation. Environments sleep, so two cores are enough; a rate is that of the median cycle.
  Other programs disturb it, so ``"load"`` says how many ran before;
- ``"large"``: simulated fleets of up to 4,096 actors, and ``"r2d2"``: 256 of R2D2's; on a network of
  10 Gbit/s.
"""

from __future__ import annotations

import json
import logging
import os
import pickle
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
import tyro
from scipy.optimize import nnls
from tensordict.nn import TensorDictModule
from torchrl.collectors import Collector
from torchrl.data import TensorDictReplayBuffer

from recdqn import Config, Learner, add_primers, make_collector, make_env, make_policy, make_replay_buffer
from recdqn.book.cluster import Costs, Setting, simulate
from recdqn.book.measure import median_seconds
from recdqn.book.recorded import CARTPOLES, RESULTS
from recdqn.run.provenance import manifest
from recdqn.scale import Actor, Cluster, Fleet

CYCLES = 12  # of each setting that is measured by the clock
# Actors, milliseconds of a step, and the updates after each collection that are measured.
CLOCK = [
    (0, 10, (2,)),
    (1, 10, (2,)),
    (2, 10, (2,)),
    (2, 20, (2,)),
    (4, 10, (2, 40)),
    (4, 20, (2,)),
    (8, 10, (2,)),
]
BANDWIDTH = 10e9 / 8  # bytes per second, of a network of 10 Gbit/s
SPREAD = 0.1  # of the seconds of an actor's collections, assumed
ACTORS = [2**k for k in range(4, 13)]
# By label: how often a stored step is replayed, the pipeline, and processes that store.
LARGE = {
    "80 replays": (80.0, 1, 0),
    "8 replays": (8.0, 1, 0),
    "0.8 replays": (0.8, 1, 0),
    "0.8 replays, pipeline 4": (0.8, 4, 0),
    "16 stores": (0.0, 1, 16),
}


class Slow(gym.Wrapper):
    """A simulator that sleeps in each step."""

    def __init__(self, env: gym.Env, seconds: float) -> None:
        super().__init__(env)
        self.seconds = seconds

    def step(self, action: Any) -> Any:
        """Sleep, then step."""
        time.sleep(self.seconds)
        return self.env.step(action)


def ms10() -> gym.Env:
    """CartPole with 10 ms a step."""
    return Slow(gym.make("CartPole-v1"), 0.010)


def ms20() -> gym.Env:
    """CartPole with 20 ms a step."""
    return Slow(gym.make("CartPole-v1"), 0.020)


def main(out: Path = RESULTS / "cluster.json") -> None:
    """Measure, simulate and write.

    Args:
        out: the JSON file.
    """
    logging.getLogger("torchrl").setLevel(logging.WARNING)
    torch.manual_seed(0)
    torch.set_num_threads(1)
    load = os.getloadavg()[0]  # of other programs, in the minute before
    cluster = Cluster(Config(scale={"actors": 8}))  # sleeping needs no processor
    try:
        costs = {name: measure_costs(Config.preset(name)) for name in CARTPOLES}
        masked, pixels = costs["masked-cartpole"], costs["pixel-cartpole"]
        found = {
            "manifest": manifest(),
            "load": load,
            "costs": {name: asdict(each) for name, each in costs.items()},
            "sleep": {ms: median_seconds({"": partial(time.sleep, ms / 1e3)}, 50)[""] for ms in (10, 20)},
        }
        found["clock"] = list(check(masked, found["sleep"]))
    finally:
        cluster.close()
    found["large"] = large(sleeping(masked, found["sleep"][10]))
    found["r2d2"] = r2d2(pixels)
    out.write_text(json.dumps(found, indent=1) + "\n")


# --- costs ----------------------------------------------------------------------------------------------


def measure_costs(cfg: Config) -> Costs:
    """Measure actor, driver and learner, in processor time."""
    return Costs(**actor_costs(cfg), **driver_costs(cfg), update=update_seconds(cfg))


def actor_costs(cfg: Config) -> dict[str, float]:
    """Measure collections of several sizes by turns, and count the bytes of one."""
    sizes = [(2, 4), (16, 4), (16, 16)]  # environments, steps
    weights = policy_of(cfg).state_dict()
    actors = [Actor(sized(cfg, 1, envs, envs * steps), 0) for envs, steps in sizes]
    seconds = median_seconds(
        {size: partial(actor.collect, weights, None) for size, actor in zip(sizes, actors, strict=True)},
        repeats=20,
        clock=time.process_time,
    )
    rows = [(1, steps, steps * envs) for envs, steps in sizes]
    call, fixed, step = fit(rows, [seconds[size] for size in sizes])
    (envs, steps), (arrays, state, _) = sizes[-1], actors[-1].collect(weights, None)
    return {
        "call": call,
        "fixed": fixed,
        "step": step,
        "frame_bytes": sum(array.nbytes for array in arrays.values()) / (envs * steps),
        "state_bytes": len(pickle.dumps(state)) / envs,
        "weight_bytes": sum(value.nbytes for value in weights.values()),
    }


def driver_costs(cfg: Config) -> dict[str, float]:
    """Measure the process that joins and stores, with fleets of several sizes."""
    rows, seconds = [], []
    for actors, frames in ((1, 64), (4, 64), (4, 2_048)):
        one = sized(cfg, actors, 16, frames)
        with Fleet(one, policy_of(one)) as fleet:
            collect = partial(next, fleet.collect_into(make_replay_buffer(one)))
            took = median_seconds({"": collect}, 20, clock=time.process_time)
        rows.append((1, actors, frames))
        seconds.append(took[""])
    return dict(zip(("collection", "result", "frame"), fit(rows, seconds), strict=True))


def update_seconds(cfg: Config) -> float:
    """Measure a sample and a gradient step, on a buffer of random play."""
    collector, buffer, learner = parts(cfg)
    for _, _ in zip(range(50), collector, strict=False):
        pass
    took = median_seconds({"": lambda: learner.update(buffer.sample())}, 20, clock=time.process_time)
    collector.shutdown()
    return took[""]


def fit(rows: Sequence[Sequence[float]], seconds: Sequence[float]) -> list[float]:
    """Return the costs, none of them below 0, that explain each row's seconds best."""
    return nnls(np.array(rows, dtype=float), np.array(seconds))[0].tolist()


def sized(cfg: Config, actors: int, envs: int, frames: int) -> Config:
    """Return ``cfg`` with the given total numbers of actors, environments and frames per collection."""
    return cfg.replace(env={"num_envs": envs}, train={"frames_per_batch": frames}, scale={"actors": actors})


def policy_of(cfg: Config) -> TensorDictModule:
    """Return a new policy."""
    return make_policy(cfg.policy, make_env(replace(cfg.env, num_envs=1)))


def parts(cfg: Config) -> tuple[Collector, TensorDictReplayBuffer, Learner]:
    """Return what one process trains with."""
    env = make_env(cfg.env)
    learner = Learner(cfg, env)
    add_primers(env, learner.policy)
    buffer = make_replay_buffer(cfg)
    return make_collector(cfg, env, learner.policy, buffer), buffer, learner


# --- by the clock ---------------------------------------------------------------------------------------


def sleeping(costs: Costs, seconds: float) -> Costs:
    """Return ``costs`` with steps that also sleep."""
    return replace(costs, step=costs.step + seconds)


def slow_config(actors: int, ms: int, updates: int) -> Config:
    """Return the chapter's slow simulator: 16 environments, 4 steps of each in a collection."""
    cfg = sized(Config.preset("masked-cartpole"), actors, 16, 64)
    env = replace(cfg.env, id=f"benchmarks.cluster:ms{ms}")  # it is seen and solved like CartPole
    return cfg.replace(env=env, policy=cfg.policy, train=replace(cfg.train, updates=updates))


def formula(cfg: Config, costs: Costs) -> float:
    """Return the frames per second that the formula of the chapter predicts."""
    envs, frames, actors = cfg.env.num_envs, cfg.train.frames_per_batch, cfg.scale.actors
    collect = frames / envs * (costs.fixed + envs / max(actors, 1) * costs.step)
    updates = cfg.train.updates * costs.update
    return frames / (max(collect, updates) if actors else collect + updates)


def clock(cfg: Config, updates: Sequence[int]) -> list[float]:
    """Return the frames per second of training for each number of updates per collection, with one fleet."""
    rates = []
    with ExitStack() as stack:
        collector, buffer, learner = parts(cfg)
        stack.callback(collector.shutdown)
        if cfg.scale.actors:
            collector = stack.enter_context(Fleet(cfg, learner.policy)).collect_into(buffer)
        collections = iter(collector)

        def cycle(count: int) -> None:
            next(collections)
            for _ in range(count):
                learner.update(buffer.sample())

        for count in updates:
            took = median_seconds({"": partial(cycle, count)}, CYCLES, warmup=3)
            rates.append(cfg.train.frames_per_batch / took[""])
    return rates


def check(costs: Costs, sleep: Mapping[int, float]) -> Iterator[dict[str, float]]:
    """Compare formula and simulation with the clock."""
    for actors, ms, updates in CLOCK:
        measured = clock(slow_config(actors, ms, 2), updates)
        slow = sleeping(costs, sleep[ms])
        for count, rate in zip(updates, measured, strict=True):
            row = {"actors": actors, "ms": ms, "updates": count, "clock": rate}
            row["formula"] = formula(slow_config(actors, ms, count), slow)
            if actors:
                row["simulation"] = simulate(slow, Setting(actors, 16 // actors, 4, count)).rate
            print(row, flush=True)
            yield row


# --- larger fleets --------------------------------------------------------------------------------------


def large(costs: Costs) -> dict[str, list[dict[str, Any]]]:
    """Simulate fleets of each number of actors: 4 environments for each, 16 steps of them in a collection."""
    replay = Config().replay
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in LARGE}
    for name, (replays, pipeline, stores) in LARGE.items():
        for actors in ACTORS:
            setting = Setting(
                actors, 4, 16, pipeline=pipeline, stores=stores, bandwidth=BANDWIDTH, spread=SPREAD
            )
            updates = replays * setting.frames / (replay.slices * replay.slice_len)
            found = simulate(costs, replace(setting, updates=updates), collections=6)
            rows[name].append({"actors": actors} | asdict(found))
    return rows


def r2d2(pixels: Costs) -> list[dict[str, Any]]:
    """Simulate R2D2's actors and learner with our costs of storing and sending pictures.

    Kapturowski et al. (2019): 256 actors make 260 steps a second each and take new weights every 400 steps;
    the learner makes 5 updates a second.
    """
    costs = replace(pixels, step=1 / 260, fixed=0.0, call=0.0, update=1 / 5)
    updates = 5 * 400 / 260
    rows = []
    for stores in (0, 1, 2, 3, 4, 8):
        setting = Setting(256, 1, 400, updates, stores=stores, bandwidth=BANDWIDTH, spread=SPREAD)
        rows.append({"stores": stores} | asdict(simulate(costs, setting)))
    return rows


if __name__ == "__main__":
    tyro.cli(main, prog="python -m benchmarks.cluster")
