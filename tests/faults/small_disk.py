"""Train on a small disk that becomes full or read-only; test_disk.py runs it where it may mount one."""

import contextlib
import json
import subprocess
import sys
from pathlib import Path

import torch

from recdqn import Config, resume, train
from recdqn.errors import UserError
from recdqn.run.state import Checkpoints

torch.set_num_threads(1)
disk, how = Path(sys.argv[1]), sys.argv[2]
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", disk], check=True)
cfg = (
    Config.preset("masked-cartpole")
    .replace(
        env={"num_envs": 8},
        train={"total_frames": 640, "warmup_frames": 128, "updates": 2, "eval_every": 4, "eval_episodes": 2},
        policy={"hidden_size": 8, "features": 8, "head": 8},
        replay={"slices": 4, "slice_len": 10, "capacity": 512},
    )
    .replace(train={"save_seconds": 0.0})
)
save, saves = Checkpoints.save, []


def spoil(self, step):
    """After the third checkpoint, fill the disk or make it read-only."""
    save(self, step)
    saves.append(step)
    if len(saves) == 3 and how == "full":
        with contextlib.suppress(OSError), (disk / "filler").open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4_096))
    elif len(saves) == 3:
        subprocess.run(["mount", "--bind", disk, disk], check=True)
        subprocess.run(["mount", "-o", "remount,bind,ro", disk], check=True)


Checkpoints.save = spoil
try:
    train(cfg, out=disk / "run", progress=False)
except UserError as error:
    line = str(error)
if how == "read-only":
    try:
        resume(disk / "run", progress=False)
    except UserError as error:
        assert str(error) == line.replace(".torchrl", ""), error
states = sorted(path.name for path in (disk / "run/checkpoints").iterdir())
left = [path.name for path in (disk / "run").rglob("*") if path.suffix == ".tmp"]
if how == "full":
    (disk / "filler").unlink()
else:
    subprocess.run(["umount", disk], check=True)
run, whole = resume(disk / "run", progress=False), train(cfg, progress=False)
same = all(map(torch.equal, run.policy.parameters(), whole.policy.parameters()))
print(json.dumps({"line": line, "states": states, "left": left, "same": same}))
