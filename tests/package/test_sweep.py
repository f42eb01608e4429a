"""Sweeps: every combination is trained once, whatever happens in between, and ends in one table."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
import torch

import recdqn.sweep
from recdqn import Config, cli, train
from recdqn.errors import ConfigError, UserError
from recdqn.sweep import arguments, combinations, sweep, table


@pytest.fixture
def cfg(tiny):
    return tiny.replace(train={"save_seconds": 0.0})


def weights(out):
    return torch.load(out / "policy.pt", weights_only=True)


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_the_command_line_reads_ranges_and_lists(monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(recdqn.sweep, "sweep", lambda *arguments: seen.append(arguments) or "table")
    line = "sweep masked-cartpole --seed 0..2 --loss.n-steps 1,3 --policy.cell gru --env.visible 0 1 --jobs 2"
    cli.parse([*line.split(), "--out", str(tmp_path)])()
    ((runs, out, jobs, address, _),) = seen
    assert (out, jobs, address) == (tmp_path, 2, None)
    pairs = {(cfg.seed, cfg.loss.n_steps) for cfg in runs.values()}
    assert pairs == {(seed, steps) for seed in (0, 1, 2) for steps in (1, 3)}
    assert {(cfg.policy.cell, cfg.env.visible) for cfg in runs.values()} == {("gru", (0, 1))}
    assert list(runs)[:2] == ["loss.n_steps=1/seed-0", "loss.n_steps=3/seed-0"]


def test_all_is_checked_before_anything_is_trained(cfg):
    with pytest.raises(ConfigError, match="^loss.burn_in=10: expected less than replay.slice_len=10"):
        combinations(cfg, {"loss.burn_in": (0, 10)})


def test_a_run_that_fails_stops_no_other_and_no_run_is_trained_twice(cfg, tmp_path, monkeypatch):
    """A run that ends is that of ``train``."""
    runs, said = combinations(cfg, {"env.id": ("no_such_module:make", "CartPole-v1")}), []
    message = r"^1 of 2 runs failed; env.id=no_such_module:make/seed-0: recdqn: env.id="
    with pytest.raises(UserError, match=message):
        sweep(runs, tmp_path, jobs=2, say=said.append)
    name = "env.id=CartPole-v1/seed-0"
    assert f"{name}: done" in said and len(said) == 2
    assert_same(weights(tmp_path / name), dict(train(cfg, progress=False).policy.state_dict()))
    manifest = json.loads((tmp_path / name / "manifest.json").read_text())
    assert manifest["command"].startswith("recdqn train masked-cartpole --")

    monkeypatch.setattr(recdqn.sweep, "_train", lambda *_: pytest.fail("trained again"))
    text = sweep({name: runs[name]}, tmp_path)
    assert (tmp_path / "sweep.md").read_text() == f"{text}\n"


def test_a_command_gives_any_configuration(monkeypatch):
    """Negative numbers, several entries, booleans, a name that is not a preset's, another environment."""
    corridor = Config.preset("corridor-10")
    trained = []
    monkeypatch.setattr("recdqn.train", lambda cfg, **_: trained.append(cfg))
    monkeypatch.setattr("recdqn.commands._report", lambda *_: None)
    for cfg in (
        Config.preset("pixel-cartpole"),
        Config.preset("masked-cartpole", seed=7).replace(loss={"n_steps": 3}, policy={"eps_end": 1e-5}),
        Config.preset("pixel-cartpole").replace(
            name="my own", env={"loc": (-1.5, 2.0), "visible": (0, 1, 3)}, scale={"ladder": True}
        ),
        # Another environment gets neutral settings, some of which are the preset's here, and others not.
        corridor.replace(env={"id": "recdqn/Corridor10Shown-v0", "previous": True}, train=corridor.train),
        Config.preset("pixel-cartpole").replace(env={"id": "Acrobot-v1", "reward_scale": 0.01}),
    ):
        cli.parse(["train", *arguments(cfg)])()
        assert trained.pop() == cfg
    assert arguments(Config.preset("masked-cartpole", seed=7)) == ["masked-cartpole", "--seed=7"]


@pytest.fixture
def finished(cfg, tmp_path):
    """The files of a sweep over three seeds and two settings, one of which solves the task."""
    runs = combinations(cfg, {"seed": (0, 1, 2), "loss.n_steps": (1, 3)})
    for name, one in runs.items():
        rows = [{"frames": 512 + 8 * one.seed, "returns": [10.0 * one.loss.n_steps]}]
        final = {"returns": [480.0 + one.seed]} if one.loss.n_steps == 3 else None
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "metrics.json").write_text(json.dumps({"evaluations": rows, "final": final}))
    return runs


def test_the_table_has_a_row_for_each_combination(finished, tmp_path):
    assert table(finished, tmp_path).splitlines()[2:] == [
        "| loss.n_steps=1 | 3 | 0 | 10.0 | – | 520 |",
        "| loss.n_steps=3 | 3 | 3 | 481.0 | 480.0 to 482.0 | 520 |",
    ]


def test_the_figure_has_a_curve_for_each_combination(finished, tmp_path, monkeypatch):
    figures = pytest.importorskip("matplotlib.figure")
    save, saved = figures.Figure.savefig, []
    monkeypatch.setattr(
        figures.Figure, "savefig", lambda fig, *args, **more: saved.append(fig) or save(fig, *args, **more)
    )
    sweep(finished, tmp_path)
    assert (tmp_path / "sweep.png").stat().st_size > 10_000
    one, three, solved = saved[0].axes[0].lines
    assert [line.get_ydata()[-1] for line in (one, three, solved)] == [10.0, 481.0, 475.0]
    assert one.get_label() == "loss.n_steps=1\nsolved 0 of 3 seeds"


def test_a_sweep_without_matplotlib_says_so(finished, tmp_path, monkeypatch):
    found, said = importlib.util.find_spec, []
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "matplotlib" else found(name)
    )
    assert sweep(finished, tmp_path, say=said.append) == table(finished, tmp_path)
    assert said == [f"{tmp_path / 'sweep.png'} is not drawn: pip install matplotlib"]
    assert not (tmp_path / "sweep.png").exists()


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
def test_a_sweep_that_is_stopped_or_killed_goes_on(cfg, tmp_path):
    """The run that is under way saves and stops; the next call resumes it."""
    out, config = tmp_path / "out", tmp_path / "config.json"
    cfg = cfg.replace(train={"total_frames": 2_048})
    config.write_text(json.dumps(cfg.to_dict()))
    code = f"""
import json, sys
from pathlib import Path
from recdqn import Config, cli, sweep
runs = {{"a/seed-0": Config.from_dict(json.loads(Path({str(config)!r}).read_text()))}}
cli.COMMANDS["go"] = lambda: sweep.sweep(runs, Path({str(out)!r}))
sys.argv = ["recdqn", "go"]
cli.main()
"""
    run = out / "a" / "seed-0"
    for signum in (signal.SIGTERM, signal.SIGKILL):
        before = set(run.glob("checkpoints/*.torchrl"))
        process = psutil.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
        while not set(run.glob("checkpoints/*.torchrl")) - before:
            assert process.poll() is None
            time.sleep(0.02)
        (training,) = process.children()
        process.send_signal(signum)
        _, said = process.communicate(timeout=600)
        assert psutil.wait_procs([training], timeout=600)[1] == []
        if signum == signal.SIGTERM:
            assert process.returncode == 128 + signal.SIGTERM
            assert said.splitlines()[-1] == "recdqn: stopped; the same command goes on with the sweep"
    metrics = run / "metrics.json"
    assert not metrics.exists() or json.loads(metrics.read_text())["evaluations"][-1]["frames"] < 2_048
    sweep({"a/seed-0": cfg}, out)
    assert_same(weights(run), dict(train(cfg, progress=False).policy.state_dict()))


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
def test_a_run_that_starts_while_the_sweep_stops_is_stopped_too(cfg, tmp_path):
    """A free worker may take the next run before the sweep has cancelled it, and the sweep waits for it."""
    processes = recdqn.sweep._Processes()
    processes.stop()
    long = cfg.replace(train={"total_frames": 200_000})
    assert recdqn.sweep._train(long, tmp_path / "run", processes) is not None
    assert not (tmp_path / "run" / "metrics.json").exists()


def test_a_folder_with_a_run_of_other_settings_is_refused(cfg, tmp_path):
    """It would be resumed, and counted in the table, with its own settings."""
    runs = {"a/seed-0": cfg}
    sweep(runs, tmp_path)
    before = (tmp_path / "sweep.md").read_text()
    message = rf"a/seed-0 holds a run with loss.gamma={cfg.loss.gamma}, and not 0.5: choose another folder"
    with pytest.raises(UserError, match=message):
        sweep({"a/seed-0": cfg.replace(loss={"gamma": 0.5})}, tmp_path)
    assert (tmp_path / "sweep.md").read_text() == before
    (tmp_path / "a" / "seed-0" / "metrics.json").write_text("{")
    with pytest.raises(UserError, match="metrics.json cannot be read .*: remove the folder"):
        sweep(runs, tmp_path)


@pytest.mark.parametrize(
    "values, jobs, message",
    [((), 1, "there is nothing to train"), ((0,), 0, "jobs=0: expected at least 1")],
)
def test_no_runs_and_no_jobs_are_refused(cfg, tmp_path, values, jobs, message):
    with pytest.raises(UserError, match=message):
        sweep(combinations(cfg, {"seed": values}), tmp_path / "out", jobs)
    assert not (tmp_path / "out").exists()
