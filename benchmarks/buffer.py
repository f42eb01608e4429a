"""Benchmarks of the replay buffer: time against its size, and memory of a large one on disk."""

from __future__ import annotations

import math
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from tensordict import TensorDict
from torch import Tensor
from torchrl.data import TensorDictReplayBuffer
from torchrl.objectives import SoftUpdate

from benchmarks.harness import Row
from recdqn import (
    Config,
    RecurrentDQNLoss,
    add_primers,
    make_collector,
    make_env,
    make_policy,
    make_replay_buffer,
)
from recdqn.book.measure import median_seconds
from recdqn.config import MAX_RETURN
from recdqn.loss import make_loss

GB = 1e9  # bytes


def size_row(small: int = 10_000, large: int = 1_000_000, repeats: int = 15) -> Row:
    """Time a sample and an update with few and with many transitions in the buffer.

    As in training, a collection of new steps is stored before every few samples. Its time counts too, because
    a buffer may update its index then.
    """
    with tempfile.TemporaryDirectory(prefix="recdqn-", ignore_cleanup_errors=True) as scratch:
        _need_disk(scratch, 4 * GB * large / 1_000_000, f"a buffer of {large:,} transitions")
        sides = {n: _Side.filled(n, large, f"{scratch}/{n}") for n in (small, large)}
        calls = {f"{n} sample": side.sample for n, side in sides.items()}
        calls |= {f"{n} update": side.update for n, side in sides.items()}
        seconds = median_seconds(calls, repeats, warmup=3)
        per_call = sides[small].cfg.train.updates
    times = {kind: (seconds[f"{large} {kind}"], seconds[f"{small} {kind}"]) for kind in ("sample", "update")}
    ratios = {kind: many / few for kind, (many, few) in times.items()}
    worse = max(ratios, key=ratios.get)
    other = min(ratios, key=ratios.get)
    return Row(
        what=f"{worse} from a buffer of {large:,} masked transitions ({other}: {ratios[other]:.2f} times)",
        ours=times[worse][0] / per_call * 1e3,
        other=times[worse][1] / per_call * 1e3,
        against=f"{small:,} transitions",
        unit="ms",
        ratio=ratios[worse],
        must="at most 1.5 for each",
        met=ratios[worse] <= 1.5,
    )


@dataclass
class _Side:
    """A buffer of synthetic episodes, and the loss and optimiser that learn from it."""

    cfg: Config
    buffer: TensorDictReplayBuffer
    collections: Iterator[TensorDict]  # prepared in advance
    loss: RecurrentDQNLoss
    target: SoftUpdate
    optim: torch.optim.Optimizer

    @staticmethod
    def filled(transitions: int, capacity: int, scratch: str) -> _Side:
        cfg = Config.preset("masked-cartpole").replace(replay={"capacity": capacity})
        env = make_env(cfg.env)
        policy = make_policy(cfg.policy, env)
        add_primers(env, policy)
        buffer = make_replay_buffer(cfg, scratch)
        collector = make_collector(cfg, env, policy, buffer)
        next(iter(collector))
        collector.shutdown()
        template = buffer[:].exclude("index")  # [num_envs, steps]: what collection stores
        buffer.empty()
        steps = math.ceil(transitions / cfg.env.num_envs)
        chunk = min(steps, 2_500)
        episodes = synthetic_episodes(template, chunk)
        for _ in range(math.ceil(steps / chunk)):
            buffer.extend(next(episodes))
        loss = make_loss(cfg.loss, policy, env)
        steps = cfg.train.frames_per_batch // cfg.env.num_envs
        new = next(synthetic_episodes(template, 100 * steps, first=10**7)).split(steps, dim=1)
        target, optim = SoftUpdate(loss, tau=cfg.loss.tau), torch.optim.Adam(loss.parameters())
        return _Side(cfg, buffer, iter(new), loss, target, optim)

    def sample(self) -> None:
        """Store one collection, and draw a batch for each update that follows it."""
        self.buffer.extend(next(self.collections))
        for _ in range(self.cfg.train.updates):
            self.buffer.sample()

    def update(self) -> None:
        """Store one collection, and make the updates that follow it."""
        self.buffer.extend(next(self.collections))
        for _ in range(self.cfg.train.updates):
            self.loss(self.buffer.sample())["loss"].backward()
            self.optim.step()
            self.optim.zero_grad()
            self.target.step()


def synthetic_episodes(template: TensorDict, steps: int, first: int = 0) -> Iterator[TensorDict]:
    """Yield chunks ``[num_envs, steps]`` of episodes that continue from one chunk to the next.

    Episode lengths are log-uniform between 10 and 500 steps. Observations are random; episode numbers,
    starts, ends and step counts are as a collector writes them.

    Args:
        template: one collection, for the entries and their shapes.
        steps: length of a chunk.
        first: number of the first episode.
    """
    rng = torch.Generator().manual_seed(0)
    envs = template.shape[0]

    def draw() -> Tensor:
        return (10 * (MAX_RETURN / 10) ** torch.rand(envs, generator=rng)).long()

    number, count, length = torch.arange(envs) + first, torch.zeros(envs, dtype=torch.long), draw()
    while True:
        data = template[:, :1].expand(envs, steps).clone()
        for key in ("observation", ("next", "observation")):
            data[key] = torch.randn(data[key].shape, generator=rng)
        for step in range(steps):
            data["collector", "traj_ids"][:, step] = number
            data["step_count"][:, step, 0] = count
            last = count + 1 == length
            data["next", "terminated"][:, step, 0] = last
            count = torch.where(last, 0, count + 1)
            number = torch.where(last, number + envs, number)
            length = torch.where(last, draw(), length)
        data["is_init"] = data["step_count"] == 0
        data["next", "step_count"] = data["step_count"] + 1
        data["next", "done"] = data["next", "terminated"].clone()
        data["next", "is_init"] = torch.zeros_like(data["is_init"])
        yield data


def memory_row(capacity: int = 1_000_000, frames: int = 512) -> Row:
    """Measure the peak resident memory of a process that trains on pictures with a large buffer on disk.

    The run stops early, so most of the buffer's files are never touched. Pages of the files that were read or
    written count, although the system can reclaim them at any time.
    """
    _need_disk(tempfile.gettempdir(), 10 * GB, "a buffer of a million pictures")
    command = [sys.executable, "-m", "benchmarks.buffer", str(capacity), str(frames)]
    child = subprocess.run(command, capture_output=True, text=True, check=True)
    peak = float(child.stdout.split()[-1]) / GB
    return Row(
        what=f"peak memory of a pixel run with a buffer for {capacity:,} transitions ({frames} frames)",
        ours=peak,
        other=None,
        against="",
        unit="GB",
        ratio=None,
        must="at most 2 GB",
        met=peak <= 2,
    )


def _peak(capacity: int, frames: int) -> int:
    """Train on pictures in this process, and return its peak resident memory in bytes."""
    import resource
    from pathlib import Path

    import recdqn

    cfg = Config.preset("pixel-cartpole").replace(
        replay={"capacity": capacity},
        train={
            "total_frames": frames,
            "warmup_frames": frames // 2,
            "eval_episodes": 2,
            "solved_return": 2 * MAX_RETURN,
        },
    )
    run = recdqn.train(cfg, progress=False)
    assert run.metrics[-1]["updates"] >= 1
    status = Path("/proc/self/status")
    if status.is_file():  # Linux; its ru_maxrss would begin with that of the process that started this one
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) * 1024  # given in KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS


def _need_disk(folder: str, needed: float, what: str) -> None:
    """Exit with one line if there is not enough free disk space."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        sys.exit(
            f"benchmarks: {what} needs {needed / GB:.1f} GB in {folder}, and {free / GB:.1f} GB are free: "
            "set TMPDIR to a folder on a larger disk"
        )


if __name__ == "__main__":
    print(_peak(int(sys.argv[1]), int(sys.argv[2])))
