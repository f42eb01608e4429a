"""Training: what it counts, repeats, logs and refuses."""

import importlib.util
import math
import tempfile
from pathlib import Path
from unittest import mock

import numpy as np
import psutil
import pytest
import torch
from torchrl.checkpoint import GlobalRNGState

from recdqn import Config, evaluate, load_agent, resume, train
from recdqn.errors import ConfigError, UserError, installed


def without_time(run):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in run.metrics]


@pytest.fixture(scope="module")
def short_run():
    cfg = Config.preset("masked-cartpole").replace(
        train={"total_frames": 512, "warmup_frames": 256, "updates": 2, "eval_every": 3, "eval_episodes": 3},
        policy={"hidden_size": 8, "features": 8, "head": 8},
        replay={"slices": 4, "slice_len": 10},
    )
    return train(cfg, progress=False)


def test_frames_updates_and_epsilon_of_each_evaluation(short_run):
    """8 collections of 64 frames, the first 4 of them warm-up, evaluations after the 6th and 8th."""
    assert [row["frames"] for row in short_run.metrics] == [384, 512]
    assert [row["updates"] for row in short_run.metrics] == [2 * 3, 2 * 5]
    assert all(len(row["returns"]) == 3 for row in short_run.metrics)
    assert all(math.isfinite(row["loss"]) and row["grad_norm"] > 0 for row in short_run.metrics)
    cfg = short_run.cfg.policy
    for row in short_run.metrics:
        line = cfg.eps_start - row["frames"] / cfg.eps_frames * (cfg.eps_start - cfg.eps_end)
        assert row["eps"] == pytest.approx(line, abs=1e-3)


def test_same_seed_same_metrics_and_weights(short_run):
    again = train(short_run.cfg, progress=False)
    assert without_time(again) == without_time(short_run)
    for a, b in zip(short_run.policy.parameters(), again.policy.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_policy_without_memory_trains_and_resumes(short_run, tmp_path):
    cfg = short_run.cfg.replace(policy={"cell": "none"})
    whole = train(cfg, progress=False)
    train(cfg.replace(train={"total_frames": 384}), out=tmp_path / "run", progress=False)
    longer = resume(tmp_path / "run", frames=512, progress=False)
    for run in (whole, longer):
        assert [row["updates"] for row in run.metrics] == [2 * 3, 2 * 5]
        assert evaluate(run.policy, cfg.env, episodes=3).mean > 0


def test_another_seed_gives_different_metrics(short_run):
    assert without_time(train(short_run.cfg.replace(seed=1), progress=False)) != without_time(short_run)


def test_the_callers_threads_random_state_and_files_are_left_alone(short_run, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    torch.set_num_threads(2)
    numbers = GlobalRNGState()
    before = numbers.state_dict()
    train(short_run.cfg.replace(train={"total_frames": 256}), progress=False)
    after = numbers.state_dict()
    assert torch.equal(after["torch_cpu"], before["torch_cpu"])
    assert torch.equal(after["numpy"][1], before["numpy"][1]) and after["python"] == before["python"]
    assert torch.get_num_threads() == 2
    assert list(tmp_path.iterdir()) == []


def test_stops_when_solved(tiny):
    """The first evaluation reaches the threshold; the confirmation has its own episodes and seed."""
    run = train(tiny.replace(train={"solved_return": 1.0, "solved_episodes": 7}), progress=False)
    assert len(run.metrics) == 1
    assert len(run.final.returns) == 7
    assert run.final == evaluate(run.policy, run.cfg.env, episodes=7, seed=run.cfg.train.total_frames)


def test_the_returned_policy_is_the_running_average(tiny):
    """With average=0 it is the last network, with average=1 the one after the first update."""
    last, first = (train(tiny.replace(train={"average": a}), progress=False) for a in (0.0, 1.0))
    between = train(tiny.replace(train={"average": 0.5}), progress=False)
    a, b, c = (torch.cat([p.flatten() for p in run.policy.parameters()]) for run in (last, first, between))
    assert (a - b).norm() > 0
    assert (c - a).norm() < (a - b).norm() and (c - b).norm() < (a - b).norm()


def test_the_loss_falls(tiny):
    cfg = tiny.replace(train={"total_frames": 4_096, "updates": 8, "eval_every": 8, "learning_rate": 3e-3})
    losses = [row["loss"] for row in train(cfg, progress=False).metrics]
    assert losses[-1] < losses[0] / 2


@pytest.mark.parametrize("priority", [0.0, 0.9])
def test_updates_from_pixels_are_finite(priority):
    cfg = Config.preset("pixel-cartpole").replace(
        env={"num_envs": 2},
        train={
            "total_frames": 96,
            "frames_per_batch": 32,
            "warmup_frames": 64,
            "updates": 1,
            "eval_episodes": 1,
        },
        replay={"slices": 2, "priority": priority},
    )
    run = train(cfg, progress=False)
    assert run.metrics[-1]["updates"] == 2
    assert math.isfinite(run.metrics[-1]["loss"]) and run.metrics[-1]["grad_norm"] > 0


@pytest.mark.parametrize(
    "changes, error, message",
    [
        ({"device": "gpu"}, UserError, "device='gpu' cannot be used here.*try device='cpu'"),
        ({"device": "meta"}, UserError, "device='meta' cannot be used here.*try device='cpu'"),
        (
            {"train": {"total_frames": 100}},
            ConfigError,
            "^train.total_frames=100: .* no update would be made$",
        ),
        ({"env": {"num_envs": 7}}, ConfigError, "frames_per_batch=64: expected a multiple of env.num_envs=7"),
        ({"env": {"num_envs": 64}}, ConfigError, "frames_per_batch=64: expected at least two steps of each"),
    ],
)
def test_settings_are_refused_before_a_file_is_written(tiny, tmp_path, changes, error, message):
    with pytest.raises(error, match=message):
        train(tiny.replace(**changes), out=tmp_path / "run", progress=False)
    assert list(tmp_path.iterdir()) == []


def test_a_logger_writes_the_mean_return_of_each_evaluation(tiny, tmp_path):
    with pytest.raises(UserError, match="logger='csv' needs a folder"):
        train(tiny, logger="csv", progress=False)
    with pytest.raises(UserError, match="^logger='foo': choose one of csv, tensorboard, wandb$"):
        train(tiny, out=tmp_path / "run", logger="foo", progress=False)
    run = train(tiny, out=tmp_path / "run", logger="csv", progress=False)
    logged = (tmp_path / "run/log/run/scalars/eval/return.csv").read_text().split()
    assert [int(line.split(",")[0]) for line in logged] == [row["frames"] for row in run.metrics]
    mean = sum(run.metrics[0]["returns"]) / 3
    assert float(logged[0].split(",")[1]) == pytest.approx(mean)


def test_the_programs_default_type_changes_nothing(tiny, tmp_path):
    """Scientific programs compute with float64."""
    changes = {"policy": {"dueling": True, "memory_span": 20}, "loss": {"n_steps": 3, "burn_in": 2}}
    cfg, outcomes = tiny.replace(**changes), []
    for default in (torch.float32, torch.float64):
        torch.set_default_dtype(default)
        try:
            run = train(cfg, out=tmp_path / str(default), progress=False)
            values, _ = (agent := load_agent(tmp_path / str(default))).values(
                np.zeros(4), agent.initial_state()
            )
            played = evaluate(run.policy, cfg.env, episodes=2).returns
            assert torch.get_default_dtype() == default
        finally:
            torch.set_default_dtype(torch.float32)
        outcomes.append((without_time(run), played, values.tolist(), values.dtype))
    assert outcomes[0] == outcomes[1]


def test_a_csv_log_has_the_settings_and_is_closed(tiny, tmp_path):
    train(tiny, out=tmp_path / "run", logger="csv", progress=False)
    settings = (tmp_path / "run/log/run/texts/hparams0.txt").read_text().splitlines()
    assert "train.total_frames: 512" in settings and "env.id: CartPole-v1" in settings
    assert not [file.path for file in psutil.Process().open_files() if "/log/" in file.path]


def test_weights_and_biases_has_a_run_for_each_run(tiny, tmp_path, monkeypatch):
    """Also beside a run of the program's own, which stays open."""
    wandb = pytest.importorskip("wandb", reason="pip install recdqn[loggers]")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    started, init = [], wandb.init
    monkeypatch.setattr(wandb, "init", lambda **given: started.append(init(**given)) or started[-1])
    with init(dir=tmp_path) as own:
        for seed in (0, 1):
            cfg = tiny.replace(seed=seed)
            train(cfg, out=tmp_path / f"seed-{seed}", logger="wandb", progress=False)
        assert wandb.run is own
    assert [run.name for run in started] == ["seed-0", "seed-1"]
    assert [run.config["seed"] for run in started] == [0, 1]
    assert started[0].id != started[1].id and all(run._is_finished for run in started)


def test_tensorboard_has_the_curve_and_the_settings(tiny, tmp_path):
    pytest.importorskip("tensorboard", reason="pip install recdqn[loggers]")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = train(tiny, out=tmp_path / "run", logger="tensorboard", progress=False)
    (folder,) = (tmp_path / "run/log").iterdir()
    events = EventAccumulator(str(folder)).Reload()
    assert [event.step for event in events.Scalars("eval/return")] == [row["frames"] for row in run.metrics]
    assert "_hparams_/session_start_info" in events.summary_metadata


@pytest.mark.parametrize("folder", ["new", "resumed"])
def test_a_logger_that_cannot_start_costs_nothing_but_its_line(tiny, tmp_path, monkeypatch, folder):
    out = tmp_path / "runs" / "one"
    if folder == "resumed":
        train(tiny, out=out, logger="csv", progress=False)
    before = sorted(path for path in out.rglob("*"))
    start = mock.Mock(side_effect=ConnectionError("no key\nlog in"))
    with monkeypatch.context() as patch:
        patch.setattr("recdqn.run.loggers.get_logger", start)
        with pytest.raises(UserError, match=r"^logger='csv' cannot start \(ConnectionError: no key\)$"):
            if folder == "resumed":
                resume(out, frames=640, logger="csv", progress=False)
            else:
                train(tiny, out=out, logger="csv", progress=False)
    assert sorted(path for path in out.rglob("*")) == before
    assert folder == "resumed" or list(tmp_path.iterdir()) == []


def test_a_logger_that_fails_later_does_not_end_the_run(tiny, tmp_path, monkeypatch, capsys):
    logger = mock.Mock(log_scalar=mock.Mock(side_effect=OSError("gone")))
    monkeypatch.setattr("recdqn.run.loggers.get_logger", lambda *args, **kwargs: logger)
    run = train(tiny, out=tmp_path / "run", logger="csv", progress=False)
    assert len(run.metrics) == 2
    assert capsys.readouterr().err.count("logger='csv' has failed (OSError: gone): the run goes on") == 1


def test_a_folder_without_code_is_no_package(tiny, tmp_path, monkeypatch):
    """Weights & Biases makes one of its own name."""
    (tmp_path / "no_such_package").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert importlib.util.find_spec("no_such_package") and not installed("no_such_package")


def test_a_missing_logger_package_is_named(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="needs the package wandb: pip install wandb"):
        train(tiny, out=tmp_path / "run", logger="wandb", progress=False)
    assert not Path(tmp_path / "run").exists()


def test_the_name_of_a_preset_is_no_configuration():
    with pytest.raises(UserError, match="^cfg='masked-cartpole': expected a Config, such as Config.preset"):
        train("masked-cartpole")
