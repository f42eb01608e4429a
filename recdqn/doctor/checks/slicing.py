"""Checks of the slices of a batch: their length, and the padding between them."""

from __future__ import annotations

import torch
from torch import Tensor

from recdqn.doctor.checks.common import Found, name_of
from recdqn.doctor.probe import Skip
from recdqn.doctor.slices import MASKS
from recdqn.doctor.subject import Subject

FEW = 10  # stored steps are too few to tell how they are sampled


def slice_lengths(subject: Subject) -> Found:
    """Look for batches in which every slice is a single step, although the policy has a memory."""
    if subject.networks and not subject.state_keys:
        raise Skip("the policy has no recurrent state")
    if subject.batch.get("is_init", None) is None:
        raise Skip("the batch has no 'is_init'")
    if subject.has("buffer") and len(subject.buffer) < FEW:
        raise Skip(f"only {len(subject.buffer)} steps are stored")
    lengths = torch.tensor([len(s) for s in subject.slices if len(s)])
    if len(lengths) < 4 or lengths.double().mean() > 1.5:
        return
    index = subject.batch.get("index", None)
    near = ""
    if index is not None and index.shape[0] == subject.batch.numel():
        rows = index.reshape(len(index), -1)[:, 0]
        together = int(((rows[1:] - rows[:-1]) == 1).sum())
        near = f", and {together} of them follow the step before in the buffer"
    yield (
        "slices-of-one-step",
        f"{int((lengths == 1).sum())} of {len(lengths)} slices have one step: 'is_init' is true, or the "
        "step before is "
        f"done, at nearly every step{near}",
    )


def padding(subject: Subject) -> Found:
    """Change the rewards of steps that look like padding; the errors must not change."""
    probe, batch = subject.probe, subject.probe.batch
    if batch.ndim < 2:
        raise Skip("a flat batch has no padding")
    empty = torch.ones(batch.numel(), dtype=torch.bool)
    for value in batch.exclude("index", "collector").values(True, True):
        if isinstance(value, Tensor) and value.dtype != torch.bool:
            empty &= (value.reshape(batch.numel(), -1) == 0).all(-1)
    rows = empty.reshape(batch.shape)
    rows = rows & (rows.flip(-1).long().cumprod(-1).flip(-1) > 0)  # at the end of a row
    empty = rows.reshape(-1)
    if empty.sum() < 3 or not subject.batch_observations:
        raise Skip("the batch has no padding")
    reward = batch.get(probe.reward)
    changed = batch.clone().set(
        probe.reward, reward + empty.reshape(reward.shape).to(reward) * (1 + reward.abs().max())
    )
    moved, rounding = probe.influence(changed, empty)
    if moved > max(rounding, 1e-6):
        masks = [key for key in MASKS if batch.get(key, None) is not None]
        have = f"{masks[0]!r} is not read" if masks else "the batch has no mask"
        yield (
            "padding-counted",
            f"{name_of(subject.loss)}: changing the reward of {int(empty.sum())} padded steps of "
            f"{batch.numel()} moved "
            f"their errors; {have}",
        )
