import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import imageio.v3 as iio
import pytest
import torch

from recdqn import cli, load_checkpoint
from recdqn.doctor import BUGS
from recdqn.run.folder import load_config

SHORT = ["--train.total_frames=256", "--train.warmup_frames=192", "--train.eval_episodes=2"]


def run_main(monkeypatch, capsys, *arguments):
    """The command line in this process: exit status, standard output, standard error."""
    monkeypatch.setattr(sys, "argv", ["recdqn", *map(str, arguments)])
    try:
        cli.main()
        status = 0
    except SystemExit as stop:
        status = stop.code
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_train_in_a_process_of_its_own(tmp_path):
    """As typed: a progress bar and the outcome on standard error, the folder on standard output."""
    command = [sys.executable, "-W", "error::UserWarning", "-m", "recdqn.cli", "train", "masked-cartpole"]
    done = subprocess.run(
        [*command, "--train.total_frames", "1100", "--seed", "3", "--out", "run"],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == "run\n"
    assert "frame/s" in done.stderr and "not solved; best evaluation:" in done.stderr
    run = load_checkpoint(tmp_path / "run")
    assert run.cfg.seed == 3 and run.metrics[-1]["frames"] == 1_088  # 17 whole collections


def test_a_command_without_a_result_prints_none(monkeypatch, capsys, tmp_path):
    """A server that is asked to stop by a signal that its parent ignores."""
    pytest.importorskip("starlette", reason="pip install 'recdqn[serve]'")
    monkeypatch.setattr("recdqn.serve.serve", lambda *arguments, **options: None)
    assert run_main(monkeypatch, capsys, "serve", tmp_path)[:2] == (0, "")


def test_frames_is_short_for_the_setting(monkeypatch, capsys, tmp_path):
    command = ["train", "masked-cartpole", *SHORT, "--frames", "320", "--out", tmp_path / "run"]
    status, _, err = run_main(monkeypatch, capsys, *command)
    assert status == 0, err
    assert load_config(tmp_path / "run").train.total_frames == 320


def test_the_readers_own_environment_is_found_from_its_folder(tmp_path):
    """The script named recdqn lies elsewhere, so Python does not look here by itself."""
    code = "import gymnasium\ndef cart():\n    return gymnasium.make('CartPole-v1')\n"
    (tmp_path / "mine.py").write_text(code)
    script = "import sys; sys.path = [p for p in sys.path if p]; from recdqn.cli import main; main()"
    command = [sys.executable, "-c", script, "train", "masked-cartpole", "--env.id", "mine:cart", *SHORT]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{Path('runs', 'masked-cartpole-0')}\n"
    assert load_config(tmp_path / done.stdout.strip()).env.id == "mine:cart"


def run_on(command, folder, monkeypatch, capsys):
    """Train the run in ``folder`` on by ``command``: messages, and frames of the evaluations."""
    status, out, err = run_main(monkeypatch, capsys, *command)
    assert (status, out) == (0, f"{folder}\n"), err
    return err, [row["frames"] for row in load_checkpoint(folder).metrics]


def test_resume(saved, monkeypatch, capsys, tmp_path):
    shutil.copytree(saved, tmp_path / "run")
    command = ["resume", tmp_path / "run", "--frames", 320]
    assert run_on(command, tmp_path / "run", monkeypatch, capsys)[1] == [256, 320]
    status, _, err = run_main(monkeypatch, capsys, "resume", tmp_path / "run")
    assert status == 2 and "is finished after 320 frames (not solved; --frames N" in err


@pytest.mark.parametrize("resume", [["--resume", "{}"], ["--resume={}"]])
def test_the_option_resume_still_works_for_now(resume, saved, monkeypatch, capsys, tmp_path):
    shutil.copytree(saved, tmp_path / "run")
    command = ["train", "--frames", "320", *(word.format(tmp_path / "run") for word in resume)]
    err, frames = run_on(command, tmp_path / "run", monkeypatch, capsys)
    assert frames == [256, 320]
    assert err.startswith("recdqn: 'recdqn train --resume DIR' is deprecated: use 'recdqn resume DIR'\n")


def test_evaluate(saved, monkeypatch, capsys):
    status, out, _ = run_main(monkeypatch, capsys, "evaluate", saved, "--episodes", 3, "--json")
    values = json.loads(out)
    assert status == 0 and len(values["returns"]) == len(values["lengths"]) == 3
    assert values["mean"] == pytest.approx(sum(values["returns"]) / 3)
    status, out, _ = run_main(monkeypatch, capsys, "evaluate", saved, "--episodes", 3)
    mean, number, *_ = out.split()
    assert (status, mean) == (0, "mean") and float(number) == pytest.approx(values["mean"], abs=0.05)


PRINTS = """
import os, subprocess
import gymnasium as gym
class Loud(gym.Wrapper):
    def step(self, action):
        print("from Python")
        os.write(1, b"from C\\n")
        return super().step(action)
    def reset(self, **kwargs):
        subprocess.run(["echo", "from a simulator"])
        return super().reset(**kwargs)
def loud():
    return Loud(gym.make("CartPole-v1"))
"""


@pytest.mark.parametrize("workers", ["false", "true"])
def test_only_results_are_on_standard_output(tmp_path, workers):
    """What an environment prints is on standard error, also in a terminal that knows only ASCII."""
    (tmp_path / "loud.py").write_text(PRINTS)
    run = tmp_path / "l\u00e4ufe"
    changed = ["--env.id", "loud:loud", "--env.num-envs", "2", "--env.workers", workers, *SHORT]
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = [
        subprocess.run(
            [sys.executable, "-m", "recdqn.cli", *command], cwd=tmp_path, env=environment, capture_output=True
        )
        for command in (
            ["train", "masked-cartpole", *changed, "--out", run.name],
            ["evaluate", run.name, "--episodes", "2", "--json"],
        )
    ]
    assert [one.returncode for one in done] == [0, 0], done[0].stderr
    assert done[0].stdout == b"l\\xe4ufe\n"
    assert len(json.loads(done[1].stdout)["returns"]) == 2
    for one in done:
        assert all(text in one.stderr for text in (b"from Python", b"from C", b"from a simulator"))


def test_watch(saved, monkeypatch, capsys, tmp_path):
    status, out, err = run_main(monkeypatch, capsys, "watch", saved, "--out", tmp_path / "film.mp4")
    assert (status, out) == (0, f"{tmp_path / 'film.mp4'}\n")
    assert iio.improps(tmp_path / "film.mp4", plugin="FFMPEG").shape[1:] == (200, 300, 3)
    assert int(err.split()[-2]) > 5


def test_missing_package_is_one_line(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    status, _, err = run_main(monkeypatch, capsys, "train", "masked-cartpole", "--logger", "tensorboard")
    assert status == 2 and err.splitlines() == [
        "recdqn: logger='tensorboard' needs the package tensorboard: pip install tensorboard"
    ]
    assert list(tmp_path.iterdir()) == []


def test_no_display_is_one_line(saved, tmp_path):
    """A driver that needs a screen where there is none; SDL reads it once, so in a process of its own."""
    environment = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "WAYLAND_DISPLAY")}
    done = subprocess.run(
        [sys.executable, "-m", "recdqn.cli", "watch", str(saved), "--out", "film.gif"],
        cwd=tmp_path, env=environment | {"SDL_VIDEODRIVER": "nothing"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("recdqn: SDL_VIDEODRIVER='nothing' cannot draw here")
    assert len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


DOCTORED = """
from tensordict.nn import TensorDictSequential
from recdqn import Config, add_primers, make_env, make_policy

def healthy():
    cfg = Config.preset("masked-cartpole")
    env = make_env(cfg.env)
    policy = make_policy(cfg.policy, env)
    return {"env": add_primers(env, policy), "policy": policy}

def ill():
    parts = healthy()
    return parts | {"env": make_env(Config.preset("masked-cartpole").env)}

def odd():
    return healthy() | {"model": 1}

def nothing():
    return None

def fails():
    raise ValueError("no such game")
"""


@pytest.fixture
def doctored(tmp_path, monkeypatch):
    (tmp_path / "my_pipeline.py").write_text(DOCTORED)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_pipeline", raising=False)


def test_doctor_of_a_function(doctored, monkeypatch, capsys):
    status, out, _ = run_main(monkeypatch, capsys, "doctor", "my_pipeline:healthy")
    assert status == 0 and out.startswith("0 errors, 0 warnings; ")
    status, out, _ = run_main(monkeypatch, capsys, "doctor", "my_pipeline:ill")
    assert status == 1 and "error    no-primer" in out
    assert "env.append_transform(policy[1].make_tensordict_primer())" in out


def test_doctor_of_some_codes(doctored, monkeypatch, capsys):
    target = "my_pipeline:ill"
    status, out, _ = run_main(monkeypatch, capsys, "doctor", target, "--only", "no-primer", "--json")
    (finding,) = json.loads(out)["findings"]
    assert status == 1 and finding["code"] == "no-primer" and finding["link"].endswith("#no-primer")
    status, out, _ = run_main(monkeypatch, capsys, "doctor", target, "--ignore", "no-primer")
    assert status == 0 and "no-primer" not in out
    status, _, err = run_main(monkeypatch, capsys, "doctor", target, "--only", "no-prime")
    assert status == 2 and "did you mean no-primer?" in err


def test_doctor_of_a_run(saved, monkeypatch, capsys, tmp_path):
    status, out, _ = run_main(monkeypatch, capsys, "doctor", saved)
    assert status == 0 and re.match(rf"0 errors, 0 warnings; 5\d of {len(BUGS)} checks ran", out)
    broken = tmp_path / "broken"
    shutil.copytree(saved, broken)
    weights = torch.load(broken / "policy.pt", weights_only=True)
    next(iter(weights.values()))[0] = torch.nan
    torch.save(weights, broken / "policy.pt")
    status, out, _ = run_main(monkeypatch, capsys, "doctor", broken)
    assert status == 1 and "error    not-finite" in out


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("no_such_folder", "'no_such_folder': expected the folder of a run or MODULE:FUNCTION"),
        ("no_such_module:parts", "there is no module 'no_such_module' here"),
        ("my_pipeline:no_such", "the module 'my_pipeline' has no 'no_such'"),
        ("my_pipeline:nothing", "my_pipeline:nothing returned a NoneType: expected a dictionary of 'env', "),
        ("my_pipeline:odd", "my_pipeline:odd returned 'model': expected some of 'env', "),
        (
            "my_pipeline:fails",
            "my_pipeline:fails failed with ValueError: no such game (my_pipeline.py",
        ),
        (".", ". is not a run: "),
    ],
)
def test_doctor_refuses(doctored, monkeypatch, capsys, target, message):
    status, out, err = run_main(monkeypatch, capsys, "doctor", target)
    assert (status, out) == (2, "") and err.startswith(f"recdqn: {message}") and err.count("\n") == 1
