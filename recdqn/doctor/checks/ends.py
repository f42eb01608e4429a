"""Checks of how episodes end and begin, in the environment and as stored."""

from __future__ import annotations

import copy
import random

import numpy as np
import torch
from tensordict import NestedKey, TensorDictBase
from torchrl.envs import TransformedEnv
from torchrl.envs.batched_envs import BatchedEnvBase
from torchrl.envs.common import EnvBase

from recdqn.doctor.checks.common import Evidence, Found, name_of, transforms_of
from recdqn.doctor.copies import copy_env
from recdqn.doctor.internals import worker_envs
from recdqn.doctor.probe import Skip
from recdqn.doctor.stored import (
    TRAJECTORY,
    connected,
    episode_lengths,
    episode_starts,
    flat,
    same_trajectory,
)
from recdqn.doctor.subject import Subject

SEED = 5
RESETS = 10  # fill what a stack of frames keeps
UNLIKELY = 0.01  # chance that stored episodes ended as they did


def stored_ends(subject: Subject) -> Found:
    """Compare the stored flags with those of the environment."""
    rows, env = flat(subject.rows), subject.env_rows
    done, terminated, truncated = (
        torch.cat([r.get(("next", key), r["next", "done"] & False).reshape(-1) for r in env])
        for key in ("done", "terminated", "truncated")
    )
    ends = int(done.sum())
    stored = {k: rows.get(("next", k), None) for k in ("done", "terminated", "truncated", "step_count")}
    if ends < 3 or stored["done"] is None:
        raise Skip("no episode of the rollout ended")
    now = stored["done"].reshape(-1)
    if not now.any():
        starts, usual = sum(map(_numbered_starts, subject.rows)), sum(map(len, env)) / ends
        if starts >= 5 and 0.4 < (len(now) / starts) / usual < 2.5:
            yield (
                "end-not-stored",
                f"{starts} episodes begin in {len(now)} stored steps, but no stored step is done: the last "
                "steps of episodes are missing",
            )
            return
    if stored["terminated"] is None or not now.any():
        raise Skip("no stored step is done")
    fell, number = stored["terminated"].reshape(-1) & now, int(now.sum())
    limit = _limit(subject, truncated & ~terminated)
    length = stored["step_count"]
    if length is None:
        length = torch.cat([episode_lengths(row) for row in subject.rows])
    if limit:
        at_limit = (length.reshape(-1) >= limit) & now
        if at_limit.sum() >= 1 and (fell & at_limit).sum() == at_limit.sum():
            yield (
                "end-mislabelled",
                f"the environment truncates an episode after {limit} steps; all {int(at_limit.sum())} "
                "stored episodes "
                "of that length are terminated",
            )
            return
    shorter = now & ~fell & ~_continued(subject)
    if limit:
        shorter &= length.reshape(-1) < limit
    usual, mean = sum(map(len, env)) / ends, len(now) / number
    share = float((terminated & done).sum()) / ends
    if not fell.any() and (1 - share) ** int(shorter.sum()) < UNLIKELY and mean < 2 * usual:
        yield (
            "end-mislabelled",
            f"{share:.0%} of {ends} episodes of the environment ended terminated, none of the {number} "
            f"stored ones, of which {int(shorter.sum())} are shorter than the limit",
        )


def _numbered_starts(row: TensorDictBase) -> int:
    """Count the episodes that begin with a number of their own, not those that a new collector cut off."""
    starts = episode_starts(row)
    if row.get(TRAJECTORY, None) is not None:
        starts[1:] &= ~same_trajectory(row)
    return int(starts.sum())


def _continued(subject: Subject) -> torch.Tensor:
    """Return which stored steps ``[N]`` go on in the next one, whatever their flags say."""
    keys = [k for k in subject.batch_observations if subject.rows[0].get(k, None) is not None]
    if not keys:
        return torch.zeros(sum(map(len, subject.rows)), dtype=torch.bool)
    found = []
    for row in subject.rows:
        found += [connected(row, keys), torch.zeros(1, dtype=torch.bool)]
    return torch.cat(found)


def _limit(subject: Subject, truncated: torch.Tensor) -> int | None:
    """Return the number of steps after which the environment truncates, if it is known."""
    limits = [getattr(t, "max_steps", None) for t in transforms_of(subject.env)]
    if found := [int(n) for n in limits if n]:
        return min(found)
    if not truncated.any():
        return None
    return int(torch.cat([episode_lengths(row, begins=True) for row in subject.env_rows])[truncated].min())


def resets(subject: Subject) -> Found:
    """Compare the last observation of episodes with the first of the next, and resets after other steps."""
    keys = _observations(subject)
    if not keys:
        raise Skip("the environment returns no observation")
    last, first = [], []
    for step in subject.steps:
        for e in step.done.reshape(-1).nonzero().flatten().tolist():
            last.append(_vector(step.taken["next"], keys, e))
            first.append(_vector(step.following, keys, e))
    if len(last) >= 3 and len(torch.stack(last).unique(dim=0)) > 1:
        same = sum(torch.equal(a, b) for a, b in zip(last, first, strict=True))
        if same == len(last):
            yield (
                "autoreset-step",
                f"{keys[0]!r} after a reset is the last one of the episode before, at all {same} ends: "
                "the first step "
                "of each episode happens between two episodes",
            )
            return
    yield from _remembered(subject, keys)


def _remembered(subject: Subject, keys: list[NestedKey]) -> Found:
    """Reset with the same seed before and after some steps."""
    env = copy_env(subject.given["env"])
    yield from _remembers(env, keys)
    inner = env.base_env if isinstance(env, TransformedEnv) else env
    if isinstance(inner, BatchedEnvBase):
        inner.reset()
        worker = worker_envs(inner)[0]
        yield from _remembers(worker, [k for k in keys if k in worker.observation_spec.keys(True, True)])


def _remembers(env: EnvBase, keys: list[NestedKey]) -> Found:
    if not isinstance(env, TransformedEnv) or not keys:
        return
    base = copy_env(env.base_env)
    inner = list(base.observation_spec.keys(True, True))
    if not torch.equal(_seeded(base, inner), _seeded(base, inner)):
        return  # set_seed does not make the resets repeatable
    for transform in transforms_of(env):
        if hasattr(transform, "freeze"):  # running statistics may change from reset to reset
            transform.freeze()
    state = copy.deepcopy(env.transform.state_dict())
    before = _seeded(env, keys)
    for _ in range(2):
        env.rollout(15, break_when_any_done=False)
        after = _seeded(env, keys)
        moved = float((after - before).abs().max())
        learnt = moved and _learnt(env, keys)
        env.transform.load_state_dict(state)
        if not moved:
            return
        if learnt and torch.equal(_seeded(env, keys), before):
            yield Evidence(
                "norm-learns",
                f"{learnt} changes at every step, and with it {keys[0]!r} after a reset with the same "
                f"seed, by up to {moved:.2g}",
                "note",
                "evaluate with the numbers of training, which then must not change",
            )
            return
    transforms = [name_of(t) for t in transforms_of(env)]
    yield (
        "reset-remembers",
        f"after a reset with the same seed {keys[0]!r} differs by up to "
        f"{(after - before).abs().max():.2g}, depending on "
        f"the steps before; one of {', '.join(transforms)} keeps something of the last episode",
    )


def _learnt(env: TransformedEnv, keys: list[NestedKey]) -> str | None:
    """Return the name of a transform's number that changes at each reset, also when frames are full."""
    for _ in range(RESETS):
        state, first = copy.deepcopy(env.transform.state_dict()), _seeded(env, keys)
    if torch.equal(first, _seeded(env, keys)):
        return None
    for name, value in env.transform.state_dict().items():
        number = isinstance(value, torch.Tensor) and value.is_floating_point()
        if number and not torch.equal(value, state[name]):
            *place, last = name.split(".")
            transform = env.transform[int(place[-1])] if place else env.transform
            return f"{last} of {name_of(transform)}"
    return None


def _seeded(env: object, keys: list[NestedKey]) -> torch.Tensor:
    torch.manual_seed(SEED)  # transforms may draw from the global generators
    np.random.seed(SEED)
    random.seed(SEED)
    env.set_seed(SEED)  # type: ignore[attr-defined]
    td: TensorDictBase = env.reset()  # type: ignore[attr-defined]
    return torch.cat([td.get(key).double().reshape(-1) for key in keys])


def _vector(td: TensorDictBase, keys: list[NestedKey], index: int) -> torch.Tensor:
    rows = td.reshape(-1)
    return torch.cat([rows.get(key)[index].double().reshape(-1) for key in keys])


def _observations(subject: Subject) -> list[NestedKey]:
    """Keys of the observations in the environment: those that the policy reads, or all."""
    spec = subject.env.observation_spec
    td = subject.steps[0].before
    known = subject.policy_observations if subject.has("policy") else list(spec.keys(True, True))
    other = {"is_init", "step_count", *subject.state_inputs}
    found = [k for k in known if td.get(k, None) is not None and k not in other]
    return [k for k in found if "recurrent_state" not in str(k) and "mask" not in str(k)]
