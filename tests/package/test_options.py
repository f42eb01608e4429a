"""Every setting on the command line, what the help says about it, and what is said about a mistake."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
from configurations import configurations
from hypothesis import given, settings

from recdqn import Config, cli
from recdqn.fields import dotted, expected, parts, schemas
from recdqn.presets import PRESETS


def trained(arguments):
    """The configuration that ``recdqn train`` trains with, and the folder, without training."""
    run = SimpleNamespace(final=None, metrics=[{"returns": [0.0]}])
    with mock.patch("recdqn.train", return_value=run) as train, mock.patch("builtins.print"):
        cli.parse(["train", *map(str, arguments)])()
    return train.call_args.args[0], train.call_args.kwargs["out"]


def options_of(cfg):
    """Every setting as typed: ``=`` where a text may begin with a dash."""
    for name, value in dotted(cfg).items():
        if isinstance(value, tuple):
            yield from [f"--{name}", *map(str, value)]
        else:
            yield f"--{name}={value}"


@settings(max_examples=30, deadline=None)
@given(configurations())
def test_every_setting_is_an_option(cfg):
    assert trained(["masked-cartpole", *options_of(cfg)])[0] == cfg


def test_options_change_a_preset_or_a_saved_configuration(tmp_path):
    cfg, out = trained(["pixel-cartpole", "--policy.cell", "gru", "--env.visible", 1, "--train.updates", 4])
    expected = Config.preset("pixel-cartpole").replace(
        policy={"cell": "gru"}, env={"visible": 1}, train={"updates": 4}
    )
    assert cfg == expected and out == Path("runs", "pixel-cartpole-0")
    (tmp_path / "config.json").write_text(json.dumps(cfg.to_dict()))
    cfg, out = trained(["--config", tmp_path / "config.json", "--seed", 2, "--name", "../my task"])
    assert cfg == expected.replace(seed=2, name="../my task")
    assert out == Path("runs", "..-my-task-2")


def test_help_says_what_every_setting_may_be():
    """In a process of its own, which must not wait for PyTorch."""
    code = (
        "import contextlib, sys\nfrom recdqn.cli import parse\n"
        "with contextlib.suppress(SystemExit):\n    parse(['train', '--help'])\n"
        "print(sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *shown, loaded = done.stdout.splitlines()
    heavy = {"torch", "torchrl", "tensordict", "gymnasium", "scipy", "numpy", "imageio", "matplotlib"}
    assert heavy.isdisjoint(ast.literal_eval(loaded))
    text = re.sub(r"[\s│]", "", "".join(shown))
    for name, value in dotted(Config()).items():
        part, _, field = name.rpartition(".")
        schema = schemas(parts(Config)[part] if part else Config)[field]
        default = " ".join(map(str, value if isinstance(value, tuple) else [value]))
        limits = re.escape(re.sub(r"\s", "", f": {expected(schema)} (default: {default})"))
        assert re.search(rf"--{name}VALUES?[^│]+?{limits}", text), name
    assert "pixel-cartpole:--env.num_envs16--env.observationpixels" in text


PRESET = ["train", "masked-cartpole"]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["train", "pong"], "unknown preset 'pong': choose one of masked-cartpole, pixel-cartpole"),
        (["train", "masked-cartpol"], "unknown preset 'masked-cartpol': did you mean masked-cartpole?"),
        (["train"], f"expected a preset, one of {', '.join(PRESETS)}, or --config FILE"),
        ([*PRESET, "--config", "a.json"], "expected a preset, one of masked-cartpole, "),
        (["train", "--config", "a.json"], "--config a.json cannot be used: FileNotFoundError: "),
        ([*PRESET, "--seed", "-1"], "seed=-1: expected a whole number from 0"),
        (
            [*PRESET, "--train.updates", "0", "--policy.cell", "foo", "--env.visible", "0", "a"],
            "env.visible[1]='a': expected a whole number from 0 to 1,000,000; "
            "policy.cell='foo': expected one of 'lstm', 'gru', 'none'; "
            "train.updates=0: expected a whole number from 1 to 100,000",
        ),
        ([*PRESET, "--env.workers", "maybe"], "env.workers='maybe': expected True or False"),
        ([*PRESET, "--device", "tpu"], "device='tpu' cannot be used here"),
        (
            [*PRESET, "--policy.cel", "gru"],
            "--policy.cel: recdqn train has no such option; did you mean --po",
        ),
        (
            [*PRESET, "--save-seconds", "9"],
            "--save-seconds: recdqn train has no such option; did you mean --tr",
        ),
        ([*PRESET, "--colour", "blue"], "--colour: recdqn train has no such option; see recdqn train --help"),
        ([*PRESET, "blue"], "blue: recdqn train has no such argument"),
        ([*PRESET, "--logger", "x"], "Error parsing --logger: expected one of csv, tensorboard, wandb, and"),
        ([*PRESET, "--seed"], "Missing value for argument '--seed'"),
        (["rezume"], "'rezume' is not a command: did you mean resume?"),
        (["--colour"], "Unrecognized options: --colour; see recdqn --help"),
        (["resume", "run", "--seed", "3"], "--seed: recdqn resume has no such option"),
        (
            ["resume", "run", "--frames", "a"],
            "Error parsing --frames: expected a whole number, and found 'a'",
        ),
        (["evaluate"], "Missing from recdqn evaluate: DIR"),
        (["evaluate", "."], ". is not a run"),
        (["watch", "nowhere", "--out", "a.gif"], "nowhere is not a run"),
    ],
)
def test_wrong_input_is_one_line_and_status_2(arguments, message, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["recdqn", *arguments])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    out, err = capsys.readouterr()
    assert stop.value.code == 2 and out == ""
    assert err.startswith(f"recdqn: {message}") and len(err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("variable", ["PYTHONIOENCODING=ascii", "FORCE_COLOR=1", "COLUMNS=40"])
def test_a_message_is_one_line_on_every_terminal(variable):
    name, _, value = variable.partition("=")
    done = subprocess.run(
        [sys.executable, "-m", "recdqn.cli", "evaluate", "run", "--episodes", "a"],
        env=os.environ | {name: value}, capture_output=True, text=True,
    )  # fmt: skip
    message = "Error parsing --episodes: expected a whole number, and found 'a'"
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"recdqn: {message}; see recdqn evaluate --help\n"
