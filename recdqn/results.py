"""Read the recorded runs in ``results/`` (chapter 5, the welcome page and the README's table)."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from recdqn.checkpoint import CONFIG, MANIFEST, METRICS
from recdqn.config import PRESETS, UserError

RESULTS = Path(__file__).parents[1] / "results"


def recorded_runs(preset: str, folder: Path = RESULTS) -> list[dict]:
    """Return the recorded runs of ``preset``, ordered by seed.

    Each has ``"path"``, ``"seed"``, ``"config"``, ``"manifest"``, ``"evaluations"`` and ``"final"`` (``None``
    where the run was not solved), as :func:`recdqn.checkpoint.save_checkpoint` wrote them.

    Raises:
        UserError: if there is none.
    """
    runs = []
    for path in sorted((folder / preset).glob("seed-*")):
        config, metrics, manifest = (json.loads((path / n).read_text()) for n in (CONFIG, METRICS, MANIFEST))
        runs.append({"path": path, "seed": config["seed"], "config": config, "manifest": manifest} | metrics)
    if not runs:
        raise UserError(
            f"no recorded run of {preset!r} in {folder}: clone the repository, or run 'make results'"
        )
    return sorted(runs, key=lambda run: run["seed"])


def mean_return(evaluation: dict) -> float:
    """Mean of an evaluation's greedy returns."""
    return sum(evaluation["returns"]) / len(evaluation["returns"])


def results_table(folder: Path = RESULTS) -> str:
    """Return the recorded runs as a Markdown table: what each reached, in how many frames and seconds."""
    lines = [
        "| preset | seed | frames | seconds | best evaluation | final mean return | solved |",
        "|---|---|---|---|---|---|---|",
    ]
    for preset in PRESETS:
        for run in recorded_runs(preset, folder):
            best = max(map(mean_return, run["evaluations"]))
            final = run["final"]
            reached = "" if final is None else f"{mean_return(final):.1f}, {len(final['returns'])} episodes"
            last = run["evaluations"][-1]
            lines.append(
                f"| {preset} | {run['seed']} | {last['frames']:,} | {last['seconds']:,.0f} | {best:.1f} "
                f"| {reached or '–'} | {'yes' if final else 'no'} |"
            )
    return "\n".join(lines)


def recorded_benchmarks(folder: Path = RESULTS) -> dict[str, dict]:
    """Return the rows of the last ``make bench``, by name, as :mod:`benchmarks` wrote them (chapter 6).

    Raises:
        UserError: if none is recorded.
    """
    path = folder / "bench.json"
    if not path.is_file():
        raise UserError(f"no recorded benchmarks in {folder}: clone the repository, or run 'make bench'")
    return json.loads(path.read_text(encoding="utf-8"))


def bench_table(folder: Path = RESULTS) -> str:
    """Return the recorded benchmarks as a Markdown table: ours, the other side, what must be reached."""
    lines = ["| row | what | ours | against | ratio | must reach | met |", "|---|---|---|---|---|---|---|"]
    for name, row in recorded_benchmarks(folder).items():
        ours = f"{_figure(row['ours'])} {row['unit']}"
        other = "–" if row["other"] is None else f"{row['against']}: {_figure(row['other'])} {row['unit']}"
        ratio = "–" if row["ratio"] is None else _figure(row["ratio"])
        met = "yes" if row["met"] else "no"
        lines.append(f"| {name} | {row['what']} | {ours} | {other} | {ratio} | {row['must']} | {met} |")
    return "\n".join(lines)


def _figure(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:.3g}"


def write_table(readme: Path) -> None:
    """Put the table between the markers ``<!-- results -->`` and ``<!-- /results -->`` of ``readme``."""
    before, rest = readme.read_text(encoding="utf-8").split("<!-- results -->")
    after = rest.split("<!-- /results -->")[1]
    table = results_table()
    readme.write_text(f"{before}<!-- results -->\n{table}\n<!-- /results -->{after}", encoding="utf-8")


if __name__ == "__main__":
    write_table(Path(sys.argv[1]))
