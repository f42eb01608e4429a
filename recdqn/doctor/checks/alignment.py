"""Checks whether the entries of a stored step belong to the same step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tensordict import NestedKey, TensorDictBase, unravel_key
from torch import Tensor

from recdqn.doctor.checks.common import Evidence, Found, is_image
from recdqn.doctor.checks.data import steps_ahead
from recdqn.doctor.probe import Skip
from recdqn.doctor.stored import connected, flat, same_trajectory, vectors
from recdqn.doctor.subject import Subject

LAGS = (-1, 0, 1, 2)  # steps from an action to the change of an observation
CLEAR = 0.5  # share of the unexplained change that the action of one lag must explain
OUTLIER = 20  # times the median second difference
FEW = 60  # steps are too few for a regression


def observation_alignment(subject: Subject) -> Found:
    """Look for stored observations that are those of another step."""
    stored = subject.rows[0]
    keys = [k for k in subject.batch_observations if stored.get(unravel_key(("next", k)), None) is not None]
    pairs = same = late = early = 0
    for row in subject.rows:
        if len(row) < 4 or not keys:
            continue
        inner = ~row["next", "done"].reshape(len(row), -1).any(-1)
        inner = inner[:-3] & inner[1:-2] & inner[2:-1] & same_trajectory(row)[:-2]
        here, following = (_all(row, keys), _all(row["next"], keys))
        moves = (here[:-1] != here[1:]).any(-1)
        inner = inner & moves[:-2] & moves[1:-1] & (here[:-3] != here[2:-1]).any(-1)
        pairs += int(inner.sum())
        for ahead in (1, 2, 0):
            equal = (here[ahead : len(row) - 3 + ahead] == following[: len(row) - 3]).all(-1)
            count = int((equal & inner).sum())
            same, late, early = (
                same + count * (ahead == 1),
                late + count * (ahead == 2),
                early + count * (ahead == 0),
            )
    if pairs < 10 or not keys:
        raise Skip("there are too few stored steps with next observations")
    if steps_ahead(subject) > 2:
        raise Skip("next observations are several steps ahead")
    if same < pairs / 10 and max(late, early) > 0.8 * pairs:
        what = "the observation of the step before" if late > early else "its next observation"
        yield Evidence(
            "entry-shifted",
            f"{keys[0]!r} of a stored step is {what}, at {max(late, early)} of {pairs} steps: "
            f"{unravel_key(('next', keys[0]))!r} is {2 if late > early else 0} steps ahead of it",
            key=keys[0],
        )


def _all(row: TensorDictBase, keys: Sequence[NestedKey]) -> Tensor:
    """Return the observations of a row as vectors ``[T, D]``."""
    return torch.cat([vectors(row.get(key)).double() for key in keys], -1)


def action_alignment(subject: Subject) -> Found:
    """Find how many steps after an action the observations change with it, really and as stored."""
    key = next(
        (
            k
            for k in subject.batch_observations
            if subject.env_rows[0].get(k, None) is not None
            and subject.env_rows[0].get(k).is_floating_point()
            and not is_image(subject.env_rows[0].get(k), 1)
        ),
        None,
    )
    if key is None or steps_ahead(subject) > 1:
        raise Skip("there is no vector that could change with the actions")
    env = _explained(subject.env_rows, key, subject.action_key)
    stored = _explained(subject.rows, key, subject.action_key)
    best, now = int(env.argmax()), int(stored.argmax())
    if env[best] < CLEAR:
        raise Skip(f"the actions of single steps do not explain how {key!r} changes")
    if stored[now] > CLEAR and now != best and stored[best] < CLEAR / 2:
        shift = LAGS[best] - LAGS[now]
        late = f"{abs(shift)} step{'s' * (abs(shift) > 1)} {'late' if shift > 0 else 'early'}"
        yield Evidence(
            "entry-shifted",
            f"{subject.action_key!r} is stored {late}: in the environment an action explains "
            f"{env[best]:.0%} of the "
            f"change of {key!r} {LAGS[best] + 1} steps later, as stored {LAGS[now] + 1} steps later",
            key=subject.action_key,
        )
    elif stored.max() < env[best] / 5 and _varied(subject):
        yield (
            "action-not-executed",
            f"the stored {subject.action_key!r} explains {max(float(stored.max()), 0):.0%} of the change "
            f"of {key!r}; in "
            f"the environment the executed one explains {env[best]:.0%}",
        )


def _varied(subject: Subject) -> bool:
    """Return whether two of the stored actions are frequent."""
    action = flat(subject.rows).get(subject.action_key)
    counts = action.reshape(len(action), -1).unique(dim=0, return_counts=True)[1].sort().values
    return len(counts) > 1 and bool(counts[-2] > 0.2 * len(action))


def _explained(rows: Sequence[TensorDictBase], key: NestedKey, action: NestedKey) -> Tensor:
    """Return the share of second differences that the actions of each lag explain (R2), at best."""
    bends, acts = [], []
    for row in rows:
        if len(row) < 8 or row.get(unravel_key(("next", key)), None) is None:
            continue
        here, following = (
            vectors(row.get(key)).double(),
            vectors(row.get(unravel_key(("next", key)))).double(),
        )
        taken = row.get(action)
        taken = taken.reshape(len(row), -1).double()
        if taken.shape[-1] == 1:
            taken = torch.nn.functional.one_hot(taken.reshape(-1).long()).double()
        joined = connected(row, [key])
        for t in range(3, len(row) - 1):
            if joined[t - 3 : t + 1].all():
                bends.append(following[t] - 2 * here[t] + here[t - 1])
                acts.append(torch.stack([taken[t - lag] for lag in LAGS]))
            if len(bends) > 1_500:
                break
    if len(bends) < FEW:
        raise Skip("there are too few connected steps to find what an action changes")
    bend, act = torch.stack(bends), torch.stack(acts)
    size = bend.abs()
    usual = (size <= OUTLIER * size.median(0).values.clamp_min(1e-9)).all(-1)  # a jump has another cause
    bend, act = bend[usual], act[usual]
    if len(bend) < FEW:
        raise Skip("there are too few connected steps to find what an action changes")
    bend = bend - bend.mean(0)
    moving = bend.norm(dim=0) > 1e-9
    if not moving.any():
        raise Skip(f"{key!r} does not change")
    bend, result = bend[:, moving], []
    for lag in range(len(LAGS)):
        x = act[:, lag] - act[:, lag].mean(0)
        rest = bend - x @ torch.linalg.lstsq(x, bend, driver="gelsd").solution
        result.append((1 - (rest.norm(dim=0) / bend.norm(dim=0)).square()).max())
    return torch.stack(result)
