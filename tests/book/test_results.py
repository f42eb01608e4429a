"""The recorded runs are what the README and the book say they are."""

import json
import re

import matplotlib.pyplot as plt
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from recdqn import Config, evaluate, load_checkpoint
from recdqn.book.recorded import (
    CARTPOLES,
    RESULTS,
    fingerprint,
    mean_return,
    recorded_benchmarks,
    recorded_presets,
    recorded_runs,
)
from recdqn.book.tables import bench_table, results_table, show_table, summary_table
from recdqn.book.write import CURVES, NOTES, README, write_curves, write_tables
from recdqn.curves import RESAMPLES, learning_curve
from recdqn.errors import UserError

INTRO = RESULTS.parent / "book" / "intro.md"


def between(text, name):
    return text.split(f"<!-- {name} -->")[1].split(f"<!-- /{name} -->")[0].strip()


def test_a_table_below_a_cell_keeps_bars_in_its_entries(monkeypatch):
    shown = []
    monkeypatch.setattr("recdqn.book.tables.display", shown.append)
    show_table(["key", "|h|"], [("a", 1), ("b", None)])
    assert [each.data for each in shown] == ["| key | \\|h\\| |\n| --- | --- |\n| a | 1 |\n| b | None |"]


@pytest.mark.parametrize("entry", ["2.1e-02", "26-35", "2026-11-22", (1, 84, 84)])
def test_a_narrow_page_does_not_break_a_number_or_a_shape(monkeypatch, entry):
    shown = []
    monkeypatch.setattr("recdqn.book.tables.display", shown.append)
    show_table(["masked-cartpole", "x"], [(entry, "target-leak")])
    heading, _, row = shown[0].data.splitlines()
    assert heading == "| masked-cartpole | x |"
    assert row == f'| <span class="text-nowrap">{entry}</span> | target-leak |'


@pytest.mark.parametrize(
    ("path", "name", "table"),
    [(README, "results", results_table), (README, "summary", summary_table), (NOTES, "bench", bench_table)],
    ids=["results", "summary", "bench"],
)
def test_documents_show_the_recorded_tables(path, name, table):
    assert between(path.read_text(encoding="utf-8"), name) == table()


def test_figures_in_the_readmes_prose_are_those_of_the_code():
    text = " ".join(README.read_text(encoding="utf-8").split())
    stop = recorded_benchmarks()["stop"]
    assert f"every {Config().train.save_seconds:g} seconds" in text
    assert f"Recorded: {stop['ours']:.3g} s {stop['what']}" in text and stop["ours"] < 5
    assert f"a mean return of at least {Config().train.solved_return:g}" in text
    tested = (README.parent / "tests/faults/test_resume.py").read_text(encoding="utf-8")
    assert "times=50," in tested and "50 times at random" in text


def test_readme_shows_the_curves_of_the_recorded_runs():
    """Drawn from these files; a change of the figure's looks alone does not fail."""
    shown = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", README.read_text(encoding="utf-8"))
    assert CURVES.relative_to(README.parent).as_posix() in shown
    assert f"recorded runs {fingerprint(recorded_presets())}<" in CURVES.read_text(encoding="utf-8")


@pytest.mark.parametrize("page", [README, INTRO], ids=["README", "intro"])
def test_every_picture_of_a_page_is_there(page):
    text = page.read_text(encoding="utf-8")
    pictures = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text) + re.findall(r"\{figure\} (\S+)", text)
    if page == INTRO:  # what its player shows is looked at in test_site_interactive.py
        assert "{episode-player}" in text
    else:
        assert pictures
    assert [picture for picture in pictures if not (page.parent / picture).is_file()] == []


def test_the_welcome_page_shows_what_the_files_hold():
    """Its cells run, and what they show is the summary and a curve of every preset."""
    cells = re.findall(
        r"(?ms)^```\{code-cell\}[^\n]*\n(?:---\n.*?^---\n)?(.*?)^```$", INTRO.read_text("utf-8")
    )
    shown = [re.sub(r"(?m)^(Markdown\()", r"shown = \1", cell) for cell in cells]
    names = {}
    exec("\n".join(shown), names)
    assert names["shown"].data == summary_table()
    (figure,) = map(plt.figure, plt.get_fignums())
    labels = [line.get_label() for line in figure.axes[0].lines]
    assert all(any(label.startswith(preset) for label in labels) for preset in CARTPOLES)
    plt.close("all")


@pytest.mark.parametrize("page", [README, INTRO], ids=["README", "intro"])
def test_no_page_writes_a_measured_number_by_hand(page):
    """Frames, seconds and returns stand in tables and figures that come from the files."""
    text = page.read_text(encoding="utf-8")
    for name in ("results", "summary"):
        if f"<!-- {name} -->" in text:
            text = text.replace(between(text, name), "")
    numbers = set()
    for run in sum(recorded_presets().values(), []):
        last = run["evaluations"][-1]
        returns = [mean_return(e) for e in (*run["evaluations"], *filter(None, [run["final"]]))]
        numbers |= {f"{last['frames']:,}", f"{last['frames']}", *(f"{r:.1f}" for r in returns)}
    assert [n for n in numbers if re.search(rf"(?<![\d.,:]){re.escape(n)}(?![\d,])", text)] == []


@pytest.mark.parametrize(("preset", "seeds"), [("masked-cartpole", 10), ("pixel-cartpole", 5)])
def test_the_committed_presets_are_recorded_and_solved(preset, seeds):
    runs = recorded_runs(preset)
    assert [run["seed"] for run in runs] == list(range(seeds))
    for run in runs:
        assert Config.from_dict(run["config"]) == Config.preset(preset, seed=run["seed"])
        assert run["manifest"]["seed"] == run["seed"] and "dirty" not in run["manifest"]["commit"]
        assert len(run["final"]["returns"]) == 100 and mean_return(run["final"]) >= 475
        assert run["evaluations"][-1]["frames"] <= run["config"]["train"]["total_frames"] <= 100_000


def test_the_pixel_preset_was_recorded_again_and_one_seed_was_not_solved():
    runs, before = recorded_runs("pixel-cartpole-again"), recorded_runs("pixel-cartpole")
    assert [run["seed"] for run in runs] == [0, 1, 2, 3, 4]
    for run in runs:
        assert Config.from_dict(run["config"]) == Config.preset("pixel-cartpole", seed=run["seed"])
    assert sum(run["final"] is None for run in runs) == 1
    frames = [run["evaluations"][-1]["frames"] for run in before]
    again = [run["evaluations"][-1]["frames"] for run in runs if run["final"]]
    assert again.count(min(frames)) == 2 and sum(count > max(frames) for count in again) == 2


@pytest.mark.parametrize(
    "name, seeds, frames",
    [
        ("masked-cartpole/none", 10, 100_000),
        ("masked-cartpole/four", 10, 100_000),
        ("pixel-cartpole/none", 3, 60_000),
    ],
)
def test_agents_without_memory_do_what_chapter_1_says_of_them(name, seeds, frames):
    """With one observation the pole falls within a second, 50 steps; with four every seed solves the task."""
    runs = recorded_runs(f"memory/{name}")
    assert [run["seed"] for run in runs] == list(range(seeds))
    for run in runs:
        assert run["config"]["policy"]["cell"] == "none"
        last = run["evaluations"][-1]
        if name.endswith("four"):
            assert run["final"] is not None and mean_return(run["final"]) >= 475
        else:
            collection = run["config"]["train"]["frames_per_batch"]
            assert run["final"] is None and frames - collection < last["frames"] <= frames
            assert mean_return(last) < 50


def test_five_seeds_cannot_tell_the_ages_of_the_weights_apart():
    """By the test of Kruskal and Wallis, which compares ranks."""
    groups = []
    for lag in (0, 1, 4, 16):
        runs = recorded_runs(f"staleness/{lag}")
        assert [run["seed"] for run in runs] == [0, 1, 2, 3, 4]
        scale = {"actors": 1, "pipeline": lag} if lag else {}
        for run in runs:
            expected = Config.preset("masked-cartpole", seed=run["seed"]).replace(scale=scale)
            assert Config.from_dict(run["config"]) == expected
        groups.append([run["evaluations"][-1]["frames"] for run in runs])
    assert stats.kruskal(*groups).pvalue > 0.05


def test_old_weights_add_a_third_to_the_error_of_a_stored_state_and_burn_in_removes_most_of_it():
    errors = json.loads((RESULTS / "starts.json").read_text())["errors"]
    stored, burnt_in = ({lag: each[f"stored {n}"][0] for lag, each in errors.items()} for n in (0, 10))
    assert 1.25 < stored["16"] / stored["0"] < 1.4
    assert all(burnt_in[lag] < 0.25 * stored[lag] for lag in ("0", "1", "4", "16"))


def test_recorded_weights_give_the_recorded_returns():
    """The confirmation again, from the weights: the same episodes, but for rounding in another PyTorch."""
    run = recorded_runs("masked-cartpole")[0]
    saved = load_checkpoint(run["path"])
    again = evaluate(saved.policy, saved.cfg.env, episodes=100, seed=saved.cfg.train.total_frames)
    assert again.mean == pytest.approx(mean_return(run["final"]), rel=0.02)


def test_what_is_not_recorded_is_said_in_one_line(tmp_path):
    with pytest.raises(UserError, match="no recorded run of 'masked-cartpole' in .*: clone the repository"):
        recorded_runs("masked-cartpole", tmp_path)
    with pytest.raises(UserError, match="no recorded benchmarks in .*: clone the repository, or run 'make b"):
        recorded_benchmarks(tmp_path)


def a_run(evaluations, final=None, seed=0):
    """A run from ``frames: return`` pairs; it takes 0.06 seconds a frame, so 1,000 frames are a minute."""
    made = [{"frames": f, "seconds": f * 0.06, "returns": [r - 1, r + 1]} for f, r in evaluations.items()]
    return {"seed": seed, "evaluations": made, "final": final and {"returns": [final] * 3}}


def test_a_curve_worked_out_by_hand():
    """Five seeds, of which the middle three count; one was solved early and one was evaluated elsewhere."""
    runs = [
        a_run({1000: 10, 2000: 480}, final=490),
        a_run({1000: 20, 2000: 30, 3000: 40}),
        a_run({1000: 30, 2000: 60, 3000: 20}),
        a_run({1000: 40, 2500: 50, 3000: 90}),
        a_run({1000: 500, 2000: 100, 3000: 476}, final=480),
    ]
    curve = learning_curve(runs)
    assert curve.x.tolist() == [1000, 2000, 2500, 3000]
    assert curve.iqm.tolist() == pytest.approx(
        [
            (20 + 30 + 40) / 3,
            (40 + 60 + 100)
            / 3,  # 490 at the top, from its confirmation; 30 at the bottom; the fourth still 40
            (50 + 60 + 100) / 3,
            (40 + 90 + 480) / 3,  # 490 carried on, 20
        ]
    )
    assert (curve.seeds, curve.solved) == (5, 2)
    longer = learning_curve(runs, end=9000)
    assert longer.x.tolist() == [*curve.x, 9000]
    assert longer.iqm.tolist() == [*curve.iqm, curve.iqm[-1]]
    minutes = learning_curve(runs, "minutes")
    assert minutes.x.tolist() == pytest.approx([1, 2, 2.5, 3])
    assert minutes.iqm.tolist() == curve.iqm.tolist()


def test_a_curve_begins_where_every_seed_was_evaluated():
    curve = learning_curve([a_run({1000: 10, 2000: 20}), a_run({1500: 30, 2000: 40})])
    assert curve.x.tolist() == [1500, 2000]
    assert curve.iqm.tolist() == [(10 + 30) / 2, (20 + 40) / 2]  # too few to trim


def test_eight_seeds_leave_out_two_on_either_side():
    curve = learning_curve([a_run({1000: value}) for value in (500, 1, 9, 100, 20, 30, 2, 400)])
    assert curve.iqm.tolist() == [(9 + 20 + 30 + 100) / 4]


def test_the_interval_is_the_bootstrap_of_whole_runs():
    """The same seeds resampled by hand: sort, leave out a quarter on either side, take the mean."""
    values = np.random.default_rng(3).uniform(0, 500, (5, 4)).round(2)
    runs = [a_run(dict(zip((1000, 2000, 3000, 4000), row.tolist(), strict=True))) for row in values]
    curve = learning_curve(runs)
    drawn = np.random.default_rng(0).integers(0, 5, (RESAMPLES, 5))
    resampled = np.sort(values[drawn], axis=1)[:, 1:-1].mean(1)  # [resamples, points]
    low, high = np.percentile(resampled, [2.5, 97.5], axis=0)
    np.testing.assert_allclose(curve.low, low)
    np.testing.assert_allclose(curve.high, high)


returns = st.floats(1, 500, allow_nan=False).map(lambda x: round(x, 1))


@settings(deadline=None, max_examples=25)
@given(st.lists(st.tuples(returns, returns), min_size=2, max_size=8), st.randoms())
def test_what_every_curve_obeys(pairs, random):
    runs = [a_run({1000: first, 2000: second}) for first, second in pairs]
    curve = learning_curve(runs)
    lowest, highest = np.min(pairs, axis=0), np.max(pairs, axis=0)
    slack = 1e-9
    assert (lowest - slack <= curve.low).all() and (curve.high <= highest + slack).all()
    assert (curve.low <= curve.iqm + slack).all() and (curve.iqm <= curve.high + slack).all()
    random.shuffle(runs)
    assert learning_curve(runs).iqm.tolist() == pytest.approx(curve.iqm.tolist())
    moved = learning_curve([a_run({1000: a + 7, 2000: b + 7}) for a, b in pairs])
    np.testing.assert_allclose(moved.low, curve.low + 7)
    np.testing.assert_allclose(moved.high, curve.high + 7)


def test_one_seed_has_no_interval():
    curve = learning_curve([a_run({1000: 10, 2000: 20})])
    assert curve.iqm.tolist() == [10, 20] and curve.seeds == 1
    assert curve.low is None and curve.high is None


def test_an_axis_that_does_not_exist():
    with pytest.raises(ValueError, match="axis='hours': choose one of 'frames', 'minutes'"):
        learning_curve([a_run({1000: 10})], "hours")


def record(folder, preset, runs):
    for seed, run in enumerate(runs):
        path = folder / preset / f"seed-{seed}"
        path.mkdir(parents=True)
        metrics = {key: run[key] for key in ("evaluations", "final")}
        for name, content in [("config", {}), ("metrics", metrics), ("manifest", {"seed": seed})]:
            (path / f"{name}.json").write_text(json.dumps(content))


SOLVED = [a_run({1000: 10, frames: 480}, final=frames / 1000 + 470) for frames in (9000, 3000, 5000)]
FAILED = a_run({1000: 10, 60_000: 301})


def test_tables_worked_out_by_hand(tmp_path):
    """A failed run stays in both tables; a median that lies between solved and failed is unsolved."""
    record(tmp_path, "masked-cartpole", [FAILED, SOLVED[0]])
    record(tmp_path, "pixel-cartpole", [FAILED, *SOLVED[:2]])
    assert summary_table(tmp_path).splitlines()[2:] == [
        "| masked-cartpole | 1 of 2 seeds | frames until solved | unsolved | unsolved | 9,000 |",
        "| | | seconds until solved | unsolved | unsolved | 540 |",
        "| | | final mean return | 390.0 | 301.0 | 479.0 |",
        "| pixel-cartpole | 2 of 3 seeds | frames until solved | 9,000 | unsolved | 3,000 |",
        "| | | seconds until solved | 540 | unsolved | 180 |",
        "| | | final mean return | 473.0 | 301.0 | 479.0 |",
    ]
    assert results_table(tmp_path).splitlines()[2:4] == [
        "| masked-cartpole | 0 | 60,000 | 3,600 | 301.0 | – | no |",
        "| masked-cartpole | 1 | 9,000 | 540 | 480.0 | 479.0, 3 episodes | yes |",
    ]


def test_writing_the_tables_changes_nothing_else(tmp_path):
    for preset in CARTPOLES:
        record(tmp_path / "results", preset, SOLVED)
    readme = tmp_path / "README.md"
    readme.write_text(
        "a\n<!-- summary -->\nold\n<!-- /summary -->\nb\n<!-- results --><!-- /results -->\nc\n"
    )
    summary, results = summary_table(tmp_path / "results"), results_table(tmp_path / "results")
    for _ in range(2):
        write_tables(readme, {"results": results, "summary": summary})
        assert readme.read_text() == (
            f"a\n<!-- summary -->\n{summary}\n<!-- /summary -->\nb\n"
            f"<!-- results -->\n{results}\n<!-- /results -->\nc\n"
        )
    readme.write_text("<!-- results --><!-- /results -->")
    with pytest.raises(UserError, match="needs the lines <!-- summary --> and <!-- /summary -->"):
        write_tables(readme, {"results": results, "summary": summary})


def test_the_curves_file_repeats_and_knows_its_runs(tmp_path):
    for preset in CARTPOLES:
        record(tmp_path / "one", preset, SOLVED)
        record(tmp_path / "two", preset, [FAILED])
    files = [tmp_path / name for name in ("a.svg", "b.svg", "c.svg")]
    for file, folder in zip(files, ("one", "one", "two"), strict=True):
        write_curves(file, tmp_path / folder)
    first, again, other = (file.read_text() for file in files)
    assert first == again
    assert f"recorded runs {fingerprint(recorded_presets(tmp_path / 'two'))}<" in other
    assert f"recorded runs {fingerprint(recorded_presets(tmp_path / 'one'))}<" in first
    assert fingerprint(recorded_presets(tmp_path / "one")) not in other
    plt.close("all")


def test_the_table_of_benchmarks():
    row = {"what": "loop", "ours": 7.788, "other": 3.816, "against": "plain", "unit": "s", "ratio": 2.0414}
    alone = {"what": "bytes", "ours": 8509.4, "other": None, "against": "", "unit": "bytes", "ratio": None}
    rows = {"fast": row | {"must": "at most 1.15", "met": False}, "few": alone | {"must": "few", "met": True}}
    assert bench_table(rows).splitlines()[2:] == [
        "| fast | loop | 7.79 s | plain: 3.82 s | 2.04 | at most 1.15 | no |",
        "| few | bytes | 8,509 bytes | – | – | few | yes |",
    ]
