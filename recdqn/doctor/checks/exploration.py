"""Checks of exploration: its course over the collected steps, and the actions that were taken."""

from __future__ import annotations

import copy
from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor, nn
from torchrl.envs.utils import ExplorationType, set_exploration_type
from torchrl.modules import set_recurrent_mode

from recdqn.doctor.checks.common import Evidence, Found, name_of
from recdqn.doctor.probe import Skip
from recdqn.doctor.stored import flat
from recdqn.doctor.subject import Subject

COPIES = 64  # of one step, to compare the actions chosen in it
NEWEST = 500  # stored steps whose actions the policy chooses again
AT_ONCE = 100  # fewer steps of annealing are updates or collections, not environment steps


def explorers(policy: nn.Module) -> list[Any]:
    """Return the modules with an epsilon that is annealed."""
    return [m for m in policy.modules() if hasattr(m, "eps_init") and hasattr(m, "step")]


def annealing(subject: Subject) -> Found:
    """Step a copy of each exploration module, and compare its epsilon with the number of stored steps."""
    modules = explorers(subject.policy)
    if not modules:
        raise Skip("the policy has no exploration with eps and step()")
    stored = 0
    if subject.has("buffer"):  # write_count counts the first dimension of the storage
        stored = subject.buffer.write_count * subject.buffer.storage.shape[1:].numel()
    frames = subject.frames or stored
    for module in modules:
        first, last, now = float(module.eps_init), float(module.eps_end), float(module.eps)
        steps = int(module.annealing_num_steps)
        stepped = copy.deepcopy(module)
        stepped.step(min(steps, 1_000))
        name = f"{name_of(module)}: eps"
        if float(stepped.eps) == now == first > 0.5:
            yield "exploration-frozen", f"{name} is {now:g}, and step() does not lower it"
        elif now == first > float(stepped.eps) and stored >= steps / 10:
            yield (
                "exploration-frozen",
                f"{name} is still {now:g} after {stored:,} stored steps; annealing takes {steps:,}",
            )
        elif now - max(last, first - (first - last) * stored / max(steps, 1)) > 0.5 * (first - last) > 0.1:
            yield (
                "exploration-frozen",
                f"{name} is {now:.3g} after {stored:,} stored steps, at least; with annealing over "
                f"{steps:,} it would be {max(last, first - (first - last) * stored / steps):.3g}: "
                "step() is given too few steps",
            )
        elif now > last and stored >= steps / 20 and 0 < (first - now) / (first - last) < stored / steps / 20:
            yield (
                "exploration-frozen",
                f"{name} fell by {(first - now) / (first - last) * steps:,.0f} of its {steps:,} steps while "
                f"{stored:,} were stored: step() is given too few steps",
            )
        elif subject.frames and steps > 4 * subject.frames:
            yield Evidence(
                "exploration-frozen",
                f"{name} is annealed over {steps:,} steps, but {subject.frames:,} are planned",
                "warning",
            )
        elif (
            ((steps < AT_ONCE and frames > 10 * steps) or (subject.frames or 0) > 200 * steps)
            and first - last > 0.1
            and now <= last + 0.5 * (first - last)
        ):
            yield (
                "exploration-over",
                f"{name} fell from {first:g} to {now:g}: annealing takes {steps:,} steps, and {stored:,} "
                "are stored",
                None,
                f"EGreedyModule(spec, eps_init={first:g}, eps_end={last:g}, annealing_num_steps=...) "
                "counts environment "
                "steps, as step(data.numel()) does",
            )


def taken_actions(subject: Subject) -> Found:
    """Give the policy one step many times with epsilon 1, and compare stored actions with the best."""
    modules = explorers(subject.policy)
    if not modules:
        raise Skip("the policy has no exploration with eps and step()")
    policy = copy.deepcopy(subject.policy)
    for module in explorers(policy):
        module.eps.fill_(1.0)
    torch.manual_seed(0)
    with set_exploration_type(ExplorationType.RANDOM), set_recurrent_mode(False):
        steps = subject.policy_inputs(1).expand(COPIES).clone()
        actions = policy(steps)[subject.action_key].reshape(COPIES, -1)
    if len(actions.unique(dim=0)) == 1:
        order = [name_of(m) for m in getattr(policy, "module", ())]
        yield (
            "never-explores",
            f"with eps 1, the policy chose the same action for {COPIES} copies of one step; its modules "
            "are "
            f"{', '.join(order) or name_of(policy)}: what comes after {name_of(modules[0])} replaces its "
            "action",
            None,
            f"put {name_of(modules[0])} last: TensorDictSequential(..., QValueModule(...), "
            f"{name_of(modules[0])}(...))",
        )
        return
    eps = min(float(module.eps) for module in modules)
    if not subject.has("buffer") or eps < 0.1:
        return
    greedy, total = _greedy(subject, flat(subject.rows))
    if total >= 100 and greedy > 0.99 * total:
        yield (
            "never-explores",
            f"{greedy} of {total} stored actions are the best ones, although eps is {eps:.2g} or was "
            "larger: they were chosen without exploration",
            None,
            "collect with Collector(..., exploration_type=ExplorationType.RANDOM), the default",
        )


def _greedy(subject: Subject, rows: TensorDictBase) -> tuple[int, int]:
    """Return how many stored actions have the largest stored value, and how many can be told."""
    key = subject.action_key
    action = rows.get(key, None)
    prefix = () if isinstance(key, str) else key[:-1]
    value = rows.get((*prefix, "action_value"), rows.get("action_value", None))
    if action is None:
        return 0, 0
    if value is None or not value.is_floating_point():
        return _as_the_policy(subject, rows[-NEWEST:])
    value = value.reshape(len(rows), -1)
    chosen = action.long().argmax(-1).reshape(-1) if action.numel() == value.numel() else action.reshape(-1)
    clear = value.amax(-1) > value.amin(-1)
    if len(chosen) != len(rows):
        return 0, 0
    return int(((chosen == value.argmax(-1)) & clear).sum()), int(clear.sum())


def _as_the_policy(subject: Subject, rows: TensorDictBase) -> tuple[int, int]:
    """Return how many stored actions the policy would choose without exploration, and how many there are."""
    keys = [k for k in subject.policy.in_keys if k != subject.action_key]
    if any(rows.get(key, None) is None for key in keys):
        return 0, 0
    with set_exploration_type(ExplorationType.DETERMINISTIC), set_recurrent_mode(False):
        chosen = subject.policy(rows.select(*keys).clone())[subject.action_key].reshape(len(rows), -1)
    same = (chosen == rows[subject.action_key].reshape(len(rows), -1)).all(-1)
    return int(same.sum()), len(rows)


def masks(subject: Subject) -> Found:
    """Look for chosen or stored actions that an action mask forbids."""
    spec = subject.env.observation_spec
    for key in spec.keys(True, True):
        last = key if isinstance(key, str) else key[-1]
        if "mask" not in last or subject.steps[0].before.get(key).dtype != torch.bool:
            continue
        mask = torch.stack([step.before.get(key) for step in subject.steps])
        bad = torch.stack([_forbidden(mask, action) for action in _chosen(subject)]).any(0)
        if bad.any():
            yield (
                "action-mask-ignored",
                f"{key!r} forbids {int(bad.sum())} of {bad.numel()} actions that the policy chose",
                None,
                f"QValueModule(..., action_mask_key={key!r}) and EGreedyModule(..., "
                f"action_mask_key={key!r}), and a "
                "target that leaves out forbidden actions",
            )
            return
    else:
        if not any("mask" in str(key) for key in spec.keys(True, True)):
            raise Skip("the environment has no action mask")


def _chosen(subject: Subject) -> list[Tensor]:
    """Return the actions of the rollout's policy: with exploration, and without."""
    keys = [k for k in subject.policy.in_keys if subject.steps[0].before.get(k, None) is not None]
    steps = torch.stack([step.before.select(*keys) for step in subject.steps])
    found = [torch.stack([step.after.get(subject.action_key) for step in subject.steps])]
    with set_exploration_type(ExplorationType.DETERMINISTIC), set_recurrent_mode(False):
        out = subject.policy(steps.reshape(-1))
    return [*found, out[subject.action_key].reshape(found[0].shape)]


def _forbidden(mask: Tensor, action: Tensor) -> Tensor:
    if action.shape == mask.shape:  # one-hot
        return (action.bool() & ~mask).any(-1)
    return ~mask.gather(-1, action.long().reshape(*mask.shape[:-1], 1)).squeeze(-1)
