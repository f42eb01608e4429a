"""Checks of the recurrent state, from the step that writes it to the step that reads it."""

from __future__ import annotations

import torch
from tensordict import NestedKey, TensorDictBase, unravel_key
from torchrl.modules import set_recurrent_mode

from recdqn.doctor.checks.common import Evidence, Found
from recdqn.doctor.probe import Skip
from recdqn.doctor.rollout import StepRecord
from recdqn.doctor.subject import Subject

STATE_CODES = (
    "no-primer",
    "primer-mismatch",
    "out-key-without-next",
    "state-overwritten",
    "state-not-carried",
    "state-over-episode",
)


def state_flow(subject: Subject) -> Found:
    """Follow each recurrent state through a rollout."""
    if not subject.state_keys:
        raise Skip("the policy has no recurrent state")
    first, matches = subject.steps[0].before, True
    for read, write in subject.state_keys:
        for message in _primer_mismatch(subject, first, read, write):
            matches = False
            yield Evidence("primer-mismatch", message, key=read)
    if not matches:
        raise Skip("the primer does not match")
    if subject.rollout.policy_error is not None:
        raise Skip(f"the policy does not run in this environment ({subject.rollout.policy_error})")
    for read, write in subject.state_keys:
        yield from _one_state(subject.steps, read, write)


def _primer_mismatch(subject: Subject, first: TensorDictBase, read: NestedKey, write: NestedKey) -> list[str]:
    """Return a message if a reset gives the state another name or shape than the policy."""
    shape, value = _written_shape(subject, first, write), first.get(read, None)
    if value is None:
        alike = [k for k in first.keys(True, True) if first[k].shape == shape]
        if alike := [k for k in alike if k not in subject.policy.in_keys]:
            names = ", ".join(map(repr, alike))
            return [f"the policy reads {read!r}, but a reset returns {names}, which the policy does not read"]
    elif shape is not None and value.shape != shape:
        return [f"{read!r} has shape {list(value.shape)} after a reset, but the policy writes {list(shape)}"]
    return []


def _written_shape(subject: Subject, td: TensorDictBase, write: NestedKey) -> torch.Size | None:
    """Return the shape in which the policy writes a state if it reads none."""
    td = td.exclude(*subject.state_inputs).clone()
    td["is_init"] = torch.ones(*td.shape, 1, dtype=torch.bool)
    try:
        with set_recurrent_mode(False):
            return subject.policy(td)[write].shape
    except Exception:  # this policy cannot run without a state
        return None


def _one_state(steps: list[StepRecord], read: NestedKey, write: NestedKey) -> Found:
    lost = stale = kept = overwritten = 0
    initial = steps[0].before.get(read, None)
    filled = 0.0 if initial is None else float(initial.abs().max())  # largest value after a reset
    for step in steps:
        written, arrived = step.after[write], step.following.get(read, None)
        if write == read and read in step.before.keys(True):
            overwritten += int((step.before[read] != written).any())
        if arrived is None:
            lost += 1
            continue
        dims = step.done.ndim
        changed = (arrived != written).flatten(dims).any(-1)
        stale += int((changed & ~step.done).any())
        carried = step.done & ~changed & written.flatten(dims).any(-1)
        kept += int(carried.sum())
        if (fresh := step.done & ~carried).any():
            filled = max(filled, float(arrived[fresh].abs().max()))
    if kept:
        message = f"{kept} episodes began with the last {read!r} of the previous episode"
        yield Evidence("state-over-episode", message, key=read)
    elif filled:
        yield Evidence(
            "primer-mismatch",
            f"{read!r} is up to {filled:.2g} after a reset: the policy starts episodes from zero, but the "
            "loss would start them from this value",
            key=read,
        )
    if overwritten:
        message = f"the policy reads {read!r} and overwrites it with the new state"
        yield Evidence("state-overwritten", message, key=read)
    elif unravel_key(write) != unravel_key(("next", read)) and (lost or stale):
        yield Evidence(
            "out-key-without-next",
            f"the policy reads {read!r}, but writes {write!r}, which step_mdp does not move to {read!r}",
            key=read,
        )
    elif lost:
        yield Evidence(
            "no-primer",
            f"the policy wrote {write!r}, but {read!r} was missing after {lost} of {len(steps)} steps",
            key=read,
        )
    elif stale:
        yield Evidence(
            "state-not-carried",
            f"{read!r} was not the {write!r} that the policy wrote, after {stale} of {len(steps)} steps",
            key=read,
        )
