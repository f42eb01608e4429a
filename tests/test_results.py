"""The recorded runs are what the README and the book say they are."""

import json

import pytest

from recdqn import Config, evaluate, load_checkpoint
from recdqn.config import PRESETS, UserError
from recdqn.results import (
    RESULTS,
    bench_table,
    mean_return,
    recorded_benchmarks,
    recorded_runs,
    results_table,
)

README = RESULTS.parent / "README.md"


def test_readme_shows_the_table_of_the_recorded_runs():
    shown = README.read_text(encoding="utf-8").split("<!-- results -->")[1].split("<!-- /results -->")[0]
    assert shown.strip() == results_table()


@pytest.mark.parametrize("preset", list(PRESETS))
def test_recorded_runs_used_the_committed_preset(preset):
    for run in recorded_runs(preset):
        assert Config.from_dict(run["config"]) == Config.preset(preset, seed=run["seed"])
        assert run["manifest"]["seed"] == run["seed"]
        assert "dirty" not in run["manifest"]["commit"]
        assert run["evaluations"][-1]["frames"] <= run["config"]["train"]["total_frames"]


def test_masked_is_solved_for_every_seed():
    runs = recorded_runs("masked-cartpole")
    assert [run["seed"] for run in runs] == [0, 1, 2, 3, 4]
    for run in runs:
        assert len(run["final"]["returns"]) == 100 and mean_return(run["final"]) >= 475
        assert run["evaluations"][-1]["frames"] <= 60_000


def test_recorded_weights_give_the_recorded_returns():
    """The confirmation again, from the weights: the same episodes, but for rounding in another PyTorch."""
    run = recorded_runs("masked-cartpole")[0]
    saved = load_checkpoint(run["path"])
    again = evaluate(saved.policy, saved.cfg.env, episodes=100, seed=saved.cfg.train.total_frames)
    assert again.mean == pytest.approx(mean_return(run["final"]), rel=0.02)


def test_a_failed_run_stays_in_the_table(tmp_path):
    run = recorded_runs("masked-cartpole")[0]
    for preset in PRESETS:
        folder = tmp_path / preset / "seed-9"
        folder.mkdir(parents=True)
        metrics = {
            "evaluations": [{"frames": 3_200, "seconds": 90.0, "returns": [10.0, 20.0]}],
            "final": None,
        }
        config = run["config"] | {"seed": 9}
        for name, content in [("config", config), ("metrics", metrics), ("manifest", run["manifest"])]:
            (folder / f"{name}.json").write_text(json.dumps(content))
    assert "| masked-cartpole | 9 | 3,200 | 90 | 15.0 | – | no |" in results_table(tmp_path)


def test_no_recorded_run(tmp_path):
    with pytest.raises(UserError, match="no recorded run of 'masked-cartpole' in .*: clone the repository"):
        recorded_runs("masked-cartpole", tmp_path)


def test_the_table_of_benchmarks(tmp_path):
    row = {"what": "loop", "ours": 7.788, "other": 3.816, "against": "plain", "unit": "s", "ratio": 2.0414}
    alone = {"what": "bytes", "ours": 8509.4, "other": None, "against": "", "unit": "bytes", "ratio": None}
    rows = {"fast": row | {"must": "at most 1.15", "met": False}, "few": alone | {"must": "few", "met": True}}
    (tmp_path / "bench.json").write_text(json.dumps(rows))
    assert recorded_benchmarks(tmp_path) == rows
    assert bench_table(tmp_path).splitlines()[2:] == [
        "| fast | loop | 7.79 s | plain: 3.82 s | 2.04 | at most 1.15 | no |",
        "| few | bytes | 8,509 bytes | – | – | few | yes |",
    ]


def test_no_benchmarks_recorded(tmp_path):
    with pytest.raises(UserError, match="no recorded benchmarks in .*: clone the repository, or run 'make b"):
        bench_table(tmp_path)
