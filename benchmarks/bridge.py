"""Measure what carries a sign through the corridor: the slice's length, or the stored recurrent state.

``python -m benchmarks.bridge`` trains the agent of the page *Train on your own environment* with slices of
two lengths that start from stored states or from zeros, and writes ``results/bridge.json``. Every run has the
same number of environment steps, and every batch about 640. The result of a run is its margin at the far end:
the Q-value of the correct turn less that of the wrong one, for the sign for which it is smaller. The mean
return of the last evaluation stands beside it: where both Q-values are nearly equal, a trace of the sign can
decide rightly with a margin near 0.
"""

from __future__ import annotations

import argparse
import json
import sys
import types
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import nbformat
import torch
from tensordict.nn import TensorDictModule
from torchrl.envs import ExplorationType, set_exploration_type

from recdqn import Config, add_primers, make_env, train
from recdqn.book.recorded import RESULTS
from recdqn.loss import RecurrentDQNLoss, make_loss
from recdqn.run.folder import Run, mean_return
from recdqn.run.provenance import manifest

Source = Literal["stored", "zero"]
PAGE = Path(__file__).parents[1] / "book" / "your-own-task.ipynb"
WAYS: tuple[tuple[int, Source], ...] = ((20, "stored"), (20, "zero"), (5, "stored"), (5, "zero"))
BATCH = 640  # steps
FRAMES = 30_000
LENGTH = 10  # steps from the sign to the turn


def page_settings() -> Config:
    """Return the configuration that the page trains with, from its cells."""
    cells = {cell.id: cell.source for cell in nbformat.read(PAGE, as_version=4).cells}
    page = sys.modules["corridor"] = types.ModuleType("corridor")  # a configuration names its environment
    for name in ("imports", "corridor", "config"):
        exec(compile(cells[name], name, "exec"), vars(page))
    cfg: Config = page.cfg
    return cfg


def trained(cfg: Config, slice_len: int, state_source: Source, frames: int = FRAMES) -> Run:
    """Train for ``frames`` environment steps with slices that start from ``state_source``."""
    never = {"solved_return": 2.0, "eval_every": frames, "total_frames": frames}
    replay = {"slice_len": slice_len, "slices": BATCH // slice_len}

    def loss_from(*args: Any) -> RecurrentDQNLoss:
        loss = make_loss(*args)
        loss.state_source = state_source
        return loss

    with mock.patch("recdqn.learner.make_loss", loss_from):  # no setting of a run chooses it
        return train(cfg.replace(replay=replay, train=never), progress=False)


@torch.no_grad()
def margin(policy: TensorDictModule, cfg: Config) -> float:
    """Q-value of the correct turn less that of the wrong one, for the sign for which it is smaller."""
    env = add_primers(make_env(cfg.env), policy)
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        steps = env.rollout(LENGTH + 1, policy, break_when_any_done=False)
    env.close()
    left, right = steps["action_value"][:, LENGTH].unbind(-1)
    sign = steps["observation"][:, 0, 0]
    return min(float(((right - left) * s)[sign == s].mean()) for s in (-1, 1))


def main() -> None:
    """Train with every way and seed, and write each row as it comes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    cfg, rows = page_settings(), []
    for seed in range(given.seeds):
        for slice_len, state_source in WAYS:
            run = trained(cfg.replace(seed=seed), slice_len, state_source)
            way = {"slice_len": slice_len, "state_source": state_source, "seed": seed}
            rows.append(way | {"margin": margin(run.policy, cfg), "return": mean_return(run.metrics[-1])})
            print(rows[-1], flush=True)
            results = {"manifest": manifest(), "total_frames": FRAMES, "rows": rows}
            (given.out / "bridge.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
