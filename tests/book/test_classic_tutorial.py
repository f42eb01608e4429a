"""The classic tutorial's recorded runs, the figure of them, and the program that makes them."""

import json
import math
import statistics

import matplotlib.pyplot as plt
import nbformat
import pytest
from matplotlib.colors import to_hex

from benchmarks import classic, tutorial
from recdqn.book import plots
from recdqn.book.plots.style import PALE_BLUE
from recdqn.book.recorded import RESULTS, recorded_runs

PAGE = RESULTS.parent / "book" / "coming-from-the-tutorial.ipynb"
VARIANTS = range(len(tutorial.CHANGES) + 1)


def evaluations(changes, seed):
    """``{frames: mean return}``, from the file."""
    path = RESULTS / "classic-tutorial" / str(changes) / f"seed-{seed}" / "metrics.json"
    rows = json.loads(path.read_text(encoding="utf-8"))["evaluations"]
    return {row["frames"]: statistics.mean(row["returns"]) for row in rows}


@pytest.mark.parametrize("changes", VARIANTS)
def test_three_seeds_of_each_variant_are_recorded(changes):
    runs = recorded_runs(f"classic-tutorial/{changes}")
    assert [run["seed"] for run in runs] == [0, 1, 2]
    for run in runs:
        assert run["manifest"]["changes"] == list(tutorial.CHANGES[:changes])
        assert run["manifest"]["versions"]["torchrl"] == "0.14.1"
        assert [row["frames"] for row in run["evaluations"]] == [2_500, 5_000, 7_500]
        assert run["final"] is None and run["config"] is None


def test_the_figure_shows_the_recorded_runs():
    names = [f"{changes} changes" for changes in VARIANTS]
    variants = {name: recorded_runs(f"classic-tutorial/{k}") for k, name in enumerate(names)}
    package = recorded_runs("pixel-cartpole")
    near, far = plots.tutorial_curves(variants, package, random=20.0).axes
    labelled = {line.get_label(): line for line in near.lines}
    for changes, name in enumerate(names):
        seeds = [evaluations(changes, seed) for seed in range(3)]
        mean = {frames: statistics.mean(s[frames] for s in seeds) for frames in seeds[0]}
        line = labelled[f"{name} (3 seeds)"]
        assert dict(line.get_xydata().tolist()) == pytest.approx(mean)
        dots = [d for d in near.lines if d.get_marker() == "." and d.get_color() == line.get_color()]
        for shown, seed in zip(dots, seeds, strict=True):
            assert dict(shown.get_xydata().tolist()) == pytest.approx(seed)
        assert all(0 <= r <= near.get_ylim()[1] for s in seeds for r in s.values())
    assert labelled["random actions"].get_ydata()[0] == 20
    assert far.get_xlim()[1] > max(run["evaluations"][-1]["frames"] for run in package)
    (window,) = [patch for patch in far.patches if to_hex(patch.get_facecolor()) == PALE_BLUE.lower()]
    assert window.get_width() == near.get_xlim()[1]
    plt.close("all")


def test_the_page_shows_what_the_files_hold():
    """Its table has each seed's last evaluation, and the claims that it asserts hold."""
    cells = {cell.id: cell for cell in nbformat.read(PAGE, as_version=nbformat.NO_CONVERT).cells}
    code = "\n".join(cells[name].source for name in ("imports", "curves", "numbers"))
    names = {}
    exec(code.replace("\nMarkdown(", "\nshown = Markdown("), names)
    rows = names["shown"].data.splitlines()[2:]
    for changes in VARIANTS:
        last = [list(evaluations(changes, seed).values())[-1] for seed in range(3)]
        expected = [", ".join(f"{value:.0f}" for value in last), f"{statistics.mean(last):.0f}"]
        assert [cell.strip() for cell in rows[changes].split("|")[2:4]] == expected
    text = " ".join("\n".join(rows).split())
    assert "Each run had 7,500 environment steps. An evaluation is 5 greedy episodes. All 12 runs" in text
    plt.close("all")


def test_what_the_page_says_of_the_program():
    """16 updates after 50 steps; as many steps as the median seed; exploration less than half over."""
    assert (tutorial.UPDATES, classic.ROW) == (16, 50)
    needed = [run["evaluations"][-1]["frames"] for run in recorded_runs("pixel-cartpole")]
    assert statistics.median(needed) == tutorial.FRAMES
    for run in recorded_runs("classic-tutorial/3"):
        assert 1 - run["evaluations"][-1]["eps"] < (1 - 0.05) / 2


def test_a_few_updates_with_all_changes(monkeypatch, tmp_path):
    for name, value in {"UPDATES": 2, "EVAL_EVERY": 1, "EVAL_EPISODES": 2}.items():
        monkeypatch.setattr(tutorial, name, value)
    tutorial.train(changes=3, seed=0, frames=100, device="cpu", out=tmp_path)
    rows = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))["evaluations"]
    assert [row["frames"] for row in rows] == [50, 100]
    assert [row["eps"] for row in rows] == [round(1 - 0.95 * f / 16_000, 4) for f in (50, 100)]
    assert all(math.isfinite(row["loss"]) and row["loss"] > 0 for row in rows)
    assert all(len(row["returns"]) == 2 and min(row["returns"]) >= 8 for row in rows)


@pytest.mark.parametrize(
    "page", sorted((PAGE.parent / "chapters").glob("*.ipynb")), ids=lambda path: path.stem
)
def test_a_chapter_that_names_the_classic_tutorial_links_to_its_page(page):
    cells = nbformat.read(page, as_version=4).cells
    named = [
        cell for cell in cells if cell.cell_type == "markdown" and "classic tutorial" in cell.source.lower()
    ]
    assert [cell.id for cell in named if "<../coming-from-the-tutorial>" not in cell.source] == []
