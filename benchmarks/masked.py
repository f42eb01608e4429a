"""Benchmarks of masked CartPole: the environment with its policy, the loop, an update, an evaluation."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Iterator
from functools import partial
from unittest import mock

import numpy as np
import torch
from torchrl.data import TensorDictReplayBuffer

import recdqn
from benchmarks import plain
from benchmarks.harness import Row
from recdqn import (
    Config,
    Learner,
    add_primers,
    evaluate,
    load_checkpoint,
    make_collector,
    make_env,
    make_policy,
    make_replay_buffer,
)
from recdqn.agent import Agent
from recdqn.book.measure import median_seconds
from recdqn.book.recorded import RESULTS
from recdqn.errors import UserError
from recdqn.evaluation import Evaluation, greedy
from recdqn.run.folder import Run

PRESET = "masked-cartpole"


def env_row(sizes: tuple[int, ...] = (8, 16, 32, 64), collections: int = 4, repeats: int = 5) -> Row:
    """Measure the frames per second of collection, with many environments and with one.

    A collection has 8 steps of every environment, as in the preset, and 64 steps of a single one. Epsilon
    stays at 1, so episodes are short and resets most frequent; the policy runs nevertheless.
    """
    collecting = {n: _collecting(n) for n in (*sizes, 1)}
    calls = {
        str(n): lambda it=it: [next(it) for _ in range(collections)] for n, (_, it) in collecting.items()
    }
    seconds = median_seconds(calls, repeats, clock=time.process_time)
    rates = {n: collections * frames / seconds[str(n)] for n, (frames, _) in collecting.items()}
    best = max(sizes, key=rates.get)
    return Row(
        what=f"masked env with the LSTM policy, collected into the buffer, one thread ({best} envs)",
        ours=rates[best],
        other=rates[1],
        against="one env",
        unit="frames/s",
        ratio=rates[best] / rates[1],
        must="5,000 frames/s",
        met=rates[best] >= 5_000,
    )


def _collecting(num_envs: int) -> tuple[int, Iterator[None]]:
    """Return the frames per collection, and an iterator that makes one collection at a time."""
    frames = max(num_envs, 8) * 8
    cfg = Config.preset(PRESET).replace(
        env={"num_envs": num_envs}, train={"frames_per_batch": frames, "total_frames": 10**9}
    )
    env = make_env(cfg.env)
    env.set_seed(0)
    policy = make_policy(cfg.policy, env)
    add_primers(env, policy)
    return frames, iter(make_collector(cfg, env, policy, make_replay_buffer(cfg)))


def loop_row(frames: int = 6_400, repeats: int = 5) -> Row:
    """Compare the training loop with the plain one."""
    return _loop_row(frames, repeats, one_vector=False, most=1.1)


def vector_row(frames: int = 6_400, repeats: int = 5) -> Row:
    """Compare the training loop with a plain one that holds the weights of each network in one vector too."""
    return _loop_row(frames, repeats, one_vector=True, most=None)


def _loop_row(frames: int, repeats: int, one_vector: bool, most: float | None) -> Row:
    """Time a whole training, from building the environment to the last update, in processor time.

    Neither side evaluates. Our ``evaluate`` is replaced by a function that returns immediately, because the
    loop calls it after the last frame whatever the configuration.
    """
    cfg = Config.preset(PRESET).replace(train={"total_frames": frames, "eval_every": 10**9})
    short = cfg.replace(train={"total_frames": cfg.train.warmup_frames + 3 * cfg.train.frames_per_batch})
    sides = {"ours": train_without_evaluation, "plain": partial(plain.train, one_vector=one_vector)}
    for train in sides.values():
        train(short)  # the first calls import and compile
    calls = {name: partial(train, cfg) for name, train in sides.items()}
    seconds = median_seconds(calls, repeats, warmup=0, clock=time.process_time)
    ratio = seconds["ours"] / seconds["plain"]
    return Row(
        what=f"training loop on masked CartPole, {frames:,} frames, set-up included, no evaluation",
        ours=seconds["ours"],
        other=seconds["plain"],
        against="plain PyTorch loop" + ", weights in one vector" * one_vector,
        unit="s",
        ratio=ratio,
        must="–" if most is None else f"at most {most}",
        met=most is None or ratio <= most,
    )


def update_row(updates: int = 40, repeats: int = 5) -> Row:
    """Compare an update with the time that its matrix products alone take.

    The products are those of a rectangle of 32 slices with 21 observations: features, LSTM and head of the
    online network forward and backward (three times the forward pass), and of the target network forward.
    """
    cfg = Config.preset(PRESET).replace(train={"frames_per_batch": 6_400, "total_frames": 6_400})
    env = make_env(cfg.env)
    env.set_seed(0)
    learner = Learner(cfg, env)
    add_primers(env, learner.policy)
    buffer = make_replay_buffer(cfg)
    next(iter(make_collector(cfg, env, learner.policy, buffer)))
    batches = [buffer.sample() for _ in range(updates)]

    slices, steps, hidden = cfg.replay.slices, cfg.replay.slice_len + 1, cfg.policy.hidden_size
    rows = slices * steps
    sizes = [(rows, 2, hidden), (rows, hidden, 4 * hidden), (rows, hidden, hidden), (rows, hidden, 2)]
    products = [(torch.randn(m, k), torch.randn(k, n), 1) for m, k, n in sizes]
    products.append((torch.randn(slices, hidden), torch.randn(hidden, 4 * hidden), steps))  # at each step

    def multiply() -> None:
        for a, b, times in products:
            for _ in range(times * 4 * updates):
                a @ b

    calls = {"ours": lambda: [learner.update(batch) for batch in batches], "products": multiply}
    seconds = median_seconds(calls, repeats, clock=time.process_time)
    ms = {name: 1e3 * total / updates for name, total in seconds.items()}
    ratio = ms["ours"] / ms["products"]
    return Row(
        what="an update of the masked preset, without sampling",
        ours=ms["ours"],
        other=ms["products"],
        against="its matrix products alone",
        unit="ms",
        ratio=ratio,
        must="at most 3",
        met=ratio <= 3,
    )


def priority_row(warmup: int = 100, collections: int = 60) -> Row:
    """Compare an update, sampling included, with and without priorities.

    The sides alternate, after each collection. Their batches differ in size: slices at the ends of episodes,
    where errors are large, are shorter.
    """
    sides = {name: _learning(priority) for name, priority in (("ours", 0.9), ("uniform", 0.0))}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(warmup + collections):
        for name, (learner, buffer, collector) in sides.items():
            next(collector)
            begun = time.process_time()
            for _ in range(learner.cfg.train.updates if turn >= warmup else 0):
                batch = buffer.sample()
                learner.update(batch)
                buffer.update_tensordict_priority(batch)  # nothing, for a uniform sampler
            if turn >= warmup:
                seconds[name].append((time.process_time() - begun) / learner.cfg.train.updates)
    ms = {name: 1e3 * statistics.median(values) for name, values in seconds.items()}
    ratio = ms["ours"] / ms["uniform"]
    return Row(
        what="an update of the masked preset and its batch, slices drawn by priority",
        ours=ms["ours"],
        other=ms["uniform"],
        against="every step drawn equally often",
        unit="ms",
        ratio=ratio,
        must="at most 1.15",
        met=ratio <= 1.15,
    )


def _learning(priority: float) -> tuple[Learner, TensorDictReplayBuffer, Iterator[None]]:
    """Return what an update needs, and an iterator that makes one collection at a time."""
    cfg = Config.preset(PRESET).replace(replay={"priority": priority})
    env = make_env(cfg.env)
    env.set_seed(0)
    learner = Learner(cfg, env)
    add_primers(env, learner.policy)
    buffer = make_replay_buffer(cfg)
    return learner, buffer, iter(make_collector(cfg, env, learner.policy, buffer))


def evaluation_row(episodes: int = 20, repeats: int = 5) -> Row:
    """Time a step of greedy episodes side by side, on plain tensors and in TorchRL's environment.

    The policy is a recorded one, and both sides make the same steps.
    """
    run = load_checkpoint(RESULTS / PRESET / "seed-0")
    cfg, policy = run.cfg, run.policy
    steps = max(evaluate(policy, cfg.env, episodes).lengths)

    def in_torchrl() -> None:
        with mock.patch("recdqn.evaluation.Agent", side_effect=UserError):
            evaluate(policy, cfg.env, episodes)

    calls = {"ours": lambda: evaluate(policy, cfg.env, episodes), "torchrl": in_torchrl}
    seconds = median_seconds(calls, repeats, clock=time.process_time)
    ms = {name: 1e3 * total / steps for name, total in seconds.items()}
    return Row(
        what=f"a step of {episodes} greedy episodes side by side, masked CartPole, set-up included",
        ours=ms["ours"],
        other=ms["torchrl"],
        against="the same in TorchRL's environment",
        unit="ms",
        ratio=ms["ours"] / ms["torchrl"],
        must="at most 0.6 ms",
        met=ms["ours"] <= 0.6,
    )


def act_row(steps: int = 1_000, repeats: int = 7) -> Row:
    """Time a call of the masked agent with one observation, and TorchRL's policy on one TensorDict."""
    run = load_checkpoint(RESULTS / PRESET / "seed-0")
    cfg = dataclasses.replace(run.cfg.env, num_envs=1)
    agent, seen = Agent(run.policy, cfg), np.array([0.1, 0.2, -0.05, 0.3], np.float32)
    start = agent.initial_state()
    td = add_primers(make_env(cfg), run.policy).reset()
    policy = greedy(run.policy)

    def by_policy() -> None:
        with torch.no_grad():
            for _ in range(steps):
                policy(td.clone(False))

    calls = {"ours": lambda: [agent.act(seen, start) for _ in range(steps)], "torchrl": by_policy}
    seconds = median_seconds(calls, repeats, clock=time.process_time)
    us = {name: 1e6 * total / steps for name, total in seconds.items()}
    return Row(
        what="a call of the masked agent, one observation",
        ours=us["ours"],
        other=us["torchrl"],
        against="TorchRL's policy on a TensorDict",
        unit="us",
        ratio=us["ours"] / us["torchrl"],
        must="at most 60 us",
        met=us["ours"] <= 60,
    )


def train_without_evaluation(cfg: Config) -> Run:
    """Run :func:`recdqn.train` with evaluations that return immediately."""
    with mock.patch("recdqn.training.evaluate", lambda *_, **__: Evaluation((0.0,), (1,))):
        return recdqn.train(cfg, progress=False)
