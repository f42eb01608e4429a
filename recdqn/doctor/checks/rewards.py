"""Checks of the stored rewards, against those that the environment gives."""

from __future__ import annotations

from itertools import product

import torch
from tensordict import TensorDictBase
from torch import Tensor

from recdqn.doctor.checks.common import Evidence, Found
from recdqn.doctor.checks.data import steps_ahead
from recdqn.doctor.probe import REWARD, Skip
from recdqn.doctor.subject import Subject

FEW = 4  # different rewards, at most, of an environment whose rewards can be compared one by one
SEEN = 60  # steps of the environment from which its rewards are known
EXPECTED = 10  # rewards that are not 0, when all are
MANY = 20  # stored ends, of which none has a reward that many of the environment's ends have
RARE = 0.05  # share of stored steps whose rewards a short rollout may not have seen
GAMMAS = (0.9, 0.95, 0.97, 0.98, 0.99, 0.995, 0.997, 0.999)


def stored_rewards(subject: Subject) -> Found:
    """Compare stored rewards with the environment's: their values, and the steps at which each occurs."""
    env, stored = _classes(subject.env_rows), _classes(subject.rows)
    rewards, known = torch.cat(stored), torch.cat(env).unique()
    if sum(map(len, env)) < SEEN or not len(rewards):
        raise Skip("there are too few rewards to compare")
    if not rewards.isfinite().all():
        raise Skip("there are rewards that are not finite")
    share = torch.cat(env).count_nonzero() / sum(map(len, env))
    if not rewards.any() and torch.cat(env).count_nonzero() >= 3 and share * len(rewards) > EXPECTED:
        yield Evidence(
            "reward-differs",
            f"all {len(rewards)} stored rewards are 0, but {share:.0%} of the environment's are not "
            f"({_listed(known)})",
            None if share > RARE else "warning",  # a policy may miss rewards that are rare
        )
        return
    if len(known) > FEW:
        raise Skip("the environment has too many different rewards to compare them one by one")
    new = ~_among(rewards, known)
    if new.sum() >= 5 and steps_ahead(subject) == 1:
        others = list(_other_values(rewards, known, stored))
        yield from others
        if others:
            return
    yield from _late(env, stored)


def _classes(rows: list[TensorDictBase]) -> list[Tensor]:
    """Return the rewards of first, last and other steps of episodes."""
    found: list[list[Tensor]] = [[], [], []]
    for row in rows:
        reward, done = (row.get(("next", key)).reshape(len(row), -1)[:, 0] for key in ("reward", "done"))
        reward = (reward.double() * 1e5).round() / 1e5
        first = torch.zeros(len(row), dtype=torch.bool)
        first[1:] = done[:-1].bool()
        last = done.bool()
        for kind, where in enumerate((first & ~last, last, ~first & ~last)):
            found[kind].append(reward[where])
    return [torch.cat(parts) if parts else torch.zeros(0) for parts in found]


def _among(values: Tensor, known: Tensor) -> Tensor:
    """Return which values are known, up to rounding."""
    if not len(known):
        return torch.zeros(len(values), dtype=torch.bool)
    return (values[:, None] - known).abs().amin(1) < 2e-5 + 1e-3 * values.abs()


def _other_values(rewards: Tensor, known: Tensor, stored: list[Tensor]) -> Found:
    """Explain rewards that the environment never gives: a factor, or sums over several steps."""
    seen, strange = rewards.unique(), rewards[~_among(rewards, known)]
    factor = _factor(seen, known)
    if factor is not None:
        yield Evidence(
            "scale-differs",
            f"the stored rewards are {factor:g} times the environment's ({_listed(known)})",
            "warning",
        )
        return
    for gamma, steps in product(GAMMAS, (2, 3, 4, 5, 10)):
        if len(known) ** steps > 1_100:
            continue
        combinations = torch.cartesian_prod(*[known] * steps)
        discounts = gamma ** torch.arange(steps, dtype=known.dtype)
        sums = torch.stack([(combinations[:, :n] * discounts[:n]).sum(-1) for n in range(1, steps + 1)])
        if _among(strange, sums.flatten().unique()).float().mean() < 0.98:
            continue
        ends = stored[1]
        over = int((~_among(ends, known)).sum())
        where = f", and {over} of {len(ends)} sums run over the end of an episode" if over else ""
        yield (
            "reward-differs",
            f"the stored rewards are sums of {steps} rewards with gamma {gamma:g}{where}; but the next "
            "observation "
            "is the one after a single step",
        )
        return
    if len(strange) < RARE * len(rewards):
        return
    new = seen[~_among(seen, known)]
    yield Evidence(
        "reward-differs",
        f"{int((~_among(rewards, known)).sum())} of {len(rewards)} stored rewards, such as "
        f"{_listed(new)}, never "
        f"occur in the environment ({_listed(known)})",
        "warning",
    )


def _factor(seen: Tensor, known: Tensor) -> float | None:
    """Return the number that makes the known rewards the seen ones."""
    if not known.any() or not seen.any():
        return None
    factor = float(seen[seen.abs().argmax()] / known[known.abs().argmax()])
    return factor if _among(seen, known * factor).all() and abs(factor - 1) > 1e-3 else None


def _late(env: list[Tensor], stored: list[Tensor]) -> Found:
    """Look for rewards that only the last steps of episodes have, but are stored with first steps."""
    if min(map(len, env[:2])) < 3 or min(map(len, stored[:2])) < 3:
        raise Skip("there are too few episodes to compare the rewards of their first and last steps")
    for value in torch.cat(env).unique():
        (first, last, other), (late, end, _) = (
            [float(((c - value).abs() < 2e-5).float().mean()) if len(c) else 0.0 for c in classes]
            for classes in (env, stored)
        )
        only_last = first == 0 and other < RARE and last > 0.1
        clear = late > 0.5 * last and end < 0.5 * last
        never = end == 0 and late > 0.2 * last and len(stored[1]) >= MANY
        if only_last and (clear or never):
            yield Evidence(
                "entry-shifted",
                f"{REWARD!r} is one step late: in the environment the last step of an episode has the "
                f"reward {float(value):g}, at {last:.0%} of the ends; stored it is at {late:.0%} of the "
                f"first steps and {end:.0%} of the last",
                key=REWARD,
            )
            return


def _listed(values: Tensor) -> str:
    numbers = [f"{float(v):.4g}" for v in values[:3]]
    return ", ".join(numbers) + (", ..." if len(values) > 3 else "")
