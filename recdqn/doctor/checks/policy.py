"""Checks of the policy: parameters, exploration, and what its outputs depend on."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.nn.parameter import UninitializedParameter
from torchrl.envs.utils import ExplorationType, set_exploration_type
from torchrl.modules import set_recurrent_mode

from recdqn.doctor.checks.common import TOLERANCE, Found, name_of
from recdqn.doctor.slices import perturb
from recdqn.doctor.subject import Skip, Subject

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
    """Give the policy the same step many times, without exploration."""
    policy = copy.deepcopy(subject.policy)
    for name, value in policy.named_buffers():
        if name.split(".")[-1] == "eps":
            value.fill_(1.0)  # exploration that is not switched off must show
    with set_exploration_type(ExplorationType.DETERMINISTIC), set_recurrent_mode(False):
        steps = subject.policy_inputs(1).expand(COPIES).clone()
        actions = policy(steps)["action"].reshape(COPIES, -1)
    if (actions != actions[0]).any():
        yield (
            "explores-in-evaluation",
            f"with exploration off (DETERMINISTIC), the policy chose {len(actions.unique(dim=0))} different "
            f"actions for {COPIES} copies of one step",
        )


def annealing(subject: Subject) -> Found:
    """Step a copy of each exploration module, and compare its epsilon with the number of stored steps."""
    modules = [m for m in subject.policy.modules() if hasattr(m, "eps_init") and hasattr(m, "step")]
    if not modules:
        raise Skip("the policy has no exploration with eps and step()")
    stored = 0
    if subject.has("buffer"):  # write_count counts the first dimension of the storage
        stored = subject.buffer.write_count * subject.buffer.storage.shape[1:].numel()
    for module in modules:
        first, now = float(module.eps_init), float(module.eps)
        frames = int(module.annealing_num_steps)
        stepped = copy.deepcopy(module)
        stepped.step(min(frames, 1_000))
        if float(stepped.eps) == now == first > 0.5:
            yield "exploration-frozen", f"{name_of(module)}: eps is {now:g}, and step() does not lower it"
        elif now == first > float(stepped.eps) and stored >= frames / 10:
            yield (
                "exploration-frozen",
                f"{name_of(module)}: eps is still {now:g} after {stored:,} stored steps; annealing takes "
                f"{frames:,}",
            )


def causality(subject: Subject) -> Found:
    """Change the last observation of a slice; the policy's earlier outputs must not change."""
    indices = max(subject.slices, key=len)
    if len(indices) < 2 or not subject.state_keys:
        raise Skip("a recurrent policy and a slice of two steps are needed")
    keys = [key for key in subject.policy.in_keys if key != "action"]
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
