"""What the chapter on memory says, against the recorded runs."""

import json
import statistics
from pathlib import Path

import pytest
from scipy import stats

from benchmarks.memory import AGENTS, CHOICES, LONG, SEEDS, WIPED, agent
from benchmarks.ppo import TASKS as PPO_TASKS
from recdqn import Config
from recdqn.book.recorded import RESULTS, recorded_runs
from recdqn.curves import final_return

BOOK = Path(__file__).parents[2] / "book"
# Tasks in which all agents are recorded.
TWINS = (
    "masked-cartpole",
    "flickering-cartpole",
    "corridor-10",
    "corridor-30",
    "copy",
    "repeat-previous",
    "minigrid-memory-s7",
)
LENGTHS = ("corridor-10", "corridor-30", "corridor-100", "corridor-300")


def runs_of(task, name):
    return recorded_runs(task if (task, name) == ("masked-cartpole", "lstm") else f"memory/{task}/{name}")


def frames(runs):
    return [run["evaluations"][-1]["frames"] for run in runs]


def mean(runs):
    return statistics.mean(map(final_return, runs))


def recorded(task):
    return {name: runs_of(task, name) for name in AGENTS if (RESULTS / "memory" / task / name).is_dir()}


@pytest.mark.parametrize("task", [task for task in SEEDS if (RESULTS / "memory" / task).is_dir()])
def test_recorded_runs_have_the_settings_of_the_grid(task):
    for name, runs in recorded(task).items():
        for run in runs:
            assert Config.from_dict(run["config"]) == agent(task, name, run["seed"])


@pytest.mark.parametrize("task", ["corridor-10", "corridor-30", *LONG])
def test_all_seeds_of_the_long_tasks_are_solved(task):
    runs = runs_of(task, "lstm")
    assert len(runs) == SEEDS[task] and all(run["final"] for run in runs)
    budget = {"corridor-10": 30_000, "corridor-30": 60_000, "corridor-100": 100_000, "corridor-300": 250_000}
    budget["t-maze-100"] = 1_000_000
    assert max(frames(runs)) <= budget.get(task, 200_000)


def test_frames_grow_more_slowly_than_the_corridor():
    medians = {task: statistics.median(frames(runs_of(task, "lstm"))) for task in LENGTHS}
    assert medians["corridor-300"] < 10 * medians["corridor-10"] and sorted(medians.values()) == [
        *medians.values()
    ]
    assert statistics.median(frames(runs_of("t-maze-10", "lstm"))) > medians["corridor-100"]
    assert "t-maze-10" in LONG


def test_agents_without_memory_fail_in_the_tasks_and_not_in_their_twins():
    for task in TWINS:
        found = recorded(task)
        assert mean(found["none"]) < 0.6 * Config.preset(task).train.solved_return
        assert not any(run["final"] for run in found["none"])
        for name in ("shown", "shown-lstm", "gru", "lstm"):
            runs = runs_of(task, name)
            assert len(runs) == SEEDS[task] and all(run["final"] for run in runs)
    for task in ("corridor-10", "corridor-30", "copy"):
        assert abs(mean(recorded(task)["four"]) - mean(recorded(task)["none"])) < 0.15


def test_four_observations_are_enough_where_the_clue_is_near():
    for task in ("masked-cartpole", "repeat-previous", "minigrid-memory-s7"):
        assert all(run["final"] for run in recorded(task)["four"])
    assert 100 < mean(recorded("flickering-cartpole")["four"]) < 250
    large = recorded("minigrid-memory-s11")
    assert not any(run["final"] for run in large["four"] + large["none"])
    assert sum(run["final"] is not None for run in large["lstm"]) > len(large["lstm"]) / 2
    assert all(final_return(run) > 0.9 for run in large["lstm"])
    assert all(final_return(run) < 0.7 for run in large["four"] + large["none"])


def test_larger_mazes_need_more_frames_and_cards_in_order_are_hard():
    small, large = (frames(runs_of(f"minigrid-memory-s{size}", "lstm")) for size in (7, 13))
    assert 7 < statistics.median(large) / statistics.median(small) < 13
    counting = recorded("count-recall")
    assert all(run["final"] for run in counting["lstm"])
    assert not any(run["final"] for run in counting["none"])
    assert -0.4 < mean(runs_of("autoencode", "lstm")) < 0  # of -0.5, a guess, and 1


def test_recurrent_ppo_solves_the_tasks_with_a_short_memory():
    ppo = {task: recorded_runs(f"memory/{task}/ppo") for task in PPO_TASKS}
    solved = {task: {run["final"] is not None for run in runs} for task, runs in ppo.items()}
    assert solved == {
        "masked-cartpole": {True},
        "corridor-10": {True},
        "corridor-30": {False},
        "copy": {False},
    }
    assert max(frames(ppo["corridor-10"])) <= statistics.median(frames(runs_of("corridor-10", "lstm")))
    without = mean(recorded("copy")["none"])
    assert without + 0.2 < mean(ppo["copy"]) < mean(runs_of("copy", "lstm")) - 0.2


def test_a_wiped_memory_is_worth_nothing():
    for task in (*TWINS, "count-recall", "minigrid-memory-s11"):
        runs = runs_of(task, "lstm")
        wiped = [statistics.mean(json.loads((run["path"] / WIPED).read_text())) for run in runs]
        assert statistics.mean(wiped) < 0.5 * mean(runs)


def test_what_the_settings_change():
    def solved(task, name):
        runs = [run for run in runs_of(task, name) if run["seed"] < 5]
        return [run["evaluations"][-1]["frames"] for run in runs if run["final"]], len(runs)

    preset, _ = solved("corridor-30", "lstm")
    over, of = solved("corridor-30", "slices-over-ends")
    assert len(over) == of and 2 < statistics.median(over) / statistics.median(preset) < 5
    assert solved("corridor-30", "default-gates")[0] == []
    short, of = solved("corridor-30", "slices-of-20")
    assert of / 2 < len(short) < of
    for same in ("span-of-360", "discount-0.9", "discount-0.999", "one-step", "20-steps"):
        found, of = solved("corridor-30", same)
        assert len(found) == of and statistics.median(found) < 2 * statistics.median(preset)
    assert len(solved("copy", "discount-0.99-five-steps")[0]) == 0
    assert statistics.median(solved("copy", "discount-0.99-one-step")[0]) > statistics.median(
        solved("copy", "lstm")[0]
    )
    for name, (task, changes) in CHOICES.items():
        for path in (RESULTS / "memory" / task / name).glob("seed-*"):
            run = json.loads((path / "config.json").read_text())
            assert Config.from_dict(run) == Config.preset(task, run["seed"]).replace(**changes)


def test_the_previous_step_decides_in_flickering_cartpole():
    shown = runs_of("flickering-cartpole", "lstm")
    hidden = runs_of("flickering-cartpole", "no-previous-step")
    assert len(shown) == SEEDS["flickering-cartpole"] and all(run["final"] for run in shown)
    assert len(hidden) >= 3 and not any(run["final"] for run in hidden) and mean(hidden) < 300
    assert all(run["final"] for run in runs_of("flickering-pixels", "lstm"))
    masked = [run for run in recorded_runs("masked-cartpole") if run["seed"] < 5]
    found = runs_of("masked-cartpole", "previous-step")
    assert all(run["final"] for run in found)
    assert stats.mannwhitneyu(frames(found), frames(masked)).pvalue > 0.05


def test_what_a_wrong_start_costs():
    errors = json.loads((RESULTS / "starts.json").read_text())["errors"]["0"]
    first = {name: each[0] for name, each in errors.items()}
    assert 0.5 < first["zero 10"] / first["stored 0"] < 1.5
    assert 5 < first["stored 0"] / first["stored 10"] < 9
    for steps in (0, 5, 10):
        assert 3 < first[f"zero {steps}"] / first[f"stored {steps}"] < 6
    assert all(last < 0.03 for _, last in errors.values())


def test_one_bug_two_prices():
    def final(task, bug):
        return mean(recorded_runs(f"bugs/{task}/{bug}"))

    solved = [run["final"] is not None for run in recorded_runs("bugs/masked-cartpole/no-primer")]
    assert sum(solved) < len(solved) / 2 and final("masked-cartpole", "no-primer") < 250
    assert final("corridor-10", "no-primer") > 0.95
    assert final("masked-cartpole", "reward-late") > 450 and final("corridor-10", "reward-late") < 0


def test_sensitivity_to_the_past():
    """Of the first recorded seeds, as the chapter computes it."""
    cells = json.loads((BOOK / "chapters" / "07-does-memory-matter.ipynb").read_text())["cells"]
    source = {cell["id"]: "".join(cell["source"]) for cell in cells}
    names = {}
    exec(source["opening"].replace("plots.task_pictures();", "") + source["influence-def"], names)
    masked = names["shares"]("masked-cartpole/seed-0", 20)
    whole = names["shares"]("memory/masked-cartpole/shown-lstm/seed-0", 20)
    corridor = names["shares"]("memory/corridor-10/lstm/seed-0", 11)
    assert sum(masked[:5]) > 0.75 and masked[-1] < 0.01
    assert max(whole[5:]) < 2 * min(whole[5:]) and sum(whole[5:]) > 0.4
    assert max(corridor) < 2.5 * min(corridor)
