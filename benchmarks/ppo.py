"""Train sb3-contrib's RecurrentPPO on a preset's task, beside the agents of the book.

``python -m benchmarks.ppo [TASK ...]`` records ``results/memory/TASK/ppo/seed-SEED``. Finished runs stay. The
settings are those of sb3-contrib's own test on CartPole without velocities (``tests/test_lstm.py``,
``test_ppo_lstm_performance``). Observations and rewards are normalised with running statistics, as there.
They are not tuned for the other tasks.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import gymnasium as gym
import torch
from gymnasium import spaces
from gymnasium.wrappers import TransformObservation

from recdqn import Config
from recdqn.book.recorded import RESULTS, Record, mean_return
from recdqn.config import EnvConfig
from recdqn.evaluation import EVAL_SEED
from recdqn.run.folder import MANIFEST, METRICS
from recdqn.run.provenance import manifest

TASKS = ("masked-cartpole", "corridor-10", "corridor-30", "copy")
SEEDS = 3


def train_ppo(cfg: Config, most_frames: int, report: Callable[[Record], None] = lambda row: None) -> Record:
    """Train RecurrentPPO until solved by the rule of ``cfg``, or for ``most_frames`` environment steps.

    Greedy episodes follow every ``eval_every`` collections; when they reach ``solved_return``,
    ``solved_episodes`` more confirm it.

    Returns:
        ``"evaluations"`` and ``"final"``, as in the ``metrics.json`` of a run.
    """
    from sb3_contrib import RecurrentPPO
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.evaluation import evaluate_policy
    from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize, sync_envs_normalization

    def one() -> gym.Env:
        return _environment(cfg.env)

    env = VecNormalize(DummyVecEnv([one] * 8))
    saved: Record = {"evaluations": [], "final": None}
    begun = time.perf_counter()

    def greedy(model: RecurrentPPO, episodes: int, seed: int) -> list[float]:
        fresh = VecNormalize(DummyVecEnv([one] * episodes), training=False, norm_reward=False)
        sync_envs_normalization(env, fresh)
        fresh.seed(EVAL_SEED + seed)
        returns, _ = evaluate_policy(
            model, fresh, episodes, deterministic=True, warn=False, return_episode_rewards=True
        )
        fresh.close()
        return [float(value) for value in returns]

    class Stop(BaseCallback):
        def _on_step(self) -> bool:
            if self.num_timesteps % (cfg.train.eval_every * cfg.train.frames_per_batch) == 0:
                row = {"frames": self.num_timesteps, "seconds": time.perf_counter() - begun}
                row["returns"] = greedy(self.model, cfg.train.eval_episodes, self.num_timesteps)
                saved["evaluations"].append(row)
                report(row)
                if mean_return(row) >= cfg.train.solved_return:
                    sure = {"returns": greedy(self.model, cfg.train.solved_episodes, 0)}
                    saved["final"] = sure if mean_return(sure) >= cfg.train.solved_return else None
            return saved["final"] is None

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
        model.learn(most_frames, callback=Stop())
    finally:
        torch.set_num_threads(threads)
        env.close()
    return saved


def _environment(settings: EnvConfig) -> gym.Env:
    """Build the task's environment; of masked CartPole it shows the position and the angle."""
    env = gym.make(settings.id)
    if settings.observation != "masked":
        return env
    space, visible = env.observation_space, list(settings.visible)
    seen = spaces.Box(space.low[visible], space.high[visible], dtype=space.dtype)
    return TransformObservation(env, lambda observation: observation[visible], seen)


def record(task: str, seed: int, folder: Path = RESULTS) -> None:
    """Record a run that is not finished yet."""
    out = folder / "memory" / task / "ppo" / f"seed-{seed}"
    if (out / METRICS).is_file():
        return
    print(out.relative_to(folder), flush=True)
    cfg = Config.preset(task, seed=seed)
    made = manifest() | {"preset": task, "seed": seed, "device": cfg.device, "threads": cfg.threads}
    saved = train_ppo(cfg, cfg.train.total_frames)
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    (out / MANIFEST).write_text(json.dumps(made, indent=2) + "\n")
    (out / METRICS).write_text(json.dumps(saved, indent=1) + "\n")


if __name__ == "__main__":
    for seed in range(SEEDS):
        for task in sys.argv[1:] or TASKS:
            record(task, seed)
