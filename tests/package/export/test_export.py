"""Exported agents, run in processes without PyTorch, against the agents."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from exported import run_alone, stirred

from recdqn import Config, cli, export_agent, make_env, make_policy, save_checkpoint
from recdqn.agent import Agent
from recdqn.envs import make_vector_env
from recdqn.errors import UserError
from recdqn.export import opened
from recdqn.export.file import METADATA
from recdqn.export.network import Step
from recdqn.policy.plain import step
from recdqn.run.folder import Run


def played(run, steps=12, batch=3):
    """Greedy steps of a batch: observations, starts of episodes, Q-values, actions and earlier rewards."""
    games = make_vector_env(run.cfg.replace(env={"num_envs": batch}).env)
    agent = Agent(run.policy, run.cfg.env)
    seen, _ = games.reset(seed=0)
    state, init = agent.initial_state(batch), np.ones((batch, 1), bool)
    rows, reward = [], np.zeros(batch)
    for _ in range(steps):
        now = seen["pixels"] if isinstance(seen, dict) else seen
        values, state = agent.values(now, state, reward)
        rows.append((now, init, values, values.argmax(-1), reward.astype(np.float32)[:, None]))
        seen, reward, ended, _, _ = games.step(rows[-1][3])
        init = ended[:, None].copy()
        if ended.any():
            seen, _ = games.reset(options={"reset_mask": ended})
            for part in state:
                part[ended] = 0
    games.close()
    return [np.stack(part) for part in zip(*rows, strict=True)]


VARIANTS = {
    "lstm": {},
    "gru": {"policy": {"cell": "gru", "dueling": True}},
    "none": {"policy": {"cell": "none"}, "env": {"stack": 4, "loc": (0.1,), "scale": (2.0,)}},
    "pictures": {"env": {"observation": "pixels", "image_size": 36}},
    "previous": {"env": {"previous": True}},
}


@pytest.mark.parametrize("variant", ["lstm", "gru", "none", "pictures", "previous"])
def test_a_pt2_file_computes_what_the_agent_computes(tmp_path, variant):
    run = stirred(**VARIANTS[variant])
    export_agent(run, tmp_path / "agent.pt2")
    check(run, opened(tmp_path / "agent.pt2"))


def check(run, call):
    """Compare a file with the agent on steps of the environment."""
    observations, inits, values, actions, rewards = played(run)
    inputs = {one["name"]: one["shape"] for one in Step(run.policy, run.cfg.env).inputs}
    names = [name for name in inputs if name not in ("observation", "is_init", "reward")]
    # stale states at the start: is_init makes them zeros
    state = {name: np.ones((3, *inputs[name]), np.float32) for name in names}
    for k in range(len(values)):
        given = {"observation": observations[k], "is_init": inits[k]} | state
        given |= {"reward": rewards[k]} if "reward" in inputs else {}
        value, action, *after = call(given)
        np.testing.assert_allclose(value, values[k], atol=2e-5, rtol=1e-5)
        assert action.tolist() == actions[k].tolist()
        state = dict(zip(names, after, strict=True))
    assert inits[1:].any() or run.cfg.env.observation == "pixels"


@pytest.mark.parametrize("variant", ["gru", "pictures"])  # the second with an LSTM
def test_an_onnx_file_runs_without_pytorch(tmp_path, variant):
    pytest.importorskip("onnxscript", reason="pip install 'recdqn[export]'")
    run = stirred(**VARIANTS[variant])
    save_checkpoint(tmp_path / "run", run)
    (tmp_path / "run" / "manifest.json").write_text('{"command": "by hand"}')
    described = export_agent(tmp_path / "run", tmp_path / "agent.onnx")
    observations, inits, values, actions, _ = played(run)
    states = {one["name"]: np.ones((3, *one["shape"]), np.float32) for one in described["inputs"][2:]}
    found, chosen = run_alone(tmp_path, {"observation": observations, "is_init": inits} | states)
    np.testing.assert_allclose(found, values, atol=2e-5, rtol=1e-5)
    assert chosen.tolist() == actions.tolist()

    import onnxruntime

    session = onnxruntime.InferenceSession(tmp_path / "agent.onnx", providers=["CPUExecutionProvider"])
    text = json.loads(session.get_modelmeta().custom_metadata_map[METADATA])
    assert text == json.loads(json.dumps(described))
    assert text["trained"] == {"command": "by hand"} and text["exported"]["versions"]["torch"]
    assert text["actions"] == {"count": 2, "first": 0, "choices": [2], "meanings": None}
    assert Config.from_dict(text["settings"]) == run.cfg


def test_the_command_writes_a_file_with_its_description(tmp_path, monkeypatch, capsys):
    save_checkpoint(tmp_path / "run", stirred())
    out = tmp_path / "agent.pt2"
    monkeypatch.setattr(sys, "argv", ["recdqn", "export", str(tmp_path / "run"), "--out", str(out)])
    cli.main()
    assert capsys.readouterr().out == f"{out}\n"
    extra = {METADATA: ""}
    torch.export.load(str(out), extra_files=extra)
    described = json.loads(extra[METADATA])
    assert described["inputs"] == [
        {"name": "observation", "dtype": "float32", "shape": [4]},
        {"name": "is_init", "dtype": "bool", "shape": [1]},
        {"name": "h", "dtype": "float32", "shape": [1, 8]},
        {"name": "c", "dtype": "float32", "shape": [1, 8]},
    ]
    assert described["environment"] == "CartPole-v1"


def test_what_cannot_be_exported_is_refused_in_one_line(tmp_path, monkeypatch):
    run = stirred()
    with pytest.raises(UserError, match=r"cannot export to 'agent.h5': the name must end in .onnx or .pt2"):
        export_agent(run, tmp_path / "agent.h5")
    with pytest.raises(UserError, match=r"cannot write .*agent.pt2: .*; choose another place"):
        export_agent(run, tmp_path / "missing" / "agent.pt2")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs the package onnx: pip install 'recdqn\[export\]'"):
        export_agent(run, tmp_path / "agent.onnx")


def test_a_file_that_computes_other_values_is_not_left_unnoticed(tmp_path, monkeypatch):
    run = stirred()
    monkeypatch.setattr(
        "recdqn.export.network.step", lambda chain, seen, states: step(chain, seen, states[::-1])
    )
    with pytest.raises(UserError, match=r"the exported \w+ is .* away from the agent's: do not use the file"):
        export_agent(run, tmp_path / "agent.pt2")


def test_the_script_of_the_book_drives_an_exported_agent(tmp_path, monkeypatch):
    """The page's environment in a file of its own, and the page's script in a process without PyTorch."""
    pytest.importorskip("onnxscript", reason="pip install 'recdqn[export]'")
    page = nbformat.read(Path(__file__).parents[3] / "book" / "your-own-task.ipynb", 4)
    cells = {cell.id: cell.source for cell in page.cells}
    scripts = re.findall(r"(?s)```python\n(.*?)```", cells["next"])
    script = next(part for part in scripts if "onnxruntime" in part)
    assert len(script.strip().splitlines()) <= 15
    task = f"import gymnasium as gym\nimport numpy as np\n\n\n{cells['corridor']}\n"
    (tmp_path / "corridor.py").write_text(task)
    monkeypatch.syspath_prepend(tmp_path)
    cfg = Config.preset("masked-cartpole").replace(
        env={"id": "corridor:Corridor", "observation": "whole", "num_envs": 1, "loc": (0.0,), "scale": (1.0,)}
    )
    run = Run(cfg, make_policy(cfg.policy, make_env(cfg.env)))
    export_agent(run, tmp_path / "agent.onnx")

    program = script + "\nimport sys\nassert not {'torch', 'recdqn'} & sys.modules.keys()\n"
    plain = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=plain, capture_output=True, text=True, check=True
    )
    env = sys.modules["corridor"].Corridor()
    agent, (seen, _) = Agent(run.policy, cfg.env), env.reset(seed=0)
    state, ended = agent.initial_state(), False
    while not ended:
        action, state = agent.act(seen, state)
        seen, reward, ended, _, _ = env.step(action)
    assert float(done.stdout) == reward
