"""Record every stage of two environment steps, for the page on hidden state."""

from __future__ import annotations

from typing import Any

import torch
from tensordict import NestedKey, TensorDictBase
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import Tensor
from torchrl.envs.common import EnvBase
from torchrl.modules import LSTMModule

from recdqn.book.recorded import Record
from recdqn.config import Config
from recdqn.envs import add_primers, make_env
from recdqn.flow import STAGES, STEP_MDP, walk
from recdqn.policy import make_policy

DIGITS = 4  # decimal places in the record

# Names under which the recurrent layer writes its new states, by wiring.
WIRINGS: dict[str, list[NestedKey]] = {
    "right": [("next", "recurrent_state_h"), ("next", "recurrent_state_c")],
    "same": ["recurrent_state_h", "recurrent_state_c"],
    "new": ["h_new", "c_new"],
}

Entries = dict[str, dict[str, Tensor]]  # of a TensorDict, by key, at the "root" and under "next"


def record_steps(hidden: int = 3) -> Record:
    """Record the TensorDict at each stage of two steps, for three wirings of the same policy.

    The policy is small, untrained and acts greedily in masked CartPole. The steps are the third and the last
    of its first episode. The wiring ``"right"`` writes the new states under ``"next"``; ``"same"`` and
    ``"new"`` lack that prefix.

    Args:
        hidden: number of features and of units in the recurrent layer.

    Returns:
        The contents of ``results/step-mdp.json``: for each wiring and step a list of stages, and for each
        stage the entries at the ``"root"`` and under ``"next"``. An entry maps its key to its value, ``None``
        if it has just been removed, and to its mark (see :func:`marks`).
    """
    small = {"features": hidden, "hidden_size": hidden, "head": 8}
    cfg = Config.preset("masked-cartpole").replace(env={"num_envs": 1}, policy=small)
    torch.manual_seed(0)
    env = make_env(cfg.env)
    policy = make_policy(cfg.policy, env)
    add_primers(env, policy)
    features, recurrent, *head = list(policy)[:-1]  # without exploration
    rollouts = {}
    for name, keys in WIRINGS.items():
        layer = LSTMModule(
            lstm=recurrent.lstm,
            in_keys=["embed", "recurrent_state_h", "recurrent_state_c"],
            out_keys=["memory", *keys],
        )
        env.set_seed(0)
        episode = _first_episode(env, TensorDictSequential(features, layer, *head))
        rollouts[name] = {
            "inside": {"step": 2, "stages": _describe(episode[2])},
            "end": {"step": len(episode) - 1, "stages": _describe(episode[-1])},
        }
    env.close()
    return {"rollouts": rollouts}


def _first_episode(env: EnvBase, policy: TensorDictModule) -> list[list[TensorDictBase]]:
    """Return a copy of the TensorDict at each stage of each step, to the first reset after an episode."""
    steps: list[list[TensorDictBase]] = [[]]
    for _, td in walk(env, policy):
        steps[-1].append(td.clone())
        if len(steps[-1]) == len(STAGES):
            if steps[-1][STAGES.index(STEP_MDP)]["done"]:
                break
            steps.append([])
    return steps


def _describe(step: list[TensorDictBase]) -> list[Record]:
    stages: list[Record] = []
    before: Entries | None = None
    for name, td in zip(STAGES, step, strict=True):
        after = {"root": dict(td.exclude("next").items()), "next": dict(td.get("next", {}).items())}
        marked = marks(before or after, after)
        entries = {
            place: {
                key: [_plain(after[place].get(key)), marked[place].get(key, "")]
                for key in sorted(after[place].keys() | marked[place].keys())
            }
            for place in after
        }
        stages.append({"name": name, **entries})
        before = after
    return stages


def marks(before: Entries, after: Entries) -> dict[str, dict[str, str]]:
    """Compare the entries of a TensorDict at two successive stages.

    Args:
        before: the entries by key, at the ``"root"`` and under ``"next"``.
        after: the same at the later stage.

    Returns:
        For each place and key, ``"new"``, ``"changed"``, ``"dropped"``, ``"moved"`` (from ``"next"`` to the
        root) or ``"copied"`` (a state, from the root to ``"next"``). Unchanged entries have no mark.
    """
    marked: dict[str, dict[str, str]] = {"root": {}, "next": {}}
    moves = bool(before["next"]) and not after["next"]  # step_mdp removes everything under "next"
    for place, found in marked.items():
        for key in before[place].keys() | after[place].keys():
            old, new = before[place].get(key), after[place].get(key)
            source = before["next"].get(key) if moves and place == "root" else None
            target = after["root"].get(key) if place == "next" else None
            if new is None:
                found[key] = "moved" if moves and _equal(target, old) else "dropped"
            elif _equal(source, new):
                found[key] = "moved"
            elif old is None:
                copied = key.startswith("recurrent_state") and _equal(target, new)
                found[key] = "copied" if copied else "new"
            elif not torch.equal(old, new):
                found[key] = "changed"
    return marked


def _equal(a: Tensor | None, b: Tensor | None) -> bool:
    return a is not None and b is not None and torch.equal(a, b)


def _plain(value: Tensor | None) -> list[Any] | None:
    if value is None:
        return None
    return [round(x, DIGITS) if isinstance(x, float) else x for x in value.flatten().tolist()]
