"""Checks of what the policy's outputs depend on, and of what it leaves behind."""

from __future__ import annotations

import torch
from tensordict import NestedKey
from torch import Tensor
from torchrl.envs.utils import ExplorationType, set_exploration_type
from torchrl.modules import set_recurrent_mode

from recdqn.doctor.checks.common import TOLERANCE, Evidence, Found, is_image, name_of, transforms_of
from recdqn.doctor.probe import Skip
from recdqn.doctor.subject import Subject

FAR = 5.0  # standard deviations; larger ones are not those of normalised observations
STEPS = 32


def repeated_calls(subject: Subject) -> Found:
    """Call the policy twice with the same steps; its outputs must be the same, its inputs unchanged."""
    steps = subject.policy_inputs(
        min(STEPS, len(subject.steps) if subject.has("env") else subject.batch.numel())
    )
    with set_exploration_type(ExplorationType.DETERMINISTIC), set_recurrent_mode(False):
        first, second = subject.policy_outputs(steps), subject.policy_outputs(steps)
        td = steps.clone()
        subject.policy(td)
    if not torch.equal(first, second):
        yield (
            "memory-outside-data",
            f"two calls with the same {len(steps)} steps and random numbers gave outputs that differ by "
            f"{(first - second).abs().max():.2g}: the policy keeps something between calls",
        )
    for key in subject.policy_observations:
        if key in subject.policy.out_keys or steps.get(key, None) is None:
            continue
        if not torch.equal(td.get(key), steps.get(key)):
            yield Evidence(
                "input-overwritten",
                f"the policy changes {key!r}, which it reads: the buffer stores the changed values",
                key=key,
            )


def memory_use(subject: Subject) -> Found:
    """Change the recurrent states that the policy reads; its outputs must change."""
    if not subject.state_keys:
        raise Skip("the policy has no recurrent state")
    steps = subject.policy_inputs(
        min(STEPS, len(subject.steps) if subject.has("env") else subject.batch.numel())
    )
    keys = [key for key in subject.state_inputs if steps.get(key, None) is not None]
    if not keys:
        raise Skip("the steps hold no recurrent states")
    with set_exploration_type(ExplorationType.DETERMINISTIC), set_recurrent_mode(False):
        before = subject.policy_outputs(steps)
        ignored = [
            key
            for key in keys
            if (subject.policy_outputs(steps.clone().set(key, steps.get(key) + 0.5)) - before).abs().max()
            <= TOLERANCE * before.abs().max()
        ]
    if ignored:
        layers = [m for m in subject.policy.modules() if ignored[0] in getattr(m, "in_keys", ())]
        written = [k for m in layers[-1:] for k in m.out_keys if k not in [w for _, w in subject.state_keys]]
        unread = ", ".join(map(repr, written)) or "the recurrent layer's output"
        yield (
            "memory-ignored",
            f"changing {' or '.join(map(repr, ignored))} by 0.5 at {len(steps)} steps moved no output: "
            f"nothing reads {unread}",
            None,
            f"let the head read {unread}",
        )


def constant_inputs(subject: Subject) -> Found:
    """Look for observations that the policy reads and that never change."""
    keys = [k for k in subject.policy_observations if subject.steps[0].before.get(k, None) is not None]
    values = {k: torch.stack([step.before.get(k) for step in subject.steps]).double() for k in keys}
    constant = [k for k in keys if (values[k] == values[k].flatten()[0]).all()]
    if len(subject.steps) < 20 or not keys:
        raise Skip("the rollout is too short to know which observations change")
    if keys and not constant and all(_constant_in_episodes(subject, values[k]) for k in keys):
        others = _changing(subject, keys)
        if others:
            yield (
                "constant-input",
                f"{', '.join(map(repr, keys))}, which the policy reads, changes only where episodes begin; "
                f"the environment also returns {', '.join(map(repr, others))}",
                None,
                f"let the policy read {others[0]!r} too",
            )
    for key in constant:
        others = _changing(subject, keys)
        yield Evidence(
            "constant-input",
            f"{key!r}, which the policy reads, is {float(values[key].flatten()[0]):g} at all "
            f"{len(subject.steps)} steps"
            + (f"; the environment also returns {', '.join(map(repr, others))}" if others else ""),
            None if len(constant) == len(keys) else "warning",
            f"let the policy read {others[0]!r} in place of {key!r}" if others else None,
        )


def _constant_in_episodes(subject: Subject, values: Tensor) -> bool:
    """Return whether values ``[steps, *batch, ...]`` change only after a done step."""
    done = torch.stack([step.done for step in subject.steps])[:-1]
    same = (values[1:] == values[:-1]).reshape(*done.shape, -1).all(-1)
    return bool((same | done).all())


def _changing(subject: Subject, read: list[NestedKey]) -> list[NestedKey]:
    found = []
    for key in subject.env.observation_spec.keys(True, True):
        if key in ("is_init", "step_count", *read, *subject.state_inputs):
            continue
        values = [step.before.get(key, None) for step in subject.steps]
        if values[0] is not None and any(not torch.equal(v, values[0]) for v in values):
            found.append(key)
    return found


def normalisation(subject: Subject) -> Found:
    """Compare the observations after a normalising transform with mean 0 and standard deviation 1."""
    norms = [t for t in transforms_of(subject.env) if hasattr(t, "loc") and hasattr(t, "scale")]
    if not norms:
        raise Skip("no transform normalises observations")
    for norm in norms:
        for key in norm.out_keys:
            values = [step.before.get(key, None) for step in subject.steps]
            if values[0] is None or not values[0].is_floating_point():
                continue
            dims = subject.steps[0].before.ndim
            data = torch.stack(values).flatten(0, dims).double()
            if is_image(values[0], dims):  # a place of an image may always be bright
                data = data.reshape(-1, 1)
            mean, std = data.mean(0), data.std(0)
            name = f"{name_of(norm)}: {key!r}"
            if mean.abs().max() > FAR or std.max() > FAR:
                yield (
                    "norm-off",
                    f"{name} has means up to {mean.abs().max():.3g} and standard deviations up to "
                    f"{std.max():.3g} in "
                    f"{len(data)} steps; statistics of enough steps give 0 and 1",
                )
            elif not getattr(norm, "standard_normal", True) and _is_mean_and_deviation(norm, mean, std):
                yield (
                    "norm-off",
                    f"{name} is x * scale + loc, and its scale is the standard deviation of x: the result "
                    "has one of "
                    f"{std.min():.2g} to {std.max():.2g}, not 1",
                    None,
                    f"ObservationNorm(loc, scale, in_keys={list(norm.in_keys)!r}, standard_normal=True)",
                )


def _is_mean_and_deviation(norm: object, mean: torch.Tensor, std: torch.Tensor) -> bool:
    """Return whether ``x * scale + loc`` has the mean and deviation of x as loc and scale."""
    scale, loc = (torch.as_tensor(getattr(norm, name)).double() for name in ("scale", "loc"))
    if scale.shape != std.shape or not (std > 1e-9).any():
        return False
    x_std, x_mean = std / scale, (mean - loc) / scale
    ratio = (x_std / scale)[std > 1e-9]
    close = (x_mean - loc).abs() < 0.7 * x_std.clamp_min(1e-9)
    alike = (ratio > 0.5).all() and (ratio < 2).all() and close.all()
    return bool(alike and ((std < 0.6) | (std > 1.7)).any())
