"""Train agents without memory: on one observation, and on the last four.

``python -m benchmarks.memoryless AGENT SEED`` records ``results/memoryless/AGENT/seed-SEED``. The agents are
``masked-none``, ``masked-four`` and ``pixel-none``. All settings but those named here are the preset's, which
is recorded in ``results/masked-cartpole`` and ``results/pixel-cartpole`` with its LSTM.
"""

import math
import sys
from dataclasses import replace

import gymnasium as gym
from gymnasium.spaces import Box
from gymnasium.wrappers import FlattenObservation, FrameStackObservation, TransformObservation

from recdqn import Config, train
from recdqn.book.recorded import RESULTS
from recdqn.envs import hide_velocities

FRAMES = 4  # observations side by side, as the Atari agents of Mnih et al. (2015) see them


def stacked() -> gym.Env:
    """CartPole without velocities, as its last four observations, ``[8]``; the first fills all places."""
    env = gym.make("CartPole-v1")
    masked = TransformObservation(env, hide_velocities, Box(-math.inf, math.inf, (2,)))
    return FlattenObservation(FrameStackObservation(masked, FRAMES, padding_type="reset"))


def agent(name: str, seed: int) -> Config:
    """Return the configuration of one of the agents."""
    task, _, sees = name.partition("-")
    cfg = Config.preset(f"{task}-cartpole", seed=seed).replace(policy={"cell": "none"})
    if sees == "four":
        scale = FRAMES * cfg.env.scale
        env = {"id": "benchmarks.memoryless:stacked", "observation": "whole"}
        env |= {"loc": (0.0,) * len(scale), "scale": scale}
        # whole parts, because rewards and the threshold are still CartPole's
        cfg = cfg.replace(env=replace(cfg.env, **env), policy=cfg.policy, train=cfg.train)
    return cfg


if __name__ == "__main__":
    name, seed = sys.argv[1:]
    train(agent(name, int(seed)), out=RESULTS / "memoryless" / name / f"seed-{seed}")
