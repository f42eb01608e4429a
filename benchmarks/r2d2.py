"""What each piece of R2D2 is worth: train the complete agent, and the agent without one piece at a time.

``python -m benchmarks.r2d2 [TASK ...] [--jobs N]`` records ``results/r2d2/TASK/PIECE/seed-SEED`` for every
piece and seed of the tasks, all of them if none is named. The complete agent is ``complete``; its settings
are those of the preset ``r2d2-TASK``. Finished runs stay, and one that was stopped goes on from its
checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Annotated

import tyro

from benchmarks.grids import choose, command
from recdqn import Config
from recdqn.book.ablation import BESIDE_LADDER, BOTH
from recdqn.book.recorded import RESULTS
from recdqn.sweep import train_all

SEEDS = {
    "corridor-100": 10,
    "corridor-30": 5,
    "masked-cartpole": 5,
    "t-maze-10": 5,
    "minigrid-memory-s7": 5,
    "flickering-cartpole": 5,
}  # number of seeds
ALONE = {"corridor-300": 5, "corridor-1000": 5}  # the complete agent only: how far it gets
# What each agent has in the place of the piece.
PIECES: dict[str, dict[str, dict[str, object]]] = {
    "complete": {},
    "priority": {"replay": {"priority": 0.0, "importance": 0.0}},
    "importance": {"replay": {"importance": 0.0}},
    "rescaling": {"loss": {"value_rescale": False}},
    "n-step": {"loss": {"n_steps": 1}},
    "double": {"loss": {"double_dqn": False}},
    "dueling": {"policy": {"dueling": False}},
    "target-copies": {"loss": {"target_every": 0}},
    "previous": {"env": {"previous": False}},
    "ladder": {"scale": {"ladder": False}},
}
# Pieces that change something only where episodes are longer than a slice.
CUT: dict[str, dict[str, dict[str, object]]] = {
    "burn-in": {"loss": {"burn_in": 0}},
    "stored-state": {"loss": {"stored_state": False}},
    "fixed-places": {"replay": {"period": 0}},
}
# In the corridor of 100 steps: sequences that are half the paper's and do not hold an episode; and the agents
# that have neither the ladder nor another piece, or two, of those that the task's own preset lacks.
CORRIDOR: dict[str, dict[str, dict[str, object]]] = {
    "whole-episodes": {
        "loss": {"burn_in": 20},
        "replay": {"whole": False, "slice_len": 60, "slices": 5, "period": 20},
    },
    **{f"ladder-and-{piece}": PIECES["ladder"] | PIECES[piece] for piece in BESIDE_LADDER},
    BOTH: PIECES["ladder"] | {"loss": {"value_rescale": False, "target_every": 0}},
}


def pieces(task: str) -> dict[str, dict[str, dict[str, object]]]:
    """Return the agents of a task by the piece that they lack, and what they change of the complete one."""
    if task in ALONE:
        return {"complete": {}}
    cut = Config.preset(f"r2d2-{task}").loss.burn_in > 0
    return PIECES | (CUT if cut else {}) | (CORRIDOR if task == "corridor-100" else {})


def agent(task: str, piece: str, seed: int = 0) -> Config:
    """Return the configuration of an agent in a task."""
    cfg = Config.preset(f"r2d2-{task}", seed=seed).replace(**pieces(task)[piece])
    if piece == "rescaling" and cfg.policy.initial_value:  # the value itself, as in the task's own preset
        cfg = cfg.replace(policy={"initial_value": Config.preset(task).policy.initial_value})
    return cfg


def grid(tasks: tuple[str, ...]) -> Iterator[tuple[str, Config]]:
    """Yield the runs' folders and configurations, one seed of all before the next."""
    seeds = SEEDS | ALONE
    for seed in range(max((seeds[task] for task in tasks), default=0)):
        for task in tasks:
            for piece in pieces(task) if seed < seeds[task] else ():
                yield f"r2d2/{task}/{piece}/seed-{seed}", agent(task, piece, seed)


def main(
    tasks: Annotated[tuple[str, ...], tyro.conf.Positional] = (), jobs: int = 2, out: Path = RESULTS
) -> None:
    """Record the runs of some tasks, or of all.

    Args:
        tasks: presets without ``r2d2-``; all if none is given.
        jobs: runs at the same time.
        out: the folder of the results.
    """
    train_all(dict(grid(choose(tasks, (*SEEDS, *ALONE)))), out, jobs, say=partial(print, flush=True))


if __name__ == "__main__":
    command(main)
