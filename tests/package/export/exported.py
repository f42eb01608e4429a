"""A small agent to export, and a program that runs a file without PyTorch."""

import os
import subprocess
import sys

import numpy as np
import torch

from recdqn import Config, make_env, make_policy
from recdqn.run.folder import Run

SMALL = {"hidden_size": 8, "features": 8, "head": 8, "bfloat16": False}
# Runs an exported file on recorded inputs, one step after another, and carries the state over.
STANDALONE = """
import sys
import numpy as np, onnxruntime
assert not {"torch", "torchrl", "recdqn", "tensordict"} & sys.modules.keys()
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
given = dict(np.load(sys.argv[2]))
names = [one.name for one in session.get_inputs()]
states = [name for name in names if name + "_next" in [one.name for one in session.get_outputs()]]
state = {name: given[name] for name in states}
values, actions = [], []
for k in range(len(given["is_init"])):
    fixed = {name: given[name][k] for name in names if name not in states}
    value, action, *after = session.run(None, fixed | state)
    state = dict(zip(states, after))
    values.append(value)
    actions.append(action)
np.savez(sys.argv[3], values=values, actions=actions)
assert "torch" not in sys.modules
"""


def stirred(**changes):
    """A small agent with large weights, so that memory shows in its Q-values."""
    name = "pixel-cartpole" if changes.get("env", {}).get("observation") == "pixels" else "masked-cartpole"
    cfg = Config.preset(name).replace(env={"num_envs": 1} | changes.pop("env", {}))
    cfg = cfg.replace(policy=SMALL | changes.pop("policy", {}), **changes)
    torch.manual_seed(2)
    policy = make_policy(cfg.policy, make_env(cfg.env))
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.mul_(2)
    return Run(cfg, policy)


def run_alone(folder, inputs):
    """Run ``agent.onnx`` in a process that has no PyTorch: Q-values and actions of each step."""
    np.savez(folder / "in.npz", **inputs)
    plain = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, "-c", STANDALONE, "agent.onnx", "in.npz", "out.npz"]
    subprocess.run(command, cwd=folder, env=plain, check=True)
    found = np.load(folder / "out.npz")
    return found["values"], found["actions"]
