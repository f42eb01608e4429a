"""Time TorchRL's ways to run an LSTM over sequences: ``recurrent_backend``, with and without torch.compile.

``python -m benchmarks.backends`` writes ``results/backends-DEVICE.json``: the milliseconds of a forward and a
backward pass over 32 rows of 20 steps, with resets inside the rows, and the seconds of the first one, which
compiles. Each way is timed by turns with ``"pad"``.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from tensordict import TensorDict
from torchrl.modules import LSTMModule, set_recurrent_mode

from recdqn.book.measure import median_seconds
from recdqn.book.recorded import RESULTS
from recdqn.errors import first_line
from recdqn.run.provenance import manifest

ROWS, STEPS, FEATURES, HIDDEN = 32, 20, 64, 64  # of the masked preset
WAYS = ("pad", "scan", "triton", "scan, compiled")
REPEATS = 20


def make_pass(way: str, device: str) -> Callable[[], None]:
    """Return a function that makes one forward and one backward pass."""
    torch.manual_seed(0)
    backend, _, compiled = way.partition(", ")
    lstm = LSTMModule(
        FEATURES, HIDDEN, in_key="embed", out_key="memory", recurrent_backend=backend, device=device
    )
    start = torch.zeros(ROWS, STEPS, 1, dtype=torch.bool)
    start[:, 0] = True
    start[::4, STEPS // 2] = True  # an episode ends in the middle of every fourth row
    state = torch.zeros(ROWS, STEPS, 1, HIDDEN)
    batch = {"embed": torch.randn(ROWS, STEPS, FEATURES), "is_init": start}
    batch |= {"recurrent_state_h": state, "recurrent_state_c": state.clone()}
    data = TensorDict(batch, [ROWS, STEPS]).to(device)
    forward = torch.compile(lstm) if compiled else lstm

    def once() -> None:
        with set_recurrent_mode(True):
            forward(data.copy())["memory"].sum().backward()
        if device != "cpu":
            torch.cuda.synchronize()

    return once


def measure(device: str) -> Iterator[dict[str, object]]:
    """Time every way on ``device``; a way that fails has the first line of its error."""
    for way in WAYS:
        try:
            calls = {"pad": make_pass("pad", device), "other": make_pass(way, device)}
            began = time.perf_counter()
            calls["other"]()
            first = time.perf_counter() - began
            times = median_seconds(calls, REPEATS)
            row = {"way": way, "ms": 1e3 * times["other"], "pad_ms": 1e3 * times["pad"]}
            row["first_seconds"] = first
        except Exception as error:  # another library's, of any kind
            row = {"way": way, "error": first_line(error)}
        yield row


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    made = manifest() | {"device": given.device}
    if given.device != "cpu":
        made["gpu"] = torch.cuda.get_device_name()
    path = given.out / f"backends-{given.device}.json"
    rows = []
    for row in measure(given.device):
        print(row, flush=True)
        rows.append(row)
        path.write_text(json.dumps({"manifest": made, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
