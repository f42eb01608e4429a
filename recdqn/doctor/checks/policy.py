"""Checks of the policy: parameters, exploration, and what its outputs depend on."""

from __future__ import annotations

import copy

import torch
from tensordict.nn import TensorDictModule
from torch import nn
from torch.nn.parameter import UninitializedParameter
from torchrl.envs.utils import ExplorationType, set_exploration_type
from torchrl.modules import set_recurrent_mode

from recdqn.doctor.checks.common import TOLERANCE, Evidence, Found, name_of
from recdqn.doctor.copies import copy_part
from recdqn.doctor.probe import Skip
from recdqn.doctor.slices import perturb
from recdqn.doctor.subject import Subject

COPIES = 64  # of one step, to compare the actions chosen in it


def finite_parameters(subject: Subject) -> Found:
    """Look for parameters of the policy or the loss that are not finite."""
    for part in ("policy", "loss"):
        module = subject.given.get(part)
        for name, value in module.named_parameters() if isinstance(module, nn.Module) else ():
            if not isinstance(value, UninitializedParameter) and not value.isfinite().all():
                count = int((~value.isfinite()).sum())
                yield "not-finite", f"{part}: {count} of {value.numel()} elements of {name} are not finite"


def deterministic_evaluation(subject: Subject) -> Found:
    """Give the policy the same step many times, without exploration: as it is, and in evaluation mode."""
    given = copy_part(subject.given["policy"])
    count = _different_actions(subject, subject.policy)
    where = "with exploration off (DETERMINISTIC), the policy"
    if count > 1:
        yield (
            "explores-in-evaluation",
            f"{where} chose {count} different actions for {COPIES} copies of one step",
        )
    elif _different_outputs(subject, given):
        random = {name_of(m) for m in given.modules() if m.training and not any(m.children())}
        names = ", ".join(sorted(n for n in random if "ropout" in n)) or "a part of it"
        yield Evidence(
            "explores-in-evaluation",
            f"{where} is in training mode, and {names} gives {COPIES} copies of one step different "
            "values; in "
            "evaluation mode they are the same",
            "note",
            "call policy.eval() before you evaluate",
        )


def _different_actions(subject: Subject, policy: TensorDictModule) -> int:
    policy = copy.deepcopy(policy)
    for name, value in policy.named_buffers():
        if name.split(".")[-1] == "eps":
            value.fill_(1.0)  # exploration that is not switched off must show
    with set_exploration_type(ExplorationType.DETERMINISTIC), set_recurrent_mode(False):
        steps = subject.policy_inputs(1).expand(COPIES).clone()
        actions = policy(steps)[subject.action_key].reshape(COPIES, -1)
    return len(actions.unique(dim=0))


def _different_outputs(subject: Subject, policy: TensorDictModule) -> bool:
    with set_exploration_type(ExplorationType.DETERMINISTIC), set_recurrent_mode(False):
        values = subject.policy_outputs(subject.policy_inputs(1).expand(COPIES).clone(), policy)
    return bool((values - values[0]).abs().max() > TOLERANCE * values.abs().max())


def causality(subject: Subject) -> Found:
    """Change the last observation of a slice; the policy's earlier outputs must not change."""
    indices = max(subject.slices, key=len)
    if len(indices) < 2 or not subject.state_keys:
        raise Skip("a recurrent policy and a slice of two steps are needed")
    if missing := [key for key in subject.state_inputs if subject.batch.get(key, None) is None]:
        raise Skip(f"the batch has no {missing[0]!r}")
    keys = [key for key in subject.policy.in_keys if key != subject.action_key]
    steps = subject.batch.reshape(-1)[indices].select(*keys)
    number = torch.arange(len(steps))
    steps["is_init"] = (number == 0).unsqueeze(-1)
    with set_recurrent_mode(True), set_exploration_type(ExplorationType.DETERMINISTIC):
        before = subject.policy_outputs(steps)
        changed = perturb(steps, number == len(steps) - 1, subject.policy_observations)
        after = subject.policy_outputs(changed)
    moved = (after - before)[:-1].abs().max()
    if moved > TOLERANCE * before.abs().max():
        yield (
            "sees-future",
            f"changing the last observation of a slice moved earlier outputs by up to {moved:.2g}",
        )
