"""Markdown tables: the recorded runs and benchmarks, for the README and the book, and results of a cell."""

from __future__ import annotations

import json
import math
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from IPython.display import Markdown, display

from recdqn.book.recorded import (
    RESULTS,
    Record,
    mean_return,
    recorded_benchmarks,
    recorded_presets,
)
from recdqn.curves import final_return


def show_table(columns: Sequence[object], rows: Iterable[Sequence[object]]) -> None:
    """Display a table below a notebook cell.

    Args:
        columns: headings.
        rows: one sequence of entries per row; headings and entries are shown as ``str`` formats them.
    """
    lines = [columns, ["---"] * len(columns), *rows]
    cells = ([_keep_together(str(entry).replace("|", r"\|")) for entry in line] for line in lines)
    display(Markdown("\n".join(f"| {' | '.join(line)} |" for line in cells)))


def _keep_together(entry: str) -> str:
    """Stop a browser from breaking a number, a range, a date or a shape on a narrow page."""
    return re.sub(r"\d\S*-\S*\d|\(\d+(, \d+)+\)", r'<span class="text-nowrap">\g<0></span>', entry)


def results_table(folder: Path = RESULTS) -> str:
    """Return a table with a row for each recorded run: frames, seconds and returns."""
    lines = [
        "| preset | seed | frames | seconds | best evaluation | final mean return | solved |",
        "|---|---|---|---|---|---|---|",
    ]
    for preset, runs in recorded_presets(folder).items():
        for run in runs:
            best = max(map(mean_return, run["evaluations"]))
            final = run["final"]
            reached = "–" if final is None else f"{mean_return(final):.1f}, {len(final['returns'])} episodes"
            last = run["evaluations"][-1]
            lines.append(
                f"| {preset} | {run['seed']} | {last['frames']:,} | {last['seconds']:,.0f} | {best:.1f} "
                f"| {reached} | {'yes' if final else 'no'} |"
            )
    return "\n".join(lines)


def summary_table(folder: Path = RESULTS) -> str:
    """Return a table with the median, the worst and the best seed of each preset.

    A run that was not solved ranks behind every run that was, in frames and in seconds; a median that falls
    on one reads "unsolved". Its final mean return is that of its last evaluation.
    """
    lines = ["| preset | solved | | median | worst | best |", "|---|---|---|---|---|---|"]
    for preset, runs in recorded_presets(folder).items():
        solved = sum(run["final"] is not None for run in runs)
        head = f"| {preset} | {solved} of {len(runs)} seed{'s' * (len(runs) > 1)} |"
        for unit in ("frames", "seconds"):
            needed = [run["evaluations"][-1][unit] if run["final"] else math.inf for run in runs]
            cells = (_amount(f(needed)) for f in (statistics.median, max, min))
            lines.append(f"{head} {unit} until solved | {' | '.join(cells)} |")
            head = "| | |"
        reached = [final_return(run) for run in runs]
        cells = (f"{f(reached):.1f}" for f in (statistics.median, min, max))
        lines.append(f"{head} final mean return | {' | '.join(cells)} |")
    return "\n".join(lines)


def bench_table(rows: Mapping[str, Record] | None = None) -> str:
    """Return a table of benchmarks: the package's figure, the other side's, the ratio and the target.

    Args:
        rows: benchmarks by name; the recorded ones if not given.
    """
    lines = ["| row | what | ours | against | ratio | must reach | met |", "|---|---|---|---|---|---|---|"]
    for name, row in (recorded_benchmarks() if rows is None else rows).items():
        ours = f"{figure(row['ours'])} {row['unit']}"
        other = "–" if row["other"] is None else f"{row['against']}: {figure(row['other'])} {row['unit']}"
        ratio = "–" if row["ratio"] is None else figure(row["ratio"])
        met = "yes" if row["met"] else "no"
        lines.append(f"| {name} | {row['what']} | {ours} | {other} | {ratio} | {row['must']} | {met} |")
    return "\n".join(lines)


def backends_table(folder: Path = RESULTS) -> str:
    """Return a table of TorchRL's recurrent backends on a CPU and a GPU, and name these machines."""
    devices = {name: json.loads((folder / f"backends-{name}.json").read_text()) for name in ("cpu", "cuda")}
    lines = [
        "| backend | CPU, ms | times `pad` | first pass, s | GPU, ms | times `pad` | first pass, s |",
        "|---|---|---|---|---|---|---|",
    ]
    rows = {name: {row["way"]: row for row in saved["rows"]} for name, saved in devices.items()}
    for way in rows["cpu"]:
        cells = []
        for by_way in rows.values():
            row = by_way[way]
            if "error" in row:
                cells += ["–", "–", "–"]
            else:
                cells += [
                    f"{row['ms']:.1f}",
                    f"{row['ms'] / row['pad_ms']:.2f}",
                    f"{row['first_seconds']:.1f}",
                ]
        lines.append(f"| {way} | {' | '.join(cells)} |")
    made = {name: saved["manifest"] for name, saved in devices.items()}
    versions = {name: manifest["versions"]["torch"] for name, manifest in made.items()}
    lines += [
        "",
        f"CPU: {made['cpu']['machine']['processor']}, one thread, torch {versions['cpu']}. "
        f"GPU: {made['cuda']['gpu']}, torch {versions['cuda']}. Both with torchrl "
        f"{made['cuda']['versions']['torchrl']}. A dash: the backend does not run there.",
    ]
    return "\n".join(lines)


def figure(value: float) -> str:
    """Format a measured number: three significant digits, or whole from 1,000 on."""
    return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:.3g}"


def _amount(value: float) -> str:
    return "unsolved" if value == math.inf else f"{value:,.0f}"
