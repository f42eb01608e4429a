"""Checks of prioritised replay: the priorities, and the weights of the loss."""

from __future__ import annotations

import torch

from recdqn.doctor.checks.common import Evidence, Found, name_of
from recdqn.doctor.internals import priorities_of
from recdqn.doctor.probe import Skip
from recdqn.doctor.subject import Subject

WEIGHTS = ("priority_weight", "_weight")


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
