"""Train agents with and without memory on tasks that need it.

``python -m benchmarks.memory [TASK ...] [--jobs N]`` records ``results/memory/TASK/AGENT/seed-SEED`` for
every agent and seed of the tasks, all of them if none is named. A task is a preset, or ``choices``: other
values of single settings. Runs that are finished stay as they are, and one that was stopped goes on from its
checkpoint.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import gymnasium as gym
import numpy as np
import tyro

from benchmarks.grids import choose, command
from recdqn import Config, load_checkpoint
from recdqn.agent import Agent
from recdqn.book.prices import WIPED
from recdqn.book.recorded import RESULTS
from recdqn.config import EnvConfig
from recdqn.envs import make_vector_env
from recdqn.evaluation import EVAL_SEED
from recdqn.run.folder import Run
from recdqn.sweep import train_all

RANDOM = "random.json"  # in a task's folder, the mean return of random actions

AGENTS: dict[str, dict[str, dict[str, object]]] = {
    "lstm": {},
    "gru": {"policy": {"cell": "gru"}},
    "none": {"policy": {"cell": "none"}},
    "four": {"policy": {"cell": "none"}, "env": {"stack": 4}},
    # in the twin that hides nothing, see shown()
    "shown": {"policy": {"cell": "none"}},
    "shown-lstm": {},
}
SEEDS = {
    "masked-cartpole": 10,
    "corridor-10": 10,
    "corridor-30": 10,
    "corridor-100": 10,
    "corridor-300": 5,
    "corridor-1000": 3,
    "t-maze-10": 5,
    "t-maze-30": 5,
    "t-maze-100": 3,
    "copy": 5,
    "repeat-previous": 5,
    "count-recall": 5,
    "autoencode": 3,
    "minigrid-memory-s7": 5,
    "minigrid-memory-s9": 3,
    "minigrid-memory-s11": 3,
    "minigrid-memory-s13": 3,
    "flickering-cartpole": 5,
    "flickering-pixels": 3,
    "pixel-cartpole": 3,
}  # number of seeds
LONG = ("corridor-100", "corridor-300", "corridor-1000", "t-maze-10", "t-maze-30", "t-maze-100")
LARGE = ("minigrid-memory-s9", "minigrid-memory-s13", "autoencode", "flickering-pixels")
# Some agents only: an LSTM, to see how long it remembers; the agents that say whether a task needs memory;
# in pixel CartPole none beside the preset's LSTM, which is recorded elsewhere, but the one without memory.
ONLY = dict.fromkeys((*LONG, *LARGE), ("lstm",)) | {
    "pixel-cartpole": ("none",),
    "count-recall": ("lstm", "none"),
    "minigrid-memory-s11": ("lstm", "four", "none"),
}
# Other values of single settings, five seeds each: the preset, its changes.
CHOICES: dict[str, tuple[str, dict[str, dict[str, object]]]] = {
    "slices-over-ends": ("corridor-30", {"replay": {"whole": False}}),
    "slices-of-20": ("corridor-30", {"replay": {"slice_len": 20, "slices": 16}}),
    "slices-of-80": ("corridor-30", {"replay": {"slice_len": 80, "slices": 4}}),
    "default-gates": ("corridor-30", {"policy": {"memory_span": 0}}),
    "span-of-360": ("corridor-30", {"policy": {"memory_span": 360}}),
    "discount-0.9": ("corridor-30", {"loss": {"gamma": 0.9}}),
    "discount-0.999": ("corridor-30", {"loss": {"gamma": 0.999}}),
    "one-step": ("corridor-30", {"loss": {"n_steps": 1}}),
    "20-steps": ("corridor-30", {"loss": {"n_steps": 20}}),
    "discount-0.99-five-steps": ("copy", {"loss": {"gamma": 0.99, "n_steps": 5}}),
    "discount-0.99-one-step": ("copy", {"loss": {"gamma": 0.99, "n_steps": 1}}),
    "slices-of-6": ("copy", {"replay": {"slice_len": 6, "slices": 107}}),
    "previous-step": ("masked-cartpole", {"env": {"previous": True}}),
    "no-previous-step": ("flickering-cartpole", {"env": {"previous": False}}),
}


def agent(task: str, name: str, seed: int = 0) -> Config:
    """Return the configuration of an agent in a task."""
    cfg = Config.preset(task, seed=seed).replace(**AGENTS[name])
    if not name.startswith("shown"):
        return cfg
    # whole parts, because a twin is scaled and solved like its task
    return cfg.replace(env=replace(cfg.env, **shown(cfg.env)), policy=cfg.policy, train=cfg.train)


def shown(env: EnvConfig) -> dict[str, Any]:
    """Return what changes a task into its twin that hides nothing."""
    if env.observation == "masked":
        return {"id": "CartPole-v1", "observation": "whole", "loc": (0.0,), "scale": (2.0, 1.0, 20.0, 1.0)}
    return {"id": str(env.id).replace("-v0", "Shown-v0")}


def folder(task: str, name: str) -> str:
    """Return the folder of an agent's runs; those of masked CartPole's preset are recorded as such."""
    return task if (task, name) == ("masked-cartpole", "lstm") else f"memory/{task}/{name}"


def grid(tasks: tuple[str, ...]) -> Iterator[tuple[str, Config]]:
    """Yield the runs' folders and configurations, one seed of all before the next."""
    for seed in range(max((SEEDS[task] for task in tasks), default=0)):
        for task in tasks:
            for name in ONLY.get(task, AGENTS):
                if seed < SEEDS[task]:
                    yield f"{folder(task, name)}/seed-{seed}", agent(task, name, seed)


def choices() -> Iterator[tuple[str, Config]]:
    """Yield the folders and configurations of :data:`CHOICES`, one seed of all before the next."""
    for seed in range(5):
        for name, (task, changes) in CHOICES.items():
            cfg = Config.preset(task, seed=seed).replace(**changes)
            yield f"memory/{task}/{name}/seed-{seed}", cfg


def wiped_returns(run: Run, episodes: int = 100) -> list[float]:
    """Play greedy episodes with a trained agent whose memory is wiped at every step."""
    actor = Agent(run.policy, run.cfg.env)
    env = make_vector_env(run.cfg.replace(env={"num_envs": episodes}).env)
    seen, _ = env.reset(seed=EVAL_SEED)
    total, running = np.zeros(episodes), np.ones(episodes, bool)
    while running.any():
        values, _ = actor.batch_values(seen, actor.initial_state(episodes))
        seen, reward, terminated, truncated, _ = env.step(values.argmax(-1))
        total += reward * running
        running &= ~(terminated | truncated)
        if running.any() and not running.all():
            seen, _ = env.reset(options={"reset_mask": ~running})
    env.close()
    return total.tolist()


def random_return(task: str, episodes: int = 200) -> float:
    """Return the mean return of random actions."""
    env = gym.make(Config.preset(task).env.id)
    env.action_space.seed(0)
    total = 0.0
    for seed in range(episodes):
        env.reset(seed=seed)
        done = False
        while not done:
            _, reward, terminated, truncated, _ = env.step(env.action_space.sample())
            total, done = total + float(reward), terminated or truncated
    env.close()
    return total / episodes


def main(
    tasks: Annotated[tuple[str, ...], tyro.conf.Positional] = (), jobs: int = 2, out: Path = RESULTS
) -> None:
    """Record the runs of some tasks, or of all.

    Args:
        tasks: presets, or ``choices``; all if none is given.
        jobs: runs at the same time.
        out: the folder of the results.
    """
    chosen = choose(tasks, (*SEEDS, "choices"))
    runs = dict(grid(tuple(task for task in chosen if task != "choices")))
    runs |= dict(choices()) if "choices" in chosen else {}

    for task in chosen:
        if task != "choices" and len(ONLY.get(task, AGENTS)) > 1:  # tasks in which agents are compared
            path = out / "memory" / task / RANDOM
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(random_return(task)) + "\n")
    train_all(runs, out, jobs, say=partial(print, flush=True))
    for name, cfg in runs.items():
        run = out / name
        if run.parent == out / folder(cfg.name, "lstm") and not (run / WIPED).is_file():
            (run / WIPED).write_text(json.dumps(wiped_returns(load_checkpoint(run))))


if __name__ == "__main__":
    command(main)
