"""Whether what the stored steps say of actions and rewards holds in the environment.

What a stored action or reward goes with is learnt from the stored steps, for each assignment of it to a
neighbouring step, and tried on steps of the environment.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import torch
from tensordict import NestedKey, TensorDictBase, unravel_key
from torch import Tensor

from recdqn.doctor.checks.common import Evidence, Found, is_image
from recdqn.doctor.checks.data import steps_ahead
from recdqn.doctor.fits import affine_error, fitted, inverse_deviation, nearest, slope_of, squared_error
from recdqn.doctor.probe import REWARD, Skip
from recdqn.doctor.stored import connected, same_trajectory, vectors
from recdqn.doctor.subject import Subject

LAGS = (0, 1, -1)  # steps by which a stored entry is late
MOST = 1_500  # stored steps that are compared
FEW = 60  # steps of the environment are too few
ENDS = 5  # last steps of episodes that are compared, at least
SUMMED = 5  # rewards, at most
ACTION_WEIGHT = 10.0  # of an action beside observations of standard deviation 1: its neighbours share it
WIDE = 64  # observations with more elements are projected
GAMMAS = (0.9, 0.95, 0.97, 0.98, 0.99, 0.995, 0.997, 0.999)


class Steps(NamedTuple):
    """Steps whose neighbours before and after are of the same episode.

    Attributes:
        here: observations, ``[N, D]``.
        context: observations and their last changes, ``[N, 2 D]``.
        after: next observations, ``[N, D]``.
        action: actions that are late by each of ``LAGS``, ``[N, lags, A]``, numbers as one-hot vectors.
        reward: rewards that are late by each of ``LAGS``, ``[N, lags]``.
        ahead: rewards of this and the following steps of the episode, ``[N, SUMMED]``; NaN after its end.
    """

    here: Tensor
    context: Tensor
    after: Tensor
    action: Tensor
    reward: Tensor
    ahead: Tensor


def stored_actions(subject: Subject) -> Found:
    """Predict next observations in the environment from stored steps with actions of this step or others."""
    env, stored = _both(subject)
    if env.action.dtype != torch.bool or not (env.action[:, 0].float().std(0) > 0).any():
        raise Skip("actions are not choices, or always the same")
    change, truth = stored.after - stored.here, env.after - env.here
    scale = inverse_deviation(stored.context)

    def acted(steps: Steps, lag: int = 0) -> Tensor:
        return torch.cat([steps.context * scale, ACTION_WEIGHT * steps.action[:, lag]], -1)

    own, asked = acted(env), acted(stored)
    without = squared_error(nearest(stored.context * scale, change, env.context * scale), truth)
    if without == 0:
        raise Skip("the actions do not change the observations")
    gains = [
        1 - squared_error(nearest(acted(stored, lag), change, own), truth) / without
        for lag in range(len(LAGS))
    ]
    best = max(range(len(LAGS)), key=gains.__getitem__)
    key = subject.action_key
    if best != 0 and gains[best] > 0.4 and gains[0] < gains[best] / 2:
        yield Evidence(
            "entry-shifted",
            f"{key!r} is stored {_late(LAGS[best])}: with the stored actions of that step, stored steps "
            f"predict {gains[best]:.0%} more of the change of observations in the environment than without "
            f"actions; with those of the same step {gains[0]:.0%}",
            key=key,
        )
        return
    right, none = (
        squared_error(nearest(x, truth, x, others=True), truth) for x in (own, env.context * scale)
    )
    possible = 1 - right / none if none else 0.0
    with_stored, none = (
        squared_error(nearest(x, truth, y), change)
        for x, y in ((own, asked), (env.context * scale, stored.context * scale))
    )
    told = 1 - with_stored / none if none else 0.0
    varied = stored.action[:, 0].float().mean(0).sort().values[-2] > 0.15
    if possible > 0.4 and told < possible / 6 and not (varied and max(gains) > possible / 6):
        yield (
            "action-not-executed",
            f"the stored {key!r} explains {max(told, 0):.0%} of how observations change; in the environment "
            f"the executed one explains {possible:.0%}",
        )


def stored_rewards(subject: Subject) -> Found:
    """Predict rewards in the environment from stored steps with the rewards of the same step or others."""
    env, stored = _both(subject)
    truth = env.reward[:, 0]
    if steps_ahead(subject) > 1:
        raise Skip("stored rewards may be sums over several steps")
    if not stored.reward.isfinite().all() or not truth.isfinite().all():
        raise Skip("there are rewards that are not finite")
    if truth.std() < 1e-9 or stored.reward[:, 0].std() < 1e-9:
        raise Skip("the rewards are all the same")
    known, asked = (torch.cat([s.here, s.after, s.action[:, 0]], -1) for s in (stored, env))
    guesses = [fitted(known, stored.reward[:, lag], asked) for lag in range(len(LAGS))]
    slopes = [slope_of(truth, guess) for guess in guesses]
    errors = [affine_error(truth, guess) for guess in guesses]
    sizes = list(_other_sizes(subject, env, guesses[0], errors[0], slopes[0]))
    yield from sizes
    best = min(range(len(LAGS)), key=errors.__getitem__)
    if not sizes and best != 0 and errors[best] < 0.5 * min(errors[0], 1.0) and slopes[best] > 0:
        yield Evidence(
            "entry-shifted",
            f"{REWARD!r} is stored {_late(LAGS[best])}: the stored rewards of that step predict "
            f"the environment's up to {errors[best]:.1%} of their variance, those of the same step up to "
            f"{errors[0]:.1%}",
            key=REWARD,
        )


def _multiplied_at_ends(subject: Subject, env: Steps, factor: float) -> bool:
    """Return whether stored rewards at the ends of episodes are the environment's times a factor, or may be.

    What the environment gives there is predicted from all its steps; where that fails on ends of its own,
    nothing is known.
    """
    known, truth = torch.cat([env.here, env.after, env.action[:, 0]], -1), env.reward[:, 0]
    own, asked = (_ends(subject, rows, env.action.shape[-1]) for rows in (subject.env_rows, subject.rows))
    if own is None or asked is None or min(len(own[1]), len(asked[1])) < ENDS:
        return True
    some, others = (tuple(part[k::2] for part in own) for k in (0, 1))
    known, truth = torch.cat([known, some[0]]), torch.cat([truth, some[1]])
    small = 0.4 * truth.std()
    if (fitted(known, truth, others[0]) - others[1]).abs().median() > small:
        return True
    off = asked[1] - factor * fitted(known, truth, asked[0])
    return bool(off.abs().median() < 2 * factor * small)


def _ends(subject: Subject, rows: Sequence[TensorDictBase], most: int) -> tuple[Tensor, Tensor] | None:
    """Return observations before and after with the action, and the rewards, of last steps of episodes."""
    keys = [k for k in subject.batch_observations if subject.env_rows[0].get(k, None) is not None]
    asked, rewards = [], []
    for row in rows:
        if any(row.get(unravel_key(("next", key)), None) is None for key in keys):
            return None
        at = row["next", "done"].reshape(len(row), -1).any(-1)
        both = [_joined([r.get(key)[at] for key in keys]) for r in (row, row["next"])]
        asked.append(torch.cat([*both, _choices(row.get(subject.action_key), most)[at]], -1))
        rewards.append(row["next", "reward"].reshape(len(row), -1)[at, 0].double())
    return torch.cat(asked), torch.cat(rewards)


def _other_sizes(subject: Subject, env: Steps, guess: Tensor, error: float, slope: float) -> Found:
    """Look for stored rewards that are sums, or multiples, of the environment's."""
    few = len(env.reward[:, 0].unique()) <= 4  # such rewards are compared one by one elsewhere
    if few or error > 0.2 or 0.6 < slope < 1.6:
        return
    steps, gamma = _sums(env, guess)
    if steps > 1:
        yield (
            "reward-differs",
            f"the stored rewards are sums of {steps} rewards with gamma {gamma:g}; but the next observation "
            "is the one after a single step",
        )
    else:
        if slope > 1 and not _multiplied_at_ends(subject, env, slope):
            yield (
                "reward-differs",
                f"the stored rewards are {slope:.3g} times the environment's inside episodes, and not at the "
                "ends of episodes: they are sums of several rewards; but the next observation is the one "
                "after a single step",
            )
            return
        yield Evidence(
            "scale-differs", f"the stored rewards are {slope:.3g} times the environment's", "warning"
        )


def _late(lag: int) -> str:
    return "one step late" if lag > 0 else "one step early"


def _both(subject: Subject) -> tuple[Steps, Steps]:
    keys = [
        k
        for k in subject.batch_observations
        if all(row.get(k, None) is not None for row in (subject.env_rows[0], subject.rows[0]))
    ]
    if not keys:
        raise Skip("no observation is both stored and in the environment")
    both = (subject.env_rows, subject.rows)
    most = max(int(_numbers(row.get(subject.action_key)).max()) for rows in both for row in rows)
    env, stored = (_steps(rows, keys, subject.action_key, most + 1) for rows in both)
    if len(env.here) < FEW or len(stored.here) < FEW:
        raise Skip("there are too few connected steps to compare with the environment")
    if env.here.shape[1:] != stored.here.shape[1:] or env.action.shape[1:] != stored.action.shape[1:]:
        raise Skip("stored observations or actions have other shapes than the environment's")
    return env, stored


def _steps(rows: Sequence[TensorDictBase], keys: Sequence[NestedKey], action: NestedKey, most: int) -> Steps:
    found: list[Steps] = []
    total = 0
    for row in reversed(rows):
        if len(row) < 4 or row.get(("next", "reward"), None) is None:
            continue
        joined = (
            connected(row, keys)
            & same_trajectory(row)
            & ~row["next", "done"].reshape(len(row), -1)[:-1].any(-1)
        )
        inner = torch.zeros(len(row), dtype=torch.bool)
        inner[1:-1] = joined[1:] & joined[:-1]
        at = inner.nonzero().squeeze(-1)[-MOST // min(len(rows), 8) :]
        if not len(at):
            continue
        reward = row["next", "reward"].reshape(len(row), -1)[:, 0].double()
        taken = _choices(row.get(action), most)
        alive = torch.ones(len(at), dtype=torch.bool)
        ahead = [reward[at]]
        for k in range(1, SUMMED):
            alive &= joined[(at + k - 1).clamp_max(len(joined) - 1)] & (at + k < len(row))
            ahead.append(torch.where(alive, reward[(at + k).clamp_max(len(row) - 1)], torch.nan))
        here = _joined([row.get(key)[at] for key in keys])
        found.append(
            Steps(
                here,
                torch.cat([here, here - _joined([row.get(key)[at - 1] for key in keys])], -1),
                _joined([row.get(key)[at + 1] for key in keys]),
                torch.stack([taken[at + lag] for lag in LAGS], 1),
                torch.stack([reward[at + lag] for lag in LAGS], 1),
                torch.stack(ahead, 1),
            )
        )
        total += len(at)
        if total >= MOST:
            break
    if not found:
        raise Skip("there are too few connected steps to compare with the environment")
    return Steps(*(torch.cat(parts) for parts in zip(*found, strict=True)))


def _joined(values: list[Tensor]) -> Tensor:
    """Return observations as vectors ``[N, D]``; large ones projected, always in the same way."""
    joined = torch.cat([_moments(v) if is_image(v, 1) else vectors(v).double() for v in values], -1)
    if joined.shape[-1] <= WIDE:
        return joined
    generator = torch.Generator().manual_seed(0)
    return joined @ torch.randn(joined.shape[-1], WIDE, generator=generator, dtype=joined.dtype)


def _moments(images: Tensor) -> Tensor:
    """Return the brightness of images and its mean place and spread, ``[N, 5 channels]``."""
    flat = images.double().flatten(1, -3)
    flat = flat.reshape(len(images), -1, *images.shape[-2:])
    total = flat.sum((-2, -1)).clamp_min(1e-9)
    found = [flat.mean((-2, -1))]
    for dim in (-2, -1):
        line = flat.sum(-1 if dim == -2 else -2)
        place = torch.arange(line.shape[-1], dtype=line.dtype)
        mean = (line * place).sum(-1) / total
        spread = (line * (place - mean.unsqueeze(-1)).square()).sum(-1) / total
        found += [mean, spread.sqrt()]
    return torch.cat(found, -1)


def _numbers(action: Tensor) -> Tensor:
    """Return choices as numbers ``[N]``; zeros for other actions."""
    flat = vectors(action)
    if flat.is_floating_point() or not flat.numel():
        return torch.zeros(1, dtype=torch.long)
    return flat.long().argmax(-1) if flat.shape[-1] > 1 else flat[:, 0].long()


def _choices(action: Tensor, most: int) -> Tensor:
    """Return choices as flags ``[N, most]``, and other actions as they are."""
    if action.is_floating_point():
        return vectors(action).double()
    return torch.nn.functional.one_hot(_numbers(action).clamp_min(0), most).bool()


def _sums(env: Steps, guess: Tensor) -> tuple[int, float]:
    """Return the number of rewards and the discount of the sums that the guesses are nearest to."""
    inside = env.ahead[:, -1].isfinite()
    if inside.sum() < FEW / 2:
        return 1, 1.0
    best, found = torch.inf, (1, 1.0)
    for steps, gamma in [(1, 1.0), *product(range(2, SUMMED + 1), GAMMAS)]:
        sums = env.ahead[inside, :steps] @ gamma ** torch.arange(steps, dtype=env.ahead.dtype)
        error, slope = affine_error(sums, guess[inside]), slope_of(sums, guess[inside])
        if error < best and (steps == 1 or 0.8 < slope < 1.25):
            best, found = error, (steps, gamma)
    return found
