"""The price list of bugs: worked out by hand, drawn, and as the field guide tells it."""

import json
import math
import re
import statistics

import matplotlib.pyplot as plt
import pytest

from benchmarks.bugs import FRAMES, PLANTED
from recdqn import Config
from recdqn.book import plots
from recdqn.book.prices import (
    ONE_STEP,
    RIGHT,
    TASKS,
    Price,
    costing,
    frames_to_solved,
    free,
    interval,
    price_line,
    price_table,
    recorded_prices,
    wiped,
)
from recdqn.book.recorded import RESULTS, recorded_runs
from recdqn.doctor import BUGS
from recdqn.errors import UserError

GUIDE = RESULTS.parent / "book" / "field-guide.ipynb"


def run(frames, final=None, last=20.0):
    """A run that was solved with a mean return of ``final``, or ended with ``last``."""
    solved = None if final is None else {"returns": [final - 1, final + 1]}
    return {"evaluations": [{"frames": 100, "returns": [0.0]}, {"frames": frames, "returns": [last]}],
            "final": solved}  # fmt: skip


RIGHT_RUNS = [run(frames, 490.0) for frames in range(1000, 11_000, 1000)]


@pytest.mark.parametrize(
    ("wrong", "kind"),
    [
        ([run(32_000)] * 5, "returns"),
        ([run(12_000, 480.0)] * 5, "time"),
        ([run(12_000, 480.0)] * 4 + [run(32_000)], "returns"),
        ([run(frames, 480.0) for frames in (1500, 3500, 5500, 7500, 9500)], "nothing"),
        ([run(1_000, 500.0)] * 5, "nothing"),  # better
        ([run(32_000)], "nothing"),  # one seed could be chance
    ],
)
def test_a_price_is_told_from_chance(wrong, kind):
    assert Price(wrong, RIGHT_RUNS).kind == kind


def test_unsolved_runs_are_compared_by_their_returns():
    low, high = (
        [run(32_000, last=r) for r in (20, 25, 30, 22)],
        [run(32_000, last=r) for r in range(100, 110)],
    )
    assert Price(low, high).kind == "returns" and Price(high, low).kind == "nothing"


def test_the_interval_and_the_frames():
    assert interval([run(1, 5.0)] * 3) == (5, 5)
    low, high = interval([run(1, 1.0), run(1, 2.0), run(1, 6.0)])
    assert (low, high) == (1, 6)  # of three seeds, all resamples of the ends are among 2.5 %
    assert frames_to_solved([run(300, 1.0), run(100, 1.0), run(900)]) == 300
    assert frames_to_solved([run(300, 1.0), run(900), run(900)]) == math.inf


def record(folder, name, runs, wipe=None):
    for seed, one in enumerate(runs):
        path = folder / name / f"seed-{seed}"
        path.mkdir(parents=True)
        for file, content in [("metrics", one), ("manifest", {"seed": seed})]:
            (path / f"{file}.json").write_text(json.dumps(content))
        if wipe is not None:
            (path / "wiped.json").write_text(json.dumps([wipe, wipe + 2 * seed]))


@pytest.fixture
def prices(tmp_path):
    for task, name in RIGHT.items():
        record(tmp_path, name, RIGHT_RUNS)
        record(tmp_path, f"bugs/{task}/{ONE_STEP}", [run(12_000, 470.0)] * 10)
        record(tmp_path, f"bugs/{task}/no-primer", [run(32_000)] * 5, wipe=7.0)
        record(tmp_path, f"bugs/{task}/target-leak", [run(12_000, 480.0)] * 4)
        record(tmp_path, f"bugs/{task}/state-lost", [run(12_000, 480.0)] * 2)  # too few seeds
    return recorded_prices(tmp_path)


def test_bugs_are_compared_with_their_own_right_side(prices):
    assert list(prices) == ["no-primer", "target-leak"]  # the worst first; one-step is no bug
    assert costing(prices, "corridor-10", "returns") == ["no-primer"]
    assert free(prices) == ["target-leak"]  # as late as with one-step targets
    assert wiped(prices["no-primer"]["corridor-10"]) == statistics.mean([7, 8, 9, 10, 11])
    assert wiped(prices["target-leak"]["corridor-10"]) is None
    assert price_table(prices).splitlines()[2:] == [
        "| [no-primer](#no-primer) | 20 (20 to 20) | 0 of 5 | – | 20.00 (20.00 to 20.00) | 0 of 5 | – |",
        "| [target-leak](#target-leak) | 480 (480 to 480) | 4 of 4 | 12,000 "
        "| 480.00 (480.00 to 480.00) | 4 of 4 | 12,000 |",
    ]
    assert price_line(prices["no-primer"]) == (
        "masked CartPole 20 (right 490), 0 of 5 solved (right 10 of 10); "
        "corridor of 10 steps 20.00 (right 490.00), 0 of 5 solved (right 10 of 10)"
    )


def test_without_records(tmp_path):
    with pytest.raises(
        UserError, match="no recorded bugs in .*: clone the repository, or run 'make results'"
    ):
        recorded_prices(tmp_path)


def test_the_figure_shows_the_prices(prices):
    figure = plots.price_of_bugs(prices)
    for ax in figure.axes:
        (worst,) = [line for line in ax.lines if line.get_marker() == "X" and len(line.get_xdata())]
        assert worst.get_xydata().tolist() == [[20, 0]]
        right = [line.get_xydata().tolist() for line in ax.lines if line.get_marker() == "|"]
        assert [[490, 0]] in right and [[470, 1]] in right
        diamonds = [line.get_xydata().tolist() for line in ax.lines if line.get_marker() == "D"]
        assert [[9, 0]] in diamonds
        assert [text.get_text() for text in ax.texts] == ["0/5", "4/4, 12,000"]
    plt.close("all")


# --- the recorded runs ----------------------------------------------------------------------------------


def test_every_recorded_run_has_its_bug_and_is_finished():
    for task in TASKS:
        for name in recorded_prices().keys() | {ONE_STEP}:
            bug = PLANTED[name]
            right = Config.preset(task).replace(**bug.settings)
            every = right.train.eval_every * right.train.frames_per_batch
            runs = recorded_runs(f"bugs/{task}/{name}")
            assert [run["seed"] for run in runs] == list(range(len(runs)))
            for run in runs:
                assert run["config"]["env"]["id"] == str(right.env.id)
                for part, settings in bug.settings.items():
                    saved = run["config"][part]  # of an older version, which had fewer settings
                    assert all(saved.get(key, value) == value for key, value in settings.items())
                assert run["final"] or run["evaluations"][-1]["frames"] > FRAMES - every
                assert not run["manifest"]["commit"].endswith("dirty")


def test_the_slowest_right_run_needs_less_than_the_limit():
    for price in recorded_prices().values():
        assert all(
            r["evaluations"][-1]["frames"] < FRAMES for r in price["masked-cartpole"].right if r["final"]
        )


def text_of(cell):
    """The text of a cell of the field guide."""
    cells = json.loads(GUIDE.read_text(encoding="utf-8"))["cells"]
    return "".join(next(c["source"] for c in cells if c["id"] == cell))


def test_the_field_guide_names_every_bug_of_the_list():
    for name in recorded_prices().keys() - BUGS.keys():
        assert f"- *{name}*: " in text_of("price-why")


def test_what_the_field_guide_says_of_the_list():
    prices = recorded_prices()
    late, primer = prices["reward-late"], prices["no-primer"]
    assert late["masked-cartpole"].kind != "returns" and late["corridor-10"].kind == "returns"
    assert all(run["final"] for run in primer["corridor-10"].wrong)
    assert abs(wiped(primer["corridor-10"])) < 0.25
    explained = text_of("price-explained")
    if "forgive" in explained:
        for name in ("state-lost", "state-overwritten", "exploration-frozen"):
            assert prices[name]["corridor-10"].kind == "nothing"
    named = set(re.findall(r"`([a-z-]+)`", explained)) & BUGS.keys()
    assert named <= prices.keys() | BUGS.keys() - PLANTED.keys()
