"""Checks of prioritised replay: the priorities, and the weights of the loss."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torchrl.data import ReplayBuffer
from torchrl.data.replay_buffers.samplers import Sampler

from recdqn.doctor.checks.common import Evidence, Found, name_of
from recdqn.doctor.internals import copy_buffer, priorities_of, shares_priorities
from recdqn.doctor.names import Names
from recdqn.doctor.probe import Skip
from recdqn.doctor.slices import slice_starts
from recdqn.doctor.stored import sampled_indices
from recdqn.doctor.subject import Subject

WEIGHTS = ("priority_weight", "_weight")
LARGE = 1e6  # times the priority of other steps: a slice that has it is drawn nearly always
DRAWS = 30  # batches


def priorities(subject: Subject) -> Found:
    """Look at the priorities in the sampler, and at the entry from which the buffer updates them."""
    sampler = subject.buffer.sampler
    values = priorities_of(subject.buffer)
    if values is None:
        raise Skip("the sampler has no priorities of steps")
    key = getattr(subject.buffer, "priority_key", "td_error")
    if subject.has("loss"):
        batch = subject.batch.exclude(key).clone()
        subject.loss(batch)
        errors = batch.get(key, None)
        if errors is None:
            yield (
                "priorities-stuck",
                f"{name_of(subject.loss)} writes no {key!r} into the batch: "
                "buffer.update_tensordict_priority(batch) has "
                "nothing to read",
                None,
                f"let the loss write {key!r}, and call buffer.update_tensordict_priority(batch) after "
                "each update",
            )
            return
        if errors.numel() > 4 and (errors == errors.reshape(-1)[0]).all():
            yield (
                "priorities-stuck",
                f"{name_of(subject.loss)} writes the same {key!r} for all {errors.numel()} steps",
            )
            return
    if len(values) > 4 and (values == values[0]).all():
        yield Evidence(
            "priorities-stuck",
            f"all {len(values)} priorities of {name_of(sampler)} are {float(values[0]):.3g}: none was "
            "updated",
            "warning",
        )


def slice_priorities(subject: Subject) -> Found:
    """Give one step a priority far above the others, and see where it lies in the drawn slices."""
    if type(subject.buffer.sampler).update_priority is Sampler.update_priority:
        raise Skip("the sampler has no priorities")
    if subject.networks and not subject.state_keys:
        raise Skip("the policy has no recurrent state")
    longest = max(subject.slices, key=len)
    if subject.batch.ndim > 1 or len(longest) < 3:
        raise Skip("the sampler draws no slices of steps")
    buffer = copy_buffer(subject.given["buffer"])
    if shares_priorities(buffer, subject.given["buffer"]):
        raise Skip("the priorities cannot be copied")
    everywhere = torch.cartesian_prod(*(torch.arange(size) for size in _stored_shape(buffer)))
    buffer.update_priority(everywhere, torch.ones(len(everywhere)))
    index, start = _drawn(buffer)
    steps, which = index.unique(dim=0, return_inverse=True)
    usual = torch.stack([torch.bincount(which[s], minlength=len(steps)) for s in (start, ~start)])
    best = int(usual.amin(0).argmax())  # a step that other steps can precede, and that can begin a slice
    if not usual[:, best].all():
        raise Skip("no step is drawn both as the first of a slice and later")
    step = steps[best]
    buffer.update_priority(step.unsqueeze(0) if len(step) > 1 else step, torch.tensor([LARGE]))
    index, start = _drawn(buffer)
    at = (index == step).all(-1)
    first, held = int((at & start).sum()), int(at.sum())
    if held < DRAWS or first < 0.8 * held:
        return
    key, length = getattr(buffer, "priority_key", "td_error"), len(longest)
    message = (
        f"{name_of(buffer.sampler)} draws a slice by the priority of its first step: a step with the "
        f"largest priority was the first of {first} of {held} slices that had it; with equal ones, of "
        f"{int(usual[0, best])} of {int(usual[:, best].sum())}"
    )
    unread = _first_steps_are_not_counted(subject)
    if unread:
        message += f"; {name_of(subject.loss)} counts no error there (burn-in)"
    yield Evidence(
        "priorities-of-steps",
        message,
        None if unread else "note",
        f"draw by the errors of all steps of a slice: PrioritySliceSampler(slice_len={length}, "
        f"traj_key={Names(subject)['trajectory']!r}) of recdqn.replay; or update each step with the largest "
        f"{key!r} of the {length} steps from it on",
    )


def _drawn(buffer: ReplayBuffer) -> tuple[Tensor, Tensor]:
    """Return the indices ``[N, dimensions]`` of drawn steps, and which of them begin a slice, ``[N]``."""
    drawn = [buffer.sample(return_info=True) for _ in range(DRAWS)]
    return (
        torch.cat([sampled_indices(info) for _, info in drawn]),
        torch.cat([slice_starts(batch) for batch, _ in drawn]),
    )


def _stored_shape(buffer: ReplayBuffer) -> tuple[int, ...]:
    others = tuple(buffer.storage.shape[1:])
    return (len(buffer) // math.prod(others), *others)


def _first_steps_are_not_counted(subject: Subject) -> bool:
    """Return whether the error of most first steps of slices is 0, as in a burn-in."""
    if not subject.has("loss") or (errors := subject.probe.baseline) is None:
        return False
    slices = [indices for indices in subject.slices if len(indices) > 1]
    first = torch.stack([indices[0] for indices in slices])
    return bool(errors.any() and (errors[first] == 0).float().mean() > 0.5)


def weights(subject: Subject) -> Found:
    """Scale the weight of some steps; the loss must grow in proportion."""
    probe = subject.probe
    key = next((k for k in WEIGHTS if probe.batch.get(k, None) is not None), None)
    if key is None or probe.batch.get(key).numel() != probe.batch.numel():
        raise Skip("the batch has no weights of steps")
    batch = probe.batch
    weight = batch.get(key)
    half = (torch.arange(batch.numel()) % 2 == 0).reshape(weight.shape)
    totals = [
        float(probe.total(batch.clone().set(key, torch.where(half, weight * s, weight)))) for s in (0, 1, 2)
    ]
    first, second = totals[1] - totals[0], totals[2] - totals[1]
    size = max(map(abs, totals))
    if abs(first) < 1e-6 * size and abs(second) < 1e-6 * size:
        yield Evidence(
            "weights-wrong",
            f"{name_of(subject.loss)} does not read {key!r}: frequent draws of large errors are not "
            "corrected",
            None if (weight != weight.reshape(-1)[0]).any() else "note",
            key=key,
        )
    elif 2.5 < second / first < 3.5:
        yield Evidence(
            "weights-wrong",
            f"{name_of(subject.loss)} applies {key!r} twice: with twice the weight of half of the steps "
            f"it grows by {second:.3g}, with the first weight by {first:.3g}",
            key=key,
        )
