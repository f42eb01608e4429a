"""How the time of a frame and of an update grows with the sizes: ``python -m benchmarks.scaling``.

One size changes at a time; the others are those of the preset ``"masked-cartpole"``. All times are processor
time on one thread. Writes ``results/scaling.json``.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.masked import PRESET
from recdqn import Config, Learner, add_primers, make_collector, make_env, make_replay_buffer
from recdqn.book.measure import median_seconds
from recdqn.book.recorded import RESULTS
from recdqn.run.provenance import manifest

ENVS = (1, 4, 16, 64, 256, 1_024)
SLICES = (8, 16, 32, 64, 128, 256, 512)
LENGTHS = (20, 40, 80, 160, 320)  # steps of a slice
CAPACITIES = (10_000, 100_000, 1_000_000)
STEPS = 8  # of every environment, in one collection


def frames(envs: tuple[int, ...] = ENVS, repeats: int = 5) -> dict[int, float]:
    """Return the seconds of one step of all environments, policy and writing included, by their number."""
    iterators = {n: _collecting(n) for n in envs}
    calls = {n: lambda it=it: next(it) for n, it in iterators.items()}
    seconds = median_seconds(calls, repeats, clock=time.process_time)
    return {n: total / STEPS for n, total in seconds.items()}


def _collecting(num_envs: int) -> Iterator[None]:
    cfg = Config.preset(PRESET).replace(
        env={"num_envs": num_envs}, train={"frames_per_batch": STEPS * num_envs, "total_frames": 10**9}
    )
    learner, env = _learner(cfg)
    return iter(make_collector(cfg, env, learner.policy, make_replay_buffer(cfg)))


def updates(
    slices: tuple[int, ...] = SLICES, lengths: tuple[int, ...] = LENGTHS, repeats: int = 5
) -> tuple[dict[int, float], dict[int, float]]:
    """Return the seconds of an update, sampling included, by the slices of a batch, and by their length."""
    steps = max(lengths)
    base = Config.preset(PRESET)
    cfg = base.replace(
        env={"num_envs": 32}, train={"frames_per_batch": 64 * steps, "total_frames": 64 * steps}
    )
    learner, env = _learner(cfg)
    for one in env.base_env.gym.envs:  # CartPole that never falls, so that episodes are long
        one.unwrapped.theta_threshold_radians = one.unwrapped.x_threshold = float("inf")
    buffers = {}
    for name, sizes in {
        **{("slices", n): (n, base.replay.slice_len) for n in slices},
        **{("length", n): (base.replay.slices, n) for n in lengths},
    }.items():
        buffers[name] = make_replay_buffer(cfg.replace(replay={"slices": sizes[0], "slice_len": sizes[1]}))
    first = next(iter(buffers))
    next(iter(make_collector(cfg, env, learner.policy, buffers[first])))
    state = buffers[first].state_dict()
    for buffer in buffers.values():
        buffer.load_state_dict(state)
    calls = {name: lambda b=buffer: learner.update(b.sample()) for name, buffer in buffers.items()}
    seconds = median_seconds(calls, repeats, clock=time.process_time)
    by: dict[str, dict[int, float]] = {"slices": {}, "length": {}}
    for (kind, n), value in seconds.items():
        by[kind][n] = value
    return by["slices"], by["length"]


def samples(capacities: tuple[int, ...] = CAPACITIES, repeats: int = 20) -> dict[int, float]:
    """Return the seconds of a sample from a full buffer, by its capacity."""
    calls: dict[int, Callable[[], object]] = {}
    for capacity in capacities:
        cfg = Config.preset(PRESET).replace(
            replay={"capacity": capacity}, train={"frames_per_batch": 9_600, "total_frames": 9_600}
        )
        learner, env = _learner(cfg)
        buffer = make_replay_buffer(cfg)
        steps = next(iter(make_collector(cfg, env, learner.policy, None)))
        newest = int(steps["collector", "traj_ids"].max()) + 1
        for part in range(-(-capacity // 9_600)):
            again = steps.clone()
            again["collector", "traj_ids"] += part * newest
            buffer.extend(again)
        calls[capacity] = buffer.sample
    return median_seconds(calls, repeats, clock=time.process_time)


def _learner(cfg: Config) -> tuple[Learner, Any]:
    torch.manual_seed(0)
    env = make_env(cfg.env)
    env.set_seed(0)
    learner = Learner(cfg, env)
    add_primers(env, learner.policy)
    return learner, env


def exponent(seconds: dict[int, float]) -> float:
    """Return the slope of the largest half of the sizes on log axes: 1 where the time grows with the size."""
    sizes = sorted(seconds)[len(seconds) // 2 :]
    slope, _ = np.polyfit(np.log(sizes), np.log([seconds[n] for n in sizes]), 1)
    return float(slope)


def main(path: Path = RESULTS / "scaling.json") -> None:
    """Measure everything and write the file."""
    logging.getLogger("torchrl").setLevel(logging.WARNING)
    torch.set_num_threads(1)
    rows = {"envs": frames()}
    rows["slices"], rows["length"] = updates()
    rows["capacity"] = samples()
    saved = {name: {"seconds": row, "exponent": exponent(row)} for name, row in rows.items()}
    path.write_text(json.dumps({"rows": saved, "manifest": manifest()}, indent=1) + "\n")
    for name, row in saved.items():
        print(name, {n: f"{1e3 * s:.2f} ms" for n, s in row["seconds"].items()}, f"{row['exponent']:.2f}")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
