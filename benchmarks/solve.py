"""The time until masked CartPole is solved, against sb3-contrib's RecurrentPPO."""

from __future__ import annotations

import multiprocessing
import statistics
import time
from concurrent.futures import ProcessPoolExecutor

import recdqn
from benchmarks.harness import Row
from benchmarks.masked import PRESET
from benchmarks.ppo import train_ppo
from recdqn import Config


def solve_row(seeds: tuple[int, ...] = tuple(range(10)), most_frames: int = 100_000) -> Row:
    """Time both sides to a mean return of 475, in processor time, evaluations included.

    Both follow the preset's rule: greedy episodes every ``eval_every`` collections; when they reach
    ``solved_return``, ``solved_episodes`` more confirm it. An unsolved run counts with the time it took to
    use up its frames (ours the preset's, the baseline's ``most_frames``); the row says how many were solved.
    Every run is a process of its own with one thread; two run at the same time.
    """
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=spawn, max_tasks_per_child=1) as pool:
        ours = pool.map(solve_with_ours, seeds)
        theirs = pool.map(_timed_ppo, seeds, [most_frames] * len(seeds))
        (our_seconds, our_solved), (their_seconds, their_solved) = (
            list(zip(*side, strict=True)) for side in (ours, theirs)
        )
    median = statistics.median(their_seconds)
    ratio, n = statistics.median(our_seconds) / median, len(seeds)
    return Row(
        what=f"masked CartPole to 475, median of {n} seeds ({sum(our_solved)} solved, slowest "
        f"{max(our_seconds):.0f} s; against: {sum(their_solved)} solved)",
        ours=statistics.median(our_seconds),
        other=median,
        against="sb3-contrib's RecurrentPPO",
        unit="s",
        ratio=ratio,
        must="at most 0.33, every seed solved, none slower than the other's median",
        met=ratio <= 0.33 and all(our_solved) and max(our_seconds) <= median,
    )


def solve_with_ours(seed: int) -> tuple[float, bool]:
    """Train the preset; return the processor time in seconds, and whether it was solved."""
    start = time.process_time()
    run = recdqn.train(Config.preset(PRESET, seed=seed), progress=False)
    return time.process_time() - start, run.final is not None


def _timed_ppo(seed: int, most_frames: int) -> tuple[float, bool]:
    start = time.process_time()
    saved = train_ppo(Config.preset(PRESET, seed=seed), most_frames)
    return time.process_time() - start, saved["final"] is not None
