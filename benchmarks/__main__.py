"""Compare the package with baselines: ``python -m benchmarks [ROW ...]``.

Prints a table and writes it as JSON, with the machine and the versions. Both sides run on one thread. Short
measurements alternate between the sides; memory and the time to solve are measured in processes of their own.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import torch
import tyro

from benchmarks import buffer, imports, masked, pictures, serving, solve, stop
from benchmarks.grids import choose, command
from benchmarks.harness import Row
from recdqn.book.recorded import RESULTS
from recdqn.book.tables import bench_table
from recdqn.run.provenance import manifest

ROWS: dict[str, Callable[[], Row]] = {
    "pixel-env": pictures.pixel_env,
    "picture": pictures.picture,
    "learner": pictures.learner,
    "pixel-bytes": pictures.pixel_bytes,
    "masked-env": masked.env_row,
    "masked-loop": masked.loop_row,
    "masked-loop-vector": masked.vector_row,
    "masked-update": masked.update_row,
    "priority": masked.priority_row,
    "evaluation": masked.evaluation_row,
    "act": masked.act_row,
    "serve": serving.serve_row,
    "buffer-size": buffer.size_row,
    "memory": buffer.memory_row,
    "stop": stop.stop_row,
    "import": imports.import_row,
    "help": imports.help_row,
    "masked-solve": solve.solve_row,
    "pixel-solve": pictures.solve,
}


def main(
    rows: Annotated[tuple[str, ...], tyro.conf.Positional] = (),
    out: Path = RESULTS / "bench.json",
) -> None:
    """Run the named rows, or all.

    Args:
        rows: their names; all if none is given.
        out: the JSON file; rows that are not run keep their entries.
    """
    chosen = choose(rows, ROWS)
    logging.getLogger("torchrl").setLevel(logging.WARNING)
    torch.set_num_threads(1)
    saved = json.loads(out.read_text()) if out.is_file() else {}
    for name in chosen:
        print(f"{name} ...", file=sys.stderr, flush=True)
        saved[name] = {**dataclasses.asdict(ROWS[name]()), "manifest": manifest()}
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(saved, indent=1) + "\n")
    print(bench_table({name: saved[name] for name in ROWS if name in saved}))


if __name__ == "__main__":
    command(main)
