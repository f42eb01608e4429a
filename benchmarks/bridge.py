"""Measure what carries a sign through the corridor: the slice's length, or the stored recurrent state.

``python -m benchmarks.bridge`` trains the agent of the page *Train on your own environment* with slices of
several lengths that start from stored states or from zeros, and writes ``results/bridge.json``: for each run
the environment steps until it was solved, or ``null``. Every batch has about 640 steps.
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

from recdqn import Config, train
from recdqn.book.recorded import RESULTS
from recdqn.loss import RecurrentDQNLoss, make_loss
from recdqn.run.provenance import manifest

Source = Literal["stored", "zero"]
PAGE = Path(__file__).parents[1] / "book" / "your-own-task.ipynb"
WAYS: tuple[tuple[int, Source], ...] = (
    (20, "stored"),
    (20, "zero"),
    (5, "stored"),
    (5, "zero"),
)  # steps of a slice, and its first state
BATCH = 640  # steps
FRAMES = 30_000


def page_settings() -> Config:
    """Return the configuration that the page trains with, from its cells."""
    cells = {cell.id: cell.source for cell in nbformat.read(PAGE, as_version=4).cells}
    page = sys.modules["corridor"] = types.ModuleType("corridor")  # a configuration names its environment
    for name in ("imports", "corridor", "config"):
        exec(compile(cells[name], name, "exec"), vars(page))
    cfg: Config = page.cfg
    return cfg


def steps_to_solved(cfg: Config, slice_len: int, state_source: Source, seed: int) -> int | None:
    """Train once; ``None`` if the run is not solved within ``FRAMES`` environment steps."""
    replay = {"slice_len": slice_len, "slices": BATCH // slice_len}
    cfg = cfg.replace(seed=seed, replay=replay, train={"total_frames": FRAMES})

    def loss_from(*args: Any) -> RecurrentDQNLoss:
        loss = make_loss(*args)
        loss.state_source = state_source
        return loss

    with mock.patch("recdqn.learner.make_loss", loss_from):  # no setting of a run chooses it
        run = train(cfg, progress=False)
    return run.metrics[-1]["frames"] if run.final else None


def main() -> None:
    """Train with every way and seed, and write each row as it comes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    cfg, rows = page_settings(), []
    for seed in range(given.seeds):
        for slice_len, state_source in WAYS:
            frames = steps_to_solved(cfg, slice_len, state_source, seed)
            way = {"slice_len": slice_len, "state_source": state_source}
            rows.append(way | {"seed": seed, "frames": frames})
            print(rows[-1], flush=True)
            results = {"manifest": manifest(), "total_frames": FRAMES, "rows": rows}
            (given.out / "bridge.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
