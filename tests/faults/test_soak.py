"""Memory, open files and threads do not grow in a long run: ``pytest -m long -k soak -s``."""

import json
import os
import sys
from pathlib import Path
from unittest import mock

import pytest
from runs import start

from recdqn import Config, evaluate, train

FRAMES = 100_000
WARM = 60_000  # environment steps: the replay buffer is full then


def used():
    """Return anonymous memory in kB, and the number of open files and threads, of this process."""
    status = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {
        "memory": int(status["RssAnon"].split()[0]),
        "files": len(os.listdir("/proc/self/fd")),
        "threads": int(status["Threads"]),
    }


def soak(cfg, out):
    """Train, and record the resources in use before each evaluation."""
    found = {}

    def watched(policy, env, episodes, seed):
        found[seed * cfg.train.frames_per_batch] = used()  # an evaluation's seed counts collections
        return evaluate(policy, env, episodes, seed)

    with mock.patch("recdqn.training.evaluate", watched):
        train(cfg, out=out / "run", progress=False)
    (out / "used.json").write_text(json.dumps(found))


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_soak(tmp_path):
    cfg = Config.preset("masked-cartpole").replace(train={"total_frames": FRAMES, "solved_return": 501.0})
    run = start(soak, cfg, tmp_path, log=tmp_path / "log")
    run.join()
    assert run.exitcode == 0, (tmp_path / "log").read_text()
    found = {
        int(frames): values for frames, values in json.loads((tmp_path / "used.json").read_text()).items()
    }
    warm, end = found[next(frames for frames in found if frames >= WARM)], found[max(found)]
    print(f"\n{'frames':>8} {'kB':>8} files threads")
    for frames, values in found.items():
        print(f"{frames:8} {values['memory']:8} {values['files']:5} {values['threads']:7}")
    assert max(found) >= FRAMES - cfg.train.frames_per_batch
    assert (end["files"], end["threads"]) == (warm["files"], warm["threads"])
    assert end["memory"] < 1.02 * warm["memory"]
