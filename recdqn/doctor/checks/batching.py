"""Whether one step of a batch changes what the policy does in another."""

from __future__ import annotations

import torch
from tensordict.nn import TensorDictModule
from torchrl.envs.utils import ExplorationType, set_exploration_type

from recdqn.doctor.checks.common import TOLERANCE, Found, name_of
from recdqn.doctor.copies import copy_part
from recdqn.doctor.probe import Skip
from recdqn.doctor.slices import perturb
from recdqn.doctor.subject import Subject


def sequential_mode(subject: Subject) -> Found:
    """Change one of two steps of different environments; the output of the other must not change.

    In evaluation mode only recurrent mode can be the reason. As the policy is, batch statistics can be.
    """
    if not subject.networks or not subject.policy_observations:
        raise Skip("the policy reads no observation")
    moved = _moved_by_the_other(subject, subject.policy)
    if moved > TOLERANCE and subject.state_keys:
        yield (
            "recurrent-mode-on",
            "outside the loss, changing one step moved the policy's output for an unrelated step by "
            f"{moved:.2g} of its size",
        )
        return
    given = copy_part(subject.given["policy"])
    if moved <= TOLERANCE and (moved := _moved_by_the_other(subject, given)) > TOLERANCE:
        names = sorted({name_of(m) for m in given.modules() if m.training and "Norm" in name_of(m)})
        yield (
            "batch-statistics",
            "the policy acts in training mode: changing one step moved its output for another environment "
            f"by {moved:.2g} of its size ({', '.join(names) or 'a module'} uses statistics of the batch)",
        )


def _moved_by_the_other(subject: Subject, policy: TensorDictModule) -> float:
    steps = subject.policy_inputs(2)
    changed = perturb(steps, torch.tensor([True, False]), subject.policy_observations)
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        before = subject.policy_outputs(steps, policy)
        after = subject.policy_outputs(changed, policy)
    return float((after - before)[1].abs().max() / before.abs().max().clamp_min(1e-12))
