"""Train masked CartPole with weights that are some collections old when they collect.

``python -m benchmarks.staleness [LAG ...]`` records ``results/staleness/LAG/seed-SEED`` for five seeds of
each lag, in collections: 0 collects in the learner's process, 1 and more with one Ray actor and a pipeline of
that length. All other settings are the preset's. Runs that are finished stay as they are, and one that was
stopped goes on from its checkpoint.
"""

import itertools
import json
import sys
from pathlib import Path

from recdqn import Config, resume, train
from recdqn.book.recorded import RESULTS
from recdqn.run.folder import CONFIG, METRICS

LAGS = (0, 1, 4, 16)
SEEDS = range(5)


def delayed(lag: int, seed: int) -> Config:
    """Return the configuration of a run whose weights are ``lag`` collections old."""
    scale = {"actors": 1, "pipeline": lag} if lag else {}
    return Config.preset("masked-cartpole", seed=seed).replace(scale=scale)


def finished(folder: Path, cfg: Config) -> bool:
    """Whether the run is solved or has used its frames."""
    if not (folder / METRICS).is_file():
        return False
    saved = json.loads((folder / METRICS).read_text())
    frames = cfg.train.collections * cfg.train.frames_per_batch
    return saved["final"] is not None or saved["evaluations"][-1]["frames"] >= frames


if __name__ == "__main__":
    for seed, lag in itertools.product(SEEDS, map(int, sys.argv[1:] or LAGS)):
        cfg, folder = delayed(lag, seed), RESULTS / "staleness" / str(lag) / f"seed-{seed}"
        if finished(folder, cfg):
            continue
        print(folder.relative_to(RESULTS), flush=True)
        if (folder / CONFIG).is_file():
            resume(folder, progress=False)
        else:
            train(cfg, out=folder, progress=False)
