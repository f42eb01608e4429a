"""The time until masked CartPole is solved, against sb3-contrib's RecurrentPPO."""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

import gymnasium as gym
import torch
from gymnasium import spaces
from gymnasium.wrappers import TransformObservation

import recdqn
from benchmarks import plain
from benchmarks.harness import Row
from benchmarks.masked import PRESET
from recdqn import Config
from recdqn.config import ENV_ID
from recdqn.evaluation import EVAL_SEED


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
    solved = solve_with_ppo(Config.preset(PRESET, seed=seed), most_frames)
    return time.process_time() - start, solved


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
