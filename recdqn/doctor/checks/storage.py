"""Checks of what the buffer holds and of which part of it is sampled."""

from __future__ import annotations

import time

import torch
from tensordict import TensorDictBase, unravel_key
from torch import Tensor
from torchrl.envs.utils import ExplorationType, set_exploration_type
from torchrl.modules import set_recurrent_mode

from recdqn.doctor.checks.common import Evidence, Found, is_image, name_of
from recdqn.doctor.probe import Skip
from recdqn.doctor.report import Severity
from recdqn.doctor.slices import valid_steps
from recdqn.doctor.stored import TRAJECTORY, connected, flat, same_trajectory, sampled_indices, vectors
from recdqn.doctor.subject import Subject

DRAWS = 5  # sampled steps for each stored one
SECONDS = 0.5  # of sampling, at most
SMALL = 1e8  # bytes of images that any machine has
FAR = 0.2  # distance of stored states from the policy's, relative to their size


def finite_data(subject: Subject) -> Found:
    """Look for stored or sampled values that are not finite."""
    batches = [*subject.batches, *(_rows(subject))]
    for batch in batches:
        valid = valid_steps(batch)
        for key, value in batch.items(True, True):
            if not isinstance(value, Tensor) or not value.is_floating_point() or "mask" in str(key):
                continue
            bad = ~value.reshape(batch.numel(), -1).isfinite().all(-1) & valid
            if bad.any():
                yield (
                    "not-finite",
                    f"{unravel_key(key)!r} is not finite at {int(bad.sum())} of {batch.numel()} steps of "
                    "the "
                    f"{'buffer' if 'buffer' in subject.given else 'batch'}",
                    None,
                    "find what wrote it, and refuse it before it is stored: "
                    f"assert data[{unravel_key(key)!r}].isfinite().all()",
                )
                return


def _rows(subject: Subject) -> list[TensorDictBase]:
    try:
        return subject.rows if "buffer" in subject.given else []
    except Skip:
        return []


def stored_marks(subject: Subject) -> Found:
    """Compare the stored ``"is_init"`` with the steps that follow a done step."""
    keys = [k for k in subject.batch_observations if subject.rows[0].get(k, None) is not None]
    if subject.rows[0].get("is_init", None) is None or not keys:
        raise Skip("no 'is_init' is stored")
    false = inside = missed = starts = 0
    for row in subject.rows:
        done, marked = (row.get(k).reshape(len(row), -1).any(-1) for k in (("next", "done"), "is_init"))
        within = connected(row, keys) & ~done[:-1] & same_trajectory(row)
        false, inside = false + int((marked[1:] & within).sum()), inside + int(within.sum())
        missed, starts = missed + int((done[:-1] & ~marked[1:]).sum()), starts + int(done[:-1].sum())
    if false > inside / 100:
        also = f", and false at {missed} of {starts} first steps" if missed else ""
        yield (
            "init-false-start",
            f"stored 'is_init' is true at {false} of {inside} steps inside episodes{also}",
        )
    elif missed > starts / 2 and starts >= 3:
        yield "init-never-true", f"stored 'is_init' is false at {missed} of {starts} first steps of episodes"


def duplicates(subject: Subject) -> Found:
    """Look for steps that are stored more than once."""
    rows = flat(subject.rows)
    keys = [k for k in subject.batch_observations if rows.get(k, None) is not None]
    keys += [unravel_key(("next", k)) for k in keys if rows.get(unravel_key(("next", k)), None) is not None]
    marks = [k for k in (TRAJECTORY, "step_count") if rows.get(k, None) is not None]
    if not keys or len(rows) < 50:
        raise Skip("there are too few stored observations")
    columns = [vectors(rows.get(k)).double() for k in (*keys, *marks)]
    if len(marks) < 2 and not any(rows.get(k).is_floating_point() for k in keys):
        raise Skip("steps of a discrete environment look alike, and have no trajectory numbers")
    content = torch.cat(columns, -1)
    if content.shape[-1] > 512:  # images: two random sums tell them apart
        generator = torch.Generator().manual_seed(0)
        content = content @ torch.randn(content.shape[-1], 2, generator=generator, dtype=content.dtype)
    unique = len(content.unique(dim=0))
    if unique < 0.8 * len(rows):
        yield (
            "stored-twice",
            f"{len(rows) - unique} of {len(rows)} stored steps are copies of others, equal in "
            f"{', '.join(map(repr, (*keys[:1], *marks)))}",
            None,
            "give the collector replay_buffer=buffer, or call buffer.extend(data) in the loop, not both; "
            "and store "
            "data.clone() if a list keeps the collector's batches",
        )


def never_sampled(subject: Subject) -> Found:
    """Sample until each stored step should have been drawn several times, and count those that never were."""
    buffer = subject.buffer
    size = buffer.storage.shape[0] if len(buffer.storage.shape) == 1 else None
    total = len(buffer)
    seen: set[tuple[int, ...]] = set()
    drawn, deadline = 0, time.process_time() + SECONDS
    while drawn < DRAWS * total and time.process_time() < deadline:
        _, info = buffer.sample(return_info=True)
        index = sampled_indices(info).tolist()
        seen.update(map(tuple, index))
        drawn += len(index)
    if size is None and seen and len(next(iter(seen))) == 1:
        raise Skip("the sampler returns rows, not steps")
    if drawn < 2 * total:
        raise Skip(f"only {drawn} steps could be sampled in {SECONDS:g} s, of {total}")
    missed = 1 - len(seen) / total
    if missed > 0.4:
        sampler = subject.buffer.sampler
        strict = getattr(sampler, "strict_length", False)
        why = (
            f"; {name_of(sampler)} has strict_length=True, which leaves out shorter episodes"
            if strict
            else ""
        )
        yield (
            "never-sampled",
            f"{missed:.0%} of {total} stored steps were never among {drawn} sampled ones{why}",
            None,
            f"{name_of(sampler)}(..., strict_length=False)" if strict else None,
        )


def newest_states(subject: Subject) -> Found:
    """Compare the newest stored states with those that the policy computes from the stored inputs."""
    pairs = [(read, write) for read, write in subject.state_keys if write == unravel_key(("next", read))]
    rows = [row[-100:] for row in subject.rows if len(row) > 1]
    newest: TensorDictBase = torch.cat([row.exclude("index") for row in rows[-8:]])
    pairs = [(r, w) for r, w in pairs if newest.get(r, None) is not None]
    if not any(newest.get(read).any() for read, _ in pairs):
        raise Skip("no recurrent states are stored")
    keys = [k for k in subject.policy.in_keys if newest.get(k, None) is not None and k != subject.action_key]
    with set_exploration_type(ExplorationType.DETERMINISTIC), set_recurrent_mode(False):
        torch.manual_seed(0)
        again = subject.policy(newest.select(*keys).clone())
    for read, write in pairs:
        stored, right = newest.get(write, None), again.get(write)
        if stored is None:
            return
        empty = vectors(stored == 0).all(-1) & vectors(right != 0).any(-1)
        distance = float((stored - right).norm() / right.norm().clamp_min(1e-12))
        if empty.float().mean() > 0.2:
            yield (
                "states-differ",
                f"stored {write!r} is zero at {int(empty.sum())} of the {len(newest)} newest steps, where "
                "the policy "
                "writes another value: in recurrent mode a layer writes its state only at the ends of rows",
                None,
                "collect outside set_recurrent_mode(True)",
            )
            return
        if distance > FAR:
            same = float((stored - newest.get(read)).norm() / stored.norm().clamp_min(1e-12)) < 1e-6
            cause = f"; it equals {read!r} of the same step" if same else ""
            yield Evidence(
                "states-differ",
                f"stored {write!r} of the {len(newest)} newest steps is {distance:.0%} away from what the "
                "policy "
                f"computes from the same inputs{cause}",
                None if distance > 0.5 else "warning",
                f"store {read!r} as the state before the step" if same else None,
                write,
            )
            return


def image_storage(subject: Subject) -> Found:
    """Count the bytes that images take in the storage."""
    stored, capacity = subject.batch, subject.batch.numel()
    if "buffer" in subject.given:
        storage = subject.buffer.storage
        stored = storage.get(slice(0, 1))
        stored = stored[0].unsqueeze(0) if isinstance(stored, list) else stored
        if not isinstance(stored, TensorDictBase):
            raise Skip("the storage does not hold TensorDicts")
        capacity = storage.max_size * stored.shape[storage.ndim :].numel()
    for key in map(unravel_key, stored.keys(True, True)):
        value = stored.get(key)
        if not isinstance(value, Tensor) or not is_image(value, stored.ndim):
            continue
        step = value.nbytes / stored.numel()
        severity: Severity | None = "note" if step * capacity < SMALL else None
        size = f"{step:,.0f} bytes per step, {step * capacity / 1e9:.2g} GB for {capacity:,} steps"
        if value.is_floating_point():
            small = value.numel() / stored.numel()
            message = f"{key!r} is {value.dtype}: {size}; as uint8 it takes {small:,.0f} per step"
            yield Evidence("pixels-float32", message, severity, key=key)
        if key[0] == "next" and (root := unravel_key(key[1:])) in stored.keys(True):
            message = f"{key!r} is stored in addition to {root!r}: {size} for the copy"
            yield Evidence("pixels-twice", message, severity, key=key)
