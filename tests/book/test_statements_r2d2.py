"""What the chapter on R2D2 says, against the recorded runs and the tests that it names."""

import json
import re
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

from benchmarks.r2d2 import ALONE, SEEDS, agent, pieces
from recdqn import Config
from recdqn.book import ablation
from recdqn.book.plots import piece_worth
from recdqn.book.recorded import RESULTS, recorded_runs
from recdqn.fields import dotted

ROOT = Path(__file__).parents[2]
CHAPTER = ROOT / "book" / "chapters" / "08-r2d2.ipynb"
RECORDED = [
    (task, piece)
    for task in (*SEEDS, *ALONE)
    for piece in pieces(task)
    if (RESULTS / "r2d2" / task / piece).is_dir()
]


@pytest.mark.parametrize("task, piece", RECORDED)
def test_recorded_runs_have_the_settings_of_the_grid(task, piece):
    for run in recorded_runs(f"r2d2/{task}/{piece}"):
        assert Config.from_dict(run["config"]) == agent(task, piece, run["seed"])


def test_the_complete_agent_solves_the_corridor_and_sequences_without_the_clue_do_not():
    found = ablation.recorded_pieces("corridor-100")
    complete, plain, cut = (found[name] for name in ("complete", ablation.PLAIN, "whole-episodes"))
    assert all(run["final"] and ablation.frames(run) <= 80_000 for run in complete + plain)
    assert ablation.mean_interval(complete)[0] < 2 * ablation.mean_interval(plain)[0]
    assert ablation.mean_interval(cut)[0] > 2 * ablation.mean_interval(complete)[0]
    assert sum(run["final"] is not None for run in cut) < len(cut) / 2


def test_every_length_of_the_corridor_is_solved_with_ever_fewer_episodes():
    steps = (30, 100, 300, 1_000)
    found = {n: recorded_runs(f"r2d2/corridor-{n}/complete") for n in steps}
    plain = {n: recorded_runs(f"memory/corridor-{n}/lstm") for n in steps}
    assert all(run["final"] for runs in (*found.values(), *plain.values()) for run in runs)
    assert len(found[300]) == 5 and all(ablation.frames(run) <= 200_000 for run in found[300])
    frames = {n: ablation.mean_interval(runs)[0] for n, runs in found.items()}
    episodes = [frames[n] / (n + 1) for n in steps]
    assert 9 < frames[1_000] / frames[30] < 10 and episodes == sorted(episodes, reverse=True)
    assert 0.25 < episodes[-1] / episodes[0] < 0.34
    verdicts = {n: ablation.verdict(found[n], plain[n]) for n in steps}
    assert verdicts == dict.fromkeys(steps[:3], "no difference seen") | {1_000: "too few runs"}
    assert len(plain[1_000]) == 3
    for n, in_a_batch in {30: 248, 1_000: 8_008}.items():
        cfg = Config.preset(f"r2d2-corridor-{n}")
        assert (cfg.train.frames_per_batch, cfg.train.updates, cfg.env.num_envs) == (64, 4, 32)
        assert cfg.replay.whole and cfg.replay.slices * (n + 1) == in_a_batch
        assert 32 * (n + 1) // 16 == {30: 62, 1_000: 2_002}[n]


def test_slices_gates_discount_and_once_the_buffer_grow_with_the_corridor_and_nothing_else():
    shortest, *longer = (dotted(Config.preset(f"r2d2-corridor-{n}")) for n in (30, 100, 300, 1_000))
    grown = {"replay.slice_len", "policy.memory_span", "loss.gamma"}
    budget = {"name", "env.id", "train.total_frames", "train.eval_every"}
    assert shortest["scale.ladder"]  # so that nothing reads the schedule of epsilon
    unused = {"policy.eps_frames"}
    for cfg in longer:
        changed = {name for name in cfg if cfg[name] != shortest[name]} - budget - unused
        assert changed - {"replay.capacity"} == grown and all(cfg[name] > shortest[name] for name in changed)
        assert ("replay.capacity" in changed) == (cfg is longer[-1])


def test_in_the_longest_corridor_the_loss_waits_for_the_rewards():
    arrival, runs = 32 * 1_001, recorded_runs("r2d2/corridor-1000/complete")
    for run in runs:
        losses = {each["frames"]: each["loss"] for each in run["evaluations"]}
        before, after = (loss for frames, loss in losses.items() if abs(frames - arrival) < 5_120)
        assert before < 1e-6 and after > 1_000 * before
        assert ablation.frames(run) > 2 * arrival
    counts = [ablation.frames(run) for run in runs]
    assert len(runs) == 5 and max(map(counts.count, counts)) == 3


@pytest.mark.parametrize("task", ["corridor-30", "corridor-100"])
def test_the_ladder_helps_in_company_of_the_other_pieces_and_the_plain_preset_needs_none(task):
    found = ablation.recorded_pieces(task)
    assert ablation.verdict(found["complete"], found["ladder"]) == "helps"
    assert (
        ablation.mean_interval(found[ablation.PLAIN])[0] < 1.1 * ablation.mean_interval(found["complete"])[0]
    )
    assert not agent(task, "ladder").scale.ladder and not Config.preset(task).scale.ladder


@pytest.mark.parametrize("task", ["t-maze-10", "masked-cartpole"])
def test_five_seeds_of_other_tasks_tell_nothing_apart(task):
    found = ablation.recorded_pieces(task)
    pieces = {name: runs for name, runs in found.items() if name != ablation.PLAIN}
    assert {len(runs) for runs in pieces.values()} == {5}
    assert all(ablation.verdict(found["complete"], runs) == "no difference seen" for runs in pieces.values())
    means = [ablation.mean_interval(runs)[0] for runs in pieces.values()]
    assert 3.5 < max(means) / min(means) < 4.5
    counts = [ablation.frames(run) for run in found["complete"]]
    assert max(counts) / min(counts) > 8
    unsolved = {name for name, runs in pieces.items() if not all(run["final"] for run in runs)}
    assert unsolved == ({"n-step"} if task == "masked-cartpole" else set())


def test_five_seeds_of_minigrid_take_back_what_four_said():
    found = ablation.recorded_pieces("minigrid-memory-s7")
    complete, plain = found.pop("complete"), found.pop(ablation.PLAIN)
    assert {len(runs) for runs in (complete, plain, *found.values())} == {5}
    assert all(run["final"] for runs in (complete, plain, *found.values()) for run in runs)
    after = {name: {ablation.verdict(complete[:n], runs[:n]) for n in (4, 5)} for name, runs in found.items()}
    assert ablation.verdict(complete[:4], found["dueling"][:4]) == "harms"
    assert after.pop("dueling") == {"harms", "no difference seen"}
    assert set.union(*after.values()) == {"no difference seen"}
    steps = sorted(map(ablation.frames, complete))
    fifth = found["dueling"][4]
    assert fifth["seed"] == 4 and ablation.frames(fifth) == 61_440 and sum(n < 61_440 for n in steps) == 3
    one_step = sorted(map(ablation.frames, found["n-step"]))
    assert (one_step[0], one_step[-1]) == (35_840, 235_520) and one_step[1] < steps[0] < one_step[2]
    means = {name: ablation.mean_interval(runs)[0] for name, runs in found.items()}
    assert max(means, key=lambda name: abs(means[name] - sum(steps) / 5)) == "n-step"
    assert ablation.verdict(complete, plain) == "harms"
    assert [round(ablation.mean_interval(runs)[0], -3) for runs in (plain, complete)] == [42_000, 65_000]


def test_only_in_flickering_cartpole_the_agent_needs_its_previous_action_and_reward():
    tasks = {task: ablation.recorded_pieces(task) for task in ablation.TASKS}
    words = {task: ablation.verdict(found["complete"], found["previous"]) for task, found in tasks.items()}
    found = tasks["flickering-cartpole"]
    assert words.pop("flickering-cartpole") == "helps" and set(words.values()) == {"no difference seen"}
    assert len(words) == 5 and {len(runs) for runs in found.values()} == {5}
    hidden = found.pop("previous")
    assert {ablation.frames(run) for run in hidden} == {200_000} and not any(run["final"] for run in hidden)
    assert all(run["final"] for runs in found.values() for run in runs)
    complete = found.pop("complete")
    del found[ablation.PLAIN]
    assert {ablation.verdict(complete, runs) for runs in found.values()} == {"no difference seen"}


@pytest.mark.parametrize("task", [*SEEDS, *ALONE])
def test_each_agent_lacks_one_piece(task):
    complete = agent(task, "complete")
    assert complete == Config.preset(f"r2d2-{task}")
    others = [agent(task, piece) for piece in pieces(task) if piece != "complete"]
    assert all(other != complete for other in others) and len(set(map(str, others))) == len(others)
    assert set(pieces(task)) <= set(ablation.LABELS) | set(ablation.NO_LADDER)


def test_without_the_ladder_the_agent_is_sooner_only_if_two_more_pieces_are_left_out():
    agents = {name: recorded_runs(f"r2d2/corridor-100/{name}") for name in ("complete", *ablation.NO_LADDER)}
    rows = {label: cells for label, *cells in ablation.without_ladder(agents)}
    *_, two = ablation.NO_LADDER.values()
    assert list(rows) == list(ablation.NO_LADDER.values())
    assert all(len(agents[name]) >= 8 for name in agents)
    assert {label for label, cells in rows.items() if cells[-1] == "sooner"} == {two}
    later = {label for label, cells in rows.items() if cells[-2] == "later"}
    left = {ablation.NO_LADDER[f"ladder-and-{piece}"] for piece in ("target-copies", "rescaling")}
    assert later == rows.keys() - left - {two}
    means = {name: ablation.mean_interval(agents[name])[0] for name in agents}
    assert means[ablation.BOTH] < 1.1 * means["complete"]
    assert all(29_000 < means[name] < 42_000 for name in ablation.NO_LADDER if name != ablation.BOTH)


def test_every_test_that_the_chapter_names_exists():
    cells = json.loads(CHAPTER.read_text(encoding="utf-8"))["cells"]
    text = "".join("".join(cell["source"]) for cell in cells if cell["id"] == "checklist-md")
    rows = re.findall(r"(?m)^\|.*`(test_\w+)`.*\|$", text)
    assert len(rows) >= 13
    for line in text.splitlines():
        named = re.findall(r"`(test_\w+)`(?: in `([\w/.]+)`)?", line)
        for name, file in named:
            source = ROOT / "tests" / "package" / (file or "test_r2d2.py")
            assert f"def {name}(" in source.read_text(encoding="utf-8"), name


def runs(frames, solved=True):
    row = {"frames": frames, "returns": [1.0 if solved else 0.0]}
    return {"evaluations": [row], "final": row if solved else None}


def test_a_piece_helps_if_the_agent_without_it_is_later_or_fails():
    early, late = [runs(n * 1_000) for n in range(10, 20)], [runs(n * 1_000) for n in range(20, 30)]
    failed = [runs(5_000, solved=False)] * 10
    assert ablation.verdict(early, late) == ablation.verdict(late, failed) == "helps"
    assert ablation.verdict(late, early) == ablation.verdict(failed, late) == "harms"
    assert ablation.verdict(early, early[::-1]) == "no difference seen"
    assert ablation.verdict(early, failed[:3]) == "too few runs"
    mean, low, high = ablation.mean_interval(early)
    assert mean == 14_500 and low == pytest.approx(12_700, abs=300) and high == pytest.approx(16_300, abs=300)


def test_the_table_without_the_ladder_says_later_and_sooner():
    early, late = [runs(n * 1_000) for n in range(10, 20)], [runs(n * 1_000) for n in range(20, 30)]
    agents = {name: late for name in ablation.NO_LADDER} | {"complete": early, ablation.BOTH: early[1:]}
    rows = ablation.without_ladder(agents)
    assert rows[0] == ("one schedule of epsilon", "10", "24,500", "later", "–")
    assert rows[1] == ("… and no previous action and reward", "10", "24,500", "later", "no difference seen")
    assert rows[-1][1:] == ("9", "15,000", "no difference seen", "sooner")


def test_the_overview_names_effects_failures_and_what_is_missing():
    early, late = [runs(n * 1_000) for n in range(10, 20)], [runs(n * 1_000) for n in range(20, 30)]
    found = {
        "one": {"complete": early, "double": late, "dueling": early[::-1], "priority": late[:3]},
        "two": {"complete": late, "double": [*late[:9], runs(99_000, solved=False)]},
    }
    assert ablation.overview(found) == [
        ("complete agent", "14,500", "24,500"),
        ("no priorities", "21,000, too few runs", "–"),
        ("no double Q-learning", "24,500, helps", "31,500, 9 of 10"),
        ("one head", "14,500", "–"),
    ]


@pytest.mark.parametrize("missing", [True, False])
def test_the_figure_copes_with_runs_that_are_not_recorded(missing, monkeypatch, tmp_path):
    if missing:
        monkeypatch.setattr(ablation, "RESULTS", tmp_path)
    found = {task: ablation.recorded_pieces(task) for task in ablation.TASKS}
    figure = piece_worth(found)
    shown = [agents for agents in found.values() if agents]
    assert missing <= (not shown)
    assert sum(bool(ax.get_title()) for ax in figure.axes) == len(shown)
    for ax, agents in zip(figure.axes, shown, strict=False):
        assert [tick.get_text() for tick in ax.get_yticklabels()] == [
            ablation.LABELS[name] for name in agents
        ]
    plt.close(figure)
