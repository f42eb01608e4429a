"""Benchmarks of masked CartPole: the environment with its policy, the loop, and the time to solve it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from unittest import mock

import gymnasium as gym
import torch
from gymnasium import spaces
from gymnasium.wrappers import TransformObservation

import recdqn
from benchmarks import plain
from benchmarks.harness import Row
from recdqn import (
    Config,
    add_primers,
    evaluate,
    load_checkpoint,
    make_collector,
    make_env,
    make_policy,
    make_replay_buffer,
)
from recdqn.book.measure import median_seconds
from recdqn.book.recorded import RESULTS
from recdqn.config import ENV_ID
from recdqn.errors import UserError
from recdqn.evaluation import EVAL_SEED, Evaluation
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
    seconds = median_seconds(calls, repeats)
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


def loop_row(frames: int = 6_400, repeats: int = 3) -> Row:
    """Time the training loop against the plain one, from building the environment to the last update.

    Neither side evaluates. Our ``evaluate`` is replaced by a function that returns immediately, because the
    loop calls it after the last frame whatever the configuration.
    """
    cfg = Config.preset(PRESET).replace(train={"total_frames": frames, "eval_every": 10**9})
    short = cfg.replace(train={"total_frames": cfg.train.warmup_frames + 3 * cfg.train.frames_per_batch})
    sides = {"ours": train_without_evaluation, "plain": plain.train}
    for train in sides.values():
        train(short)  # the first calls import and compile
    calls = {name: lambda train=train: train(cfg) for name, train in sides.items()}
    seconds = median_seconds(calls, repeats, warmup=0)
    ratio = seconds["ours"] / seconds["plain"]
    return Row(
        what=f"training loop on masked CartPole, {frames:,} frames, set-up included, no evaluation",
        ours=seconds["ours"],
        other=seconds["plain"],
        against="plain PyTorch loop",
        unit="s",
        ratio=ratio,
        must="at most 1.15",
        met=ratio <= 1.15,
    )


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
    ms = {name: 1e3 * seconds / steps for name, seconds in median_seconds(calls, repeats).items()}
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


def train_without_evaluation(cfg: Config) -> Run:
    """Run :func:`recdqn.train` with evaluations that return immediately."""
    with mock.patch("recdqn.training.evaluate", lambda *_, **__: Evaluation((0.0,), (1,))):
        return recdqn.train(cfg, progress=False)


def solve_row(seeds: tuple[int, ...] = (0, 1, 2, 3, 4), most_frames: int = 100_000) -> Row:
    """Time both sides to a mean return of 475, seed by seed, evaluations included.

    Both follow the preset's rule: greedy episodes every ``eval_every`` collections; when they reach
    ``solved_return``, ``solved_episodes`` more confirm it. An unsolved run counts with the time it took to
    use up its frames (ours the preset's, the baseline's ``most_frames``); the row says how many were solved.
    """
    ours, theirs, solved = [], [], [0, 0]
    for seed in seeds:
        start = time.perf_counter()
        run = recdqn.train(Config.preset(PRESET, seed=seed), progress=False)
        ours.append(time.perf_counter() - start)
        solved[0] += run.final is not None
        start = time.perf_counter()
        solved[1] += solve_with_ppo(Config.preset(PRESET, seed=seed), most_frames)
        theirs.append(time.perf_counter() - start)
    ratio = statistics.median(ours) / statistics.median(theirs)
    n = len(seeds)
    return Row(
        what=f"masked CartPole to 475, median of {n} seeds ({solved[0]} solved; against: {solved[1]} solved)",
        ours=statistics.median(ours),
        other=statistics.median(theirs),
        against="sb3-contrib's RecurrentPPO",
        unit="s",
        ratio=ratio,
        must="at most 0.5, every seed solved",
        met=ratio <= 0.5 and solved[0] == n,
    )


def solve_with_ppo(cfg: Config, most_frames: int, report: Callable[[str], None] = lambda _: None) -> bool:
    """Train RecurrentPPO until solved by the rule of ``cfg``, and return whether it was.

    The settings are those of sb3-contrib's own test on CartPole without velocities (``tests/test_lstm.py``,
    ``test_ppo_lstm_performance``), the running normalisation of observations and rewards included.
    """
    from sb3_contrib import RecurrentPPO
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.evaluation import evaluate_policy
    from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize, sync_envs_normalization

    env = VecNormalize(DummyVecEnv([_masked_gym] * 8))

    def greedy(model: RecurrentPPO, episodes: int, seed: int) -> float:
        fresh = VecNormalize(DummyVecEnv([_masked_gym] * episodes), training=False, norm_reward=False)
        sync_envs_normalization(env, fresh)
        fresh.seed(EVAL_SEED + seed)
        mean, _ = evaluate_policy(model, fresh, episodes, deterministic=True, warn=False)
        fresh.close()
        return mean

    class Stop(BaseCallback):
        solved = False

        def _on_step(self) -> bool:
            every = cfg.train.eval_every * cfg.train.frames_per_batch
            if self.num_timesteps % every == 0:
                mean = greedy(self.model, cfg.train.eval_episodes, self.num_timesteps)
                if mean >= cfg.train.solved_return:
                    mean = greedy(self.model, cfg.train.solved_episodes, 0)
                    self.solved = bool(mean >= cfg.train.solved_return)
                report(f"{self.num_timesteps} frames: {mean:.1f}")
            return not self.solved

    stop = Stop()
    model = RecurrentPPO(
        "MlpLstmPolicy",
        env,
        learning_rate=7e-4,
        n_steps=128,
        batch_size=256,
        n_epochs=10,
        gae_lambda=0.98,
        max_grad_norm=1.0,
        seed=cfg.seed,
        device=cfg.device,
        policy_kwargs={
            "net_arch": {"pi": [], "vf": [64]},
            "lstm_hidden_size": 64,
            "enable_critic_lstm": True,
            "ortho_init": False,
        },
    )
    threads = torch.get_num_threads()
    torch.set_num_threads(cfg.threads)
    try:
        model.learn(most_frames, callback=stop)
    finally:
        torch.set_num_threads(threads)
        env.close()
    return stop.solved


def _masked_gym() -> gym.Env:
    """Build a CartPole that shows only the cart's position and the pole's angle."""
    env = gym.make(ENV_ID)
    space = env.observation_space
    seen = spaces.Box(space.low[plain.VISIBLE], space.high[plain.VISIBLE], dtype=space.dtype)
    return TransformObservation(env, lambda observation: observation[plain.VISIBLE], seen)
