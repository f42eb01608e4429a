"""Checks of the replay buffer and its batches."""

from __future__ import annotations

import torch
from tensordict import NestedKey, TensorDictBase, unravel_key
from torch import Tensor

from recdqn.doctor.checks.common import Evidence, Found, is_image, name_of
from recdqn.doctor.checks.loss import slice_independence
from recdqn.doctor.internals import priorities_of
from recdqn.doctor.names import Names
from recdqn.doctor.probe import Skip
from recdqn.doctor.report import Severity
from recdqn.doctor.slices import adjacent, marked_starts, valid_steps
from recdqn.doctor.stored import TRAJECTORY, same_trajectory, vectors
from recdqn.doctor.subject import Subject

JUMP = 5  # times the largest second difference in the rollout
FEW = 30  # second differences are too few to know the largest
STATE_TOLERANCE = 1e-3  # a stored state may have been rounded


def continuity(subject: Subject) -> Found:
    """Look for steps that do not begin where the previous step ended, although nothing marks a break."""
    if (subject.has("policy") or subject.networks) and not subject.state_keys:
        raise Skip("the policy has no recurrent state, and may learn from single steps")
    if (ahead := steps_ahead(subject)) > 1:
        raise Skip(f"the next observation of a step is {ahead} steps ahead")
    pairs = breaks = at_cursor = in_storage = unmarked = renumbered = 0
    for batch in subject.batches:
        flat, apart = batch.reshape(-1), _disconnected(subject, batch)
        done, init = flat["next", "done"].reshape(-1)[:-1], marked_starts(batch)[1:]
        unexplained = apart & ~init & ~done
        pairs += int((adjacent(batch) & ~init & ~done).sum())
        breaks += int(unexplained.sum())
        stored_apart, cursor = _storage_breaks(subject, batch)
        in_storage += int((unexplained & stored_apart).sum())
        at_cursor += int((unexplained & cursor).sum())
        unmarked += int((apart & done & ~init).sum())
        if flat.get(TRAJECTORY, None) is not None and "buffer" in subject.given:
            renumbered += int((apart & init & ~done & ~stored_apart & same_trajectory(flat)).sum())
    if breaks > pairs / 2:
        yield Evidence(
            "unrelated-transitions",
            f"{breaks} of {pairs} steps do not begin where the previous one ended",
            fix=_slices_by_priority(subject),
        )
        return
    if at_cursor:
        yield "slice-over-cursor", f"at {at_cursor} of {pairs} steps, the oldest step follows the newest"
    if (others := breaks - at_cursor - in_storage) > 0:
        yield (
            "slice-over-episodes",
            f"{others} of {pairs} steps do not begin where the previous one ended, and nothing marks the "
            "break",
        )
    if renumbered:
        yield Evidence(
            "slice-over-episodes",
            f"at {renumbered} of {pairs} steps inside slices an episode begins without an end before it, and "
            f"both have the same {TRAJECTORY!r}: two collectors began to count at 0",
            "warning",
            "keep one collector for the whole training, or add to the numbers of each new one: "
            f"data[{TRAJECTORY!r}] += buffer[:][{TRAJECTORY!r}].max() + 1",
        )
    unmarked += in_storage
    if unmarked:
        message = f"'is_init' is false at the start of {unmarked} slices"
        severity: Severity | None = None
        if done_marks_slices(subject) and _restarts_after_done(subject):
            message += f"; {name_of(subject.loss)} starts a slice after each done step, and does not need it"
            severity = "note"
        cure = "batch['is_init'][0] = True; batch['is_init'][1:] |= batch['next', 'done'][:-1]"
        fix = f"after sampling: {cure}" if done_marks_slices(subject) else None
        yield Evidence("is-init-lost", message, severity, fix)


def _slices_by_priority(subject: Subject) -> str | None:
    """Return a correction that keeps the priorities, if the sampler has some."""
    if not subject.has("buffer") or priorities_of(subject.buffer) is None:
        return None
    return (
        f"{name_of(subject.buffer.sampler)} draws single steps: sample slices by PrioritySliceSampler("
        f"slice_len=..., traj_key={Names(subject)['trajectory']!r}) of recdqn.replay"
    )


def done_marks_slices(subject: Subject) -> bool:
    """Return whether each slice of the batch ends with a done step, as TorchRL's samplers mark it."""
    apart = _disconnected(subject, subject.batch)
    done = subject.batch["next", "done"].reshape(-1)[:-1]
    return bool((apart <= done).all())


def _restarts_after_done(subject: Subject) -> bool:
    """Return whether the loss keeps slices apart that only a done step separates."""
    if not subject.has("loss"):
        return False
    try:
        return not any(slice_independence(subject))
    except Exception:  # the loss's own checks report it
        return False


def steps_ahead(subject: Subject) -> int:
    """Return how many steps the next observation of most steps is ahead: 1, or more for n-step returns."""
    best, matches, pairs = 1, -1, 0
    for ahead in range(1, 11):
        found = total = 0
        for batch in subject.batches[:3]:
            flat = batch.reshape(-1)
            keys = [
                k for k in subject.batch_observations if flat.get(unravel_key(("next", k)), None) is not None
            ]
            if not keys or len(flat) <= ahead:
                return 1
            same = torch.ones(len(flat) - ahead, dtype=torch.bool)
            differ = torch.zeros(len(flat) - ahead, dtype=torch.bool)
            for key in keys:
                same &= vectors(flat[key][ahead:] == flat["next"].get(key)[:-ahead]).all(-1)
                differ |= vectors(flat[key][ahead:] != flat[key][:-ahead]).any(-1)
            found, total = found + int((same & differ).sum()), total + int(differ.sum())
        if found > matches:
            best, matches, pairs = ahead, found, total
    return best if matches > pairs / 2 else 1


def _disconnected(subject: Subject, batch: TensorDictBase) -> Tensor:
    """Return which adjacent steps ``[N - 1]`` do not connect: one ends elsewhere than the next begins."""
    keys = [k for k in subject.batch_observations if batch.get(unravel_key(("next", k)), None) is not None]
    if not keys or batch.numel() < 2:
        raise Skip("the batch holds no next observation to compare with")
    flat, apart = batch.reshape(-1), torch.zeros(batch.numel() - 1, dtype=torch.bool)
    for key in keys:
        apart |= vectors(flat[key][1:] != flat["next"].get(key)[:-1]).any(-1)
    return apart & adjacent(batch)


def _storage_breaks(subject: Subject, batch: TensorDictBase) -> tuple[Tensor, Tensor]:
    """Return which steps ``[N - 1]`` are not adjacent in the buffer, and which are at its write cursor."""
    index = batch.get("index", None)
    if "buffer" not in subject.given or index is None:
        return (torch.zeros(batch.numel() - 1, dtype=torch.bool),) * 2
    index, buffer = index.reshape(batch.numel(), -1), subject.buffer  # time first
    size = buffer.storage.shape[0]
    distance = (index[1:, 0] - index[:-1, 0]) % size
    together = (distance == 1) | (
        (distance == 0) & (batch.ndim > 1)
    )  # the steps of a stored row share an index
    together &= (index[1:, 1:] == index[:-1, 1:]).all(-1)
    return ~together, together & (distance == 1) & (index[1:, 0] == buffer.write_count % size)


def observation_jumps(subject: Subject) -> Found:
    """Compare the second differences of stored observations with those in the environment."""
    for key in subject.batch_observations:
        seen = [step.before.get(key, None) for step in subject.steps]
        dims = subject.steps[0].before.ndim
        if seen[0] is None or not seen[0].is_floating_point() or is_image(seen[0], dims):
            continue
        path = torch.stack(seen)  # [steps, *batch, elements]
        inside = ~torch.stack([step.done for step in subject.steps])
        usual = path.diff(n=2, dim=0)[inside[:-2] & inside[1:-1]].abs()
        if len(usual) < FEW:
            raise Skip("the rollout is too short to know how far observations jump")
        most = usual.amax(0)
        most[most == 0] = torch.inf  # elements that never changed say nothing
        far = count = 0
        for batch in subject.batches:
            flat = batch.reshape(-1)
            here, after = flat[key], flat["next"].get(key, None)
            if after is None:
                continue
            inner = adjacent(batch) & ~_disconnected(subject, batch) & ~marked_starts(batch)[1:]
            bend = (after[1:] - 2 * here[1:] + here[:-1]).abs()[inner]
            jumps = vectors(bend > JUMP * most + 1e-6).any(-1)
            far += int((jumps & ~_rewarded(flat)[1:][inner]).sum())
            count += len(bend)
        if far:
            yield (
                "impossible-steps",
                f"{key!r} jumps in {far} of {count} sampled steps: its second difference is more than "
                f"{JUMP} times the largest in {len(usual)} steps of the environment",
            )


def _rewarded(flat: TensorDictBase) -> Tensor:
    """Return which steps ``[N]`` inside episodes have another reward than most: a goal may move there."""
    reward = flat.get(("next", "reward"), None)
    if reward is None:
        return torch.zeros(len(flat), dtype=torch.bool)
    reward = reward.reshape(-1)
    return (reward != reward.mode().values) & ~flat["next", "done"].reshape(-1)


def stored_states(subject: Subject) -> Found:
    """Look for ``"is_init"`` and the recurrent states, and compare the states with what was written."""
    if subject.batch.get("is_init", None) is None:
        yield "is-init-lost", "the batch has no 'is_init'"
    for key in subject.state_inputs:
        values = [batch.get(key, None) for batch in subject.batches]
        if any(value is None for value in values):
            yield _lost(subject, f"the batch has no {key!r}", key)
        elif not any(value.any() for value in values) and max(map(len, subject.slices)) > 1:
            yield _lost(subject, f"{key!r} is zero at every step of {len(values)} batches", key)
        else:
            yield from _partly_lost(subject, key)
            yield from _stored_state(subject, key)


def _lost(subject: Subject, message: str, key: NestedKey) -> Evidence:
    """Report states that are missing; a note if the loss runs and does not read the states."""
    severity: Severity | None = None
    if subject.has("loss") and not reads_states(subject):
        message += f"; {name_of(subject.loss)} starts every slice from zero and does not read it"
        severity = "note"
    return Evidence("state-lost", message, severity, key=key)


def reads_states(subject: Subject) -> bool:
    """Return whether other stored states move the errors of the loss, or it fails without them."""
    try:
        probe, keys = subject.probe, subject.state_inputs
        batch = probe.batch.clone()
        for key in keys:
            old = batch.get(key, None)
            if old is None:
                for value in _state_values(subject, key):
                    batch.set(key, torch.ones(*batch.shape, *value.shape[1:]))
            else:
                batch.set(key, old + 1.0)
        everywhere = torch.ones(batch.numel(), dtype=torch.bool)
        moved, rounding = probe.influence(batch, everywhere)
        return moved > rounding
    except Exception:
        return True


def _state_values(subject: Subject, key: NestedKey) -> list[Tensor]:
    """Return values of a state ``[steps, ...]`` in the rollout, if there is one."""
    if not (subject.has("env") and subject.has("policy")):
        return []
    values = [step.before.get(key, None) for step in subject.steps[:1]]
    return [
        value.reshape(-1, *value.shape[subject.steps[0].before.ndim :])
        for value in values
        if value is not None
    ]


def _partly_lost(subject: Subject, key: NestedKey) -> Found:
    """Look for sampled steps inside episodes whose state is zero, although the state of others is not."""
    empty = inside = 0
    for batch in subject.batches:
        flat = batch.reshape(-1)
        later = adjacent(batch) & ~_disconnected(subject, batch) & ~flat["next", "done"].reshape(-1)[:-1]
        empty += int((later & vectors(flat[key] == 0).all(-1)[1:]).sum())
        inside += int(later.sum())
    if empty > inside / 50:
        yield _lost(subject, f"{key!r} is zero at {empty} of {inside} steps inside episodes", key)


def _stored_state(subject: Subject, key: NestedKey) -> Found:
    """Compare a state with what the previous step wrote, and with zero where episodes begin."""
    stale = pairs = kept = starts = 0
    for batch in subject.batches:
        flat = batch.reshape(-1)
        count, written = flat.get("step_count", None), flat.get(unravel_key(("next", key)), None)
        if count is not None:
            start = (count.reshape(-1) == 0) & valid_steps(batch)
            kept += int(vectors(flat[key][start]).any(-1).sum())
            starts += int(start.sum())
        if written is not None:
            inside = adjacent(batch) & ~_disconnected(subject, batch) & ~marked_starts(batch)[1:]
            inside &= ~flat["next", "done"].reshape(-1)[:-1]
            far = vectors((flat[key][1:] - written[:-1]).abs() > STATE_TOLERANCE).any(-1)
            stale, pairs = stale + int((inside & far).sum()), pairs + int(inside.sum())
    if stale > pairs / 10:
        following = unravel_key(("next", key))
        late = all(torch.equal(b[key], b[following]) for b in subject.batches)
        cause = f"; it is {following!r} of the same step, the state after it" if late else ""
        yield Evidence(
            "state-not-carried",
            f"stored {key!r} is not what the previous step wrote, at {stale} of {pairs} steps{cause}",
            None,
            f"store {key!r} as the policy read it, before the step" if late else None,
            key,
        )
    if kept:
        message = f"stored {key!r} is not zero at {kept} of {starts} first steps of episodes"
        yield Evidence("state-over-episode", message, key=key)
