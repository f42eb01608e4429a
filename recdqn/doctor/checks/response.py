"""Checks of what the errors of a loss respond to: actions, rewards, ends and next observations."""

from __future__ import annotations

import torch
from tensordict import NestedKey, TensorDictBase, unravel_key
from torch import Tensor

from recdqn.doctor.checks.common import Evidence, Found, name_of
from recdqn.doctor.probe import Skip, same_values
from recdqn.doctor.slices import marked_starts, perturb, valid_steps
from recdqn.doctor.subject import Subject


def responses(subject: Subject) -> Found:
    """Change one kind of entry at a time; the errors of a Q-learning loss must change."""
    probe, batch = subject.probe, subject.probe.batch
    reward = batch.get(probe.reward, None)
    if reward is None or not _moves(
        subject, batch.clone().set(probe.reward, reward + 1 + reward.abs().max())
    ):
        if probe.kind == "none" or not _moves(subject, _other_ends(subject, True)):
            raise Skip("the loss does not read rewards or ends, so that it is not a loss of Q-learning")
        yield "reward-ignored", f"{name_of(subject.loss)}: other values of {probe.reward!r} moved no error"
        return
    yield from _actions(subject)
    if batch.get(("next", "terminated"), None) is not None and subject.slices:
        stops = list(_bootstrap(subject))
        yield from stops
        if not stops and not any(_moves(subject, _other_ends(subject, value)) for value in (True, False)):
            yield (
                "terminated-ignored",
                f"{name_of(subject.loss)}: changing ('next', 'terminated') at the ends of "
                f"{len(subject.slices)} slices moved no error: the target continues after the end of an "
                "episode",
            )


def _actions(subject: Subject) -> Found:
    batch, key = subject.probe.batch, subject.action_key
    action = batch.get(key, None)
    if action is None:
        return
    if action.is_floating_point():
        other = action.reshape(batch.numel(), -1).roll(1, -1).reshape(action.shape)
        changed = batch.clone().set(key, other)
    else:
        changed = perturb(batch, torch.ones(batch.numel(), dtype=torch.bool), [key])
    if torch.equal(changed.get(key), action) or _moves(subject, changed):
        return
    name, space = name_of(subject.loss), getattr(subject.loss, "action_space", None)
    shape = tuple(action.shape[batch.ndim :])
    says = f"; it has action_space={space!r}, and a stored action has the shape {shape}" if space else ""
    cure = f"{name}(..., action_space=env.action_spec), and store actions as the environment's spec has them"
    yield Evidence(
        "action-ignored",
        f"{name}: other values of {key!r} at every step moved no error{says}",
        None,
        cure if space else None,
    )


def masked_target(subject: Subject) -> Found:
    """Forbid other actions in the next step; the errors must change, since the target leaves these out."""
    batch = subject.probe.batch
    masks = [
        unravel_key(key)
        for key in batch["next"].keys(True, True)
        if "mask" in str(key) and batch["next"].get(key).dtype == torch.bool
    ]
    masks = [key for key in masks if batch["next"].get(key).shape[batch.ndim :].numel() > 1]
    if not masks or not _moves(subject, _other_ends(subject, True)):
        raise Skip("the batch has no action mask, or the loss has no target")
    key = unravel_key(("next", masks[0]))
    for index in range(batch[key].shape[-1]):
        only = torch.zeros_like(batch[key])
        only[..., index] = True
        if _moves(subject, batch.clone().set(key, only)):
            return
    yield (
        "action-mask-ignored",
        f"{name_of(subject.loss)}: no error depends on {key!r}: the target takes values of actions that it "
        "forbids",
        None,
        f"give the loss's network QValueModule(..., action_mask_key={masks[0]!r}), or set forbidden values "
        "to -inf before the maximum",
    )


def _moves(subject: Subject, changed: TensorDictBase, where: Tensor | None = None) -> bool:
    """Return whether a changed batch moves the errors, or the loss if errors are unknown."""
    probe = subject.probe
    where = valid_steps(probe.batch) if where is None else where
    if probe.baseline is not None:
        return bool(probe.moved(changed)[where].any())
    before, after = float(probe.total(probe.batch)), float(probe.total(changed))
    return after != before


def _last_steps(subject: Subject) -> Tensor:
    last = torch.zeros(subject.batch.numel(), dtype=torch.bool)
    for indices in subject.slices:
        if len(indices):
            last[indices[-1]] = True
    return last


def _other_ends(subject: Subject, value: bool) -> TensorDictBase:
    """Return the batch with ``"terminated"`` set at the last step of each slice."""
    batch = subject.probe.batch.clone()
    last = _last_steps(subject)
    for name in ("terminated", "done") if value else ("terminated",):
        flag = batch.get(("next", name), None)
        if flag is not None:
            batch.set(("next", name), torch.where(last.reshape(flag.shape), value, flag))
    return batch


def _bootstrap(subject: Subject) -> Found:
    """Change "done" and "truncated" where a slice ends but no episode terminates; no error must change."""
    batch = subject.probe.batch.clone()
    terminated, done = (batch["next", k].reshape(-1) for k in ("terminated", "done"))
    ends = _last_steps(subject) & done & ~terminated & valid_steps(batch)
    following = torch.ones_like(ends)
    following[:-1] = marked_starts(batch)[1:]
    rows = torch.zeros(batch.shape, dtype=torch.bool)
    rows[..., -1] = True
    ends &= following | rows.reshape(-1)  # the next slice begins there in any case
    if not ends.any():
        yield from _next_at_ends(subject)
        return
    for name in ("done", "truncated"):
        flag = batch.get(("next", name), None)
        if flag is not None:
            batch.set(("next", name), flag & ~ends.reshape(flag.shape))
    if _moves(subject, batch, ends):
        yield (
            "bootstrap-stops",
            f"{name_of(subject.loss)}: at {int(ends.sum())} steps where a slice ends and no episode "
            "terminates, the "
            "target depends on ('next', 'done') or ('next', 'truncated'): it stops there",
        )
        return
    yield from _next_at_ends(subject)


def _next_at_ends(subject: Subject) -> Found:
    """Change the next observation where a slice ends but no episode terminates; its error must change."""
    probe, keys = subject.probe, subject.batch_observations
    batch = probe.batch
    ends = _last_steps(subject) & ~batch["next", "terminated"].reshape(-1) & valid_steps(batch)
    following = [unravel_key(("next", key)) for key in keys if batch.get(("next", key), None) is not None]
    if probe.baseline is None or not following or not ends.any():
        return
    reward = batch.get(probe.reward)
    other = batch.clone().set(probe.reward, reward + 1 + reward.abs().max())
    counted = ends & (probe.moved(other) > 0)
    changed = batch.clone().update(perturb(batch, ends, keys).select(*following))
    if same_values(batch, changed, following) or not _reads_later(subject):
        return
    if counted.sum() >= 2 and not (probe.moved(changed) > 0)[counted].any():
        yield (
            "bootstrap-stops",
            f"{name_of(subject.loss)}: at the {int(counted.sum())} steps where a slice ends and no episode "
            f"terminates, other values of {following[0]!r} moved no error: the target there is the reward "
            "alone",
            None,
            f"bootstrap the last step of a slice from {following[0]!r}, or leave it out of the loss",
        )


def _reads_later(subject: Subject) -> bool:
    try:
        return not any(target_time(subject))
    except Skip:
        return False


def target_time(subject: Subject) -> Found:
    """Change all observations after a step; its error must change, since its target reads them."""
    probe, keys = subject.probe, subject.batch_observations
    batch = probe.batch
    if not keys or probe.baseline is None:
        raise Skip("the errors of single steps are unknown")
    reward = batch.get(probe.reward, None)
    if reward is None or not _moves(subject, batch.clone().set(probe.reward, reward + 1)):
        raise Skip("the loss does not read rewards")
    longest = sorted((s for s in subject.slices if len(s) > 1), key=len)[-4:]
    moved = tried = 0
    for now, indices in [(s[k], s) for s in longest for k in (0, len(s) // 2 - 1)]:
        if batch["next", "terminated"].reshape(-1)[now] or probe.baseline[now] == 0:
            continue
        later = torch.zeros(batch.numel(), dtype=torch.bool)
        later[indices[indices > now]] = True
        changed = perturb(batch, later, keys)
        only = torch.zeros(batch.numel(), dtype=torch.bool)
        only[now] = True
        following = perturb(batch, only, keys)
        for key in keys:
            _take_next(changed, following, key, now)
        tried += 1
        moved += bool(probe.moved(changed)[now])
    if not tried:
        raise Skip("no slice has a step in the loss whose next observation is in the batch")
    if not moved:
        yield (
            "target-reads-now",
            f"{name_of(subject.loss)}: changing every observation after a step moved no error of {tried} "
            "steps: the "
            f"target reads {keys[0]!r} and not {unravel_key(('next', keys[0]))!r}",
        )


def _take_next(changed: TensorDictBase, other: TensorDictBase, key: NestedKey, index: Tensor) -> None:
    """Replace the next observation of one step by that of another batch."""
    name = unravel_key(("next", key))
    value = changed.get(name, None)
    if value is None:
        return
    flat = value.clone().reshape(changed.numel(), -1)
    flat[index] = other.get(name).reshape(changed.numel(), -1)[index]
    changed.set(name, flat.reshape(value.shape))
