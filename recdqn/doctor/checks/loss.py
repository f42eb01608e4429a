"""Checks of what the errors of a loss depend on."""

from __future__ import annotations

import torch
from tensordict import TensorDictBase
from torch import Tensor

from recdqn.doctor.checks.common import TOLERANCE, Found, name_of
from recdqn.doctor.probe import Skip, same_values
from recdqn.doctor.slices import perturb, valid_steps
from recdqn.doctor.subject import Subject


def slice_independence(subject: Subject) -> Found:
    """Change the observations of one slice; the errors of the other slices must not change."""
    probe, slices = subject.probe, [indices for indices in subject.slices if len(indices)]
    if len(slices) < 2:
        raise Skip("the batch has only one slice")
    for k in (0, len(slices) - 1):
        cause = torch.zeros(probe.batch.numel(), dtype=torch.bool)
        cause[slices[k]] = True
        effect = ~cause & valid_steps(probe.batch)
        moved, _ = probe.influence(changed_observations(subject, cause), effect)
        if moved > TOLERANCE:
            yield (
                "target-leak",
                f"{name_of(subject.loss)}: changing {subject.batch_observations[0]!r} in slice {k} of "
                f"{len(slices)} moved the errors of others by up to {moved:.2g} of the mean error",
            )
            return


def temporal_dependence(subject: Subject) -> Found:
    """Change the first observation of every slice; the errors of later steps must change."""
    if subject.policy_observations and not subject.state_keys:
        raise Skip("the policy has no recurrent state")
    probe = subject.probe
    longer = [indices for indices in subject.slices if len(indices) > 1]
    if not longer:
        raise Skip("every slice of the batch has only one step")
    cause, effect = (torch.zeros(probe.batch.numel(), dtype=torch.bool) for _ in range(2))
    for indices in longer:
        cause[indices[0]] = True
        effect[indices[1:]] = True
    moved, rounding = probe.influence(changed_observations(subject, cause), effect)
    if moved <= rounding:
        yield (
            "recurrent-mode-off",
            f"{name_of(subject.loss)}: changing the first {subject.batch_observations[0]!r} of "
            f"{len(longer)} slices moved no later error",
        )


def changed_observations(subject: Subject, where: Tensor) -> TensorDictBase:
    """Return the probe's batch with other observations at the steps ``where`` ``[N]``.

    Raises:
        Skip: if there are no observations, or they cannot be changed because all steps have the same.
    """
    keys, batch = subject.batch_observations, subject.probe.batch
    if not keys:
        raise Skip("the batch holds no observations that can be changed")
    changed = perturb(batch, where, keys)
    if same_values(batch, changed, keys):
        raise Skip(f"{keys[0]!r} is the same at every step of the batch")
    return changed
