"""Benchmark of a graceful stop: the time from a signal to the end of the process."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.harness import Row
from recdqn import Config, train
from recdqn.run.folder import CHECKPOINTS


def stop_row(preset: str = "pixel-cartpole", after: int | None = None) -> Row:
    """Send SIGTERM to a run whose replay buffer is full, while it makes updates.

    Args:
        preset: name of the preset.
        after: environment steps before the first update and the signal; the buffer's capacity if not given.
    """
    cfg = Config.preset(preset)
    after = after or cfg.replay.capacity
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        command = [sys.executable, "-m", "benchmarks.stop", preset, str(after), str(out)]
        run = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        # The number in a checkpoint's name counts environment steps and updates.
        while max((int(path.stem.split("-")[1]) for path in _checkpoints(out)), default=0) <= after:
            if run.poll() is not None:
                raise RuntimeError(f"the run ended with exit status {run.returncode} before it was stopped")
            time.sleep(0.1)
        begun = time.perf_counter()
        run.send_signal(signal.SIGTERM)
        run.wait()
        seconds = time.perf_counter() - begun
        size = max(path.stat().st_size for path in _checkpoints(out)) / 1e6
    return Row(
        what=f"from SIGTERM to the end of a {preset} run that saves {size:.0f} MB",
        ours=seconds,
        other=None,
        against="",
        unit="s",
        ratio=None,
        must="at most 5 s",
        met=seconds <= 5,
    )


def _checkpoints(out: Path) -> list[Path]:
    return list(out.glob(f"{CHECKPOINTS}/checkpoint-*"))


def _train(preset: str, after: int, out: str) -> None:
    """Train in this process."""
    steps = {"warmup_frames": after, "total_frames": 10 * after, "save_seconds": 2.0}
    train(Config.preset(preset).replace(train=steps), out=out, progress=False)


if __name__ == "__main__":
    _train(sys.argv[1], int(sys.argv[2]), sys.argv[3])
