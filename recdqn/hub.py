"""Share trained agents on the Hugging Face Hub."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch

from recdqn.errors import UserError, first_line, installed
from recdqn.evaluation import Evaluation
from recdqn.run.folder import (
    CONFIG,
    MANIFEST,
    METRICS,
    WEIGHTS,
    Run,
    load_checkpoint,
    load_manifest,
    mean_return,
)

TENSORS, CARD = "policy.safetensors", "README.md"  # in the repository


def push(run: str | Path, repo: str, private: bool = False) -> str:
    """Upload the agent of a run: configuration, manifest, metrics and weights, with a model card.

    The weights are in the format safetensors, which cannot hold code. Checkpoints and the replay buffer stay
    here. The repository is made if there is none; another agent in it is replaced, and its history kept.

    Args:
        run: the folder of a run.
        repo: the repository, ``"owner/name"``.
        private: whether a new repository is private.

    Returns:
        The address of the repository.

    Raises:
        UserError: if ``run`` holds no run, a package is missing, or the Hub refuses.
    """
    _check_packages()
    from huggingface_hub import CommitOperationAdd, HfApi
    from safetensors.torch import save

    folder, saved = Path(run), load_checkpoint(run)
    weights = {name: value.contiguous().clone() for name, value in saved.policy.state_dict().items()}
    made = load_manifest(folder)
    files = {name: (folder / name).read_bytes() for name in (CONFIG, METRICS)}
    files |= {MANIFEST: json.dumps(made, indent=2).encode(), TENSORS: save(weights)}
    files[CARD] = model_card(saved, made, repo).encode()
    try:
        hub = HfApi()
        address = hub.create_repo(repo, private=private, exist_ok=True)
        operations = [CommitOperationAdd(name, content) for name, content in files.items()]
        hub.create_commit(repo, operations, commit_message=f"Upload {saved.cfg.name}, seed {saved.cfg.seed}")
    except Exception as error:
        raise UserError(
            f"cannot push to {repo} ({first_line(error)}): log in with 'hf auth login', and name a "
            "repository of your own, 'owner/name'"
        ) from None
    return str(address)


def pull(repo: str, out: str | Path, revision: str | None = None) -> Run:
    """Download an agent into a folder that :func:`recdqn.load_agent`, ``evaluate`` and ``watch`` read.

    A repository can bring no code. Its configuration names an environment, ``"module:function"`` perhaps,
    which is imported from here when the agent is loaded.

    Args:
        repo: the repository, ``"owner/name"``.
        out: the folder, which must not exist yet or be empty.
        revision: a branch, tag or commit; the newest if not given.

    Returns:
        The run.

    Raises:
        UserError: if ``out`` is not empty, a package is missing, the Hub refuses, or the repository holds no
            agent that can be loaded here.
    """
    _check_packages()
    from huggingface_hub import hf_hub_download
    from safetensors.torch import load_file

    folder = Path(out).absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is not empty: choose another folder, or remove it first")
    with tempfile.TemporaryDirectory() as scratch:
        made = Path(scratch, folder.name)
        try:
            for name in (CONFIG, METRICS, MANIFEST, TENSORS):
                hf_hub_download(repo, name, revision=revision, local_dir=made)
            torch.save(load_file(made / TENSORS), made / WEIGHTS)
        except Exception as error:
            raise UserError(
                f"cannot pull {repo} ({first_line(error)}): check its name and revision, and log in with "
                "'hf auth login' if it is private"
            ) from None
        (made / TENSORS).unlink()
        shutil.rmtree(made / ".cache", ignore_errors=True)
        try:
            run = load_checkpoint(made)
        except UserError as error:
            reason = str(error).replace(str(made), repo)
            raise UserError(f"{repo} holds no agent that can be used here: {reason}") from None
        try:
            shutil.copytree(made, folder, dirs_exist_ok=True)
        except OSError as error:
            raise UserError(
                f"cannot write into {folder} ({first_line(error)}): choose another folder"
            ) from None
    return run


def model_card(run: Run, made: dict[str, Any], repo: str) -> str:
    """Return a model card: what the agent is, how it was trained, what it reaches, and how to use it.

    Args:
        run: a run with at least one evaluation.
        made: its manifest.
        repo: the repository that the card is for.
    """
    cfg, last = run.cfg, run.metrics[-1]
    best = max(map(mean_return, run.metrics))
    mean = best if run.final is None else run.final.mean
    versions = made.get("versions", {"recdqn": importlib.metadata.version("recdqn")})
    memory = {"lstm": "an LSTM", "gru": "a GRU", "none": "no memory"}[cfg.policy.cell]
    outcome = (
        f"not solved; the best evaluation has a mean return of {best:g}"
        if run.final is None
        else f"solved: {Evaluation.__str__(run.final)}"
    )
    facts = {
        "Environment": f"`{cfg.env.id}`, observation `{cfg.env.observation}`",
        "Network": f"{memory}, {sum(p.numel() for p in run.policy.parameters()):,} weights",
        "Training": f"{last['frames']:,} environment steps, {last['updates']:,} updates, "
        f"{last['seconds']:,.0f} seconds",
        "Outcome": outcome,
        "Command": f"`{made.get('command', '')}`",
        "Date": made.get("date", ""),
        "Commit": made.get("commit") or "",
        "Versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
    }
    rows = "\n".join(f"| {name} | {text} |" for name, text in facts.items() if text and text != "``")
    metadata = {
        "library_name": "recdqn",
        "tags": ["reinforcement-learning", "deep-reinforcement-learning", "recurrent-dqn", cfg.env.id],
        "model-index": [
            {
                "name": f"{cfg.name}-{cfg.seed}",
                "results": [
                    {
                        "task": {"type": "reinforcement-learning", "name": "reinforcement learning"},
                        "dataset": {"name": cfg.env.id, "type": cfg.env.id},
                        "metrics": [{"type": "mean_reward", "name": "mean return", "value": mean}],
                    }
                ],
            }
        ],
    }
    return f"""---
{json.dumps(metadata, indent=2)}
---

# {cfg.name}, seed {cfg.seed}

An agent for `{cfg.env.id}`, trained by recurrent DQN with the package recdqn.

| | |
|---|---|
{rows}

## Use

    pip install 'recdqn[hub]'
    recdqn pull {repo} --out agent
    recdqn evaluate agent

In Python, with NumPy arrays in and out:

    from recdqn import load_agent

    agent = load_agent("agent")
    state = agent.initial_state()  # at the start of each episode
    action, state = agent.act(observation, state)

`config.json` has every setting, `metrics.json` every evaluation, `manifest.json` what made the run.
"""


def _check_packages() -> None:
    for name in ("huggingface_hub", "safetensors"):
        if not installed(name):
            raise UserError(f"the Hugging Face Hub needs the package {name}: pip install 'recdqn[hub]'")
