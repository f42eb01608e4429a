"""Rules between settings: values that are each in their range, and do not fit together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from recdqn.errors import show

MOST_STEPS = 100_000  # in a batch


class Rule(NamedTuple):
    """What settings must be together.

    Attributes:
        settings: dotted names; a message names the first.
        holds: whether their values, in this order, fit together.
        expected: words for the first value, with the values of all by number.
        training: only training needs it: without it, an environment and a policy can still be made.
    """

    settings: tuple[str, ...]
    holds: Callable[..., bool]
    expected: str
    training: bool = True


def misfits(values: dict[str, Any]) -> dict[Rule, str]:
    """Return the rules that do not hold, with a line for each, of those whose settings are all known."""
    broken = {}
    for rule in RULES:
        if values.keys() >= set(rule.settings):
            known = [values[name] for name in rule.settings]
            if not rule.holds(*known):
                expected = rule.expected.format(*map(show, known))
                broken[rule] = f"{rule.settings[0]}={show(known[0])}: expected {expected}"
    return broken


def _convolved(size: int, kernels: tuple[int, ...], strides: tuple[int, ...]) -> int:
    """Return what is left of ``size`` pixels after the patches of four pixels and the convolutions."""
    size //= 4
    for kernel, stride in zip(kernels, strides, strict=False):
        size = (size - kernel) // stride + 1 if size >= kernel else 0
    return size


def _fits_entries(values: tuple[float, ...], observation: str, visible: tuple[int, ...]) -> bool:
    return observation != "masked" or len(values) in (1, len(visible))


RULES = (
    Rule(
        ("env.stack", "env.observation"),
        lambda stack, seen: stack == 1 or seen != "pixels",
        "1 for env.observation={1}",
        training=False,
    ),
    Rule(
        ("env.workers", "env.num_envs"),
        lambda workers, envs: not workers or envs > 1,
        "False, or env.num_envs of at least 2",
        training=False,
    ),
    Rule(
        ("policy.kernels", "policy.channels"),
        lambda kernels, channels: len(kernels) == len(channels),
        "one entry for each of policy.channels={1}",
        training=False,
    ),
    Rule(
        ("policy.strides", "policy.channels"),
        lambda strides, channels: len(strides) == len(channels),
        "one entry for each of policy.channels={1}",
        training=False,
    ),
    Rule(
        ("policy.eps_end", "policy.eps_start"),
        lambda end, start: end <= start,
        "at most policy.eps_start={1}",
        training=False,
    ),
    Rule(
        ("env.image_size", "policy.kernels", "policy.strides", "env.observation"),
        lambda size, kernels, strides, seen: seen == "masked" or _convolved(size, kernels, strides) > 0,
        "a picture that is large enough for policy.kernels={1} and policy.strides={2}",
        training=False,
    ),
    Rule(
        ("train.frames_per_batch", "env.num_envs"),
        lambda frames, envs: frames % envs == 0,
        "a multiple of env.num_envs={1}",
    ),
    Rule(
        ("train.frames_per_batch", "env.num_envs"),  # TorchRL 0.14.1 cannot store one step each
        lambda frames, envs: envs == 1 or frames != envs,
        "at least two steps of each of env.num_envs={1}",
    ),
    Rule(
        ("env.num_envs", "scale.actors"),
        lambda envs, actors: actors == 0 or envs % actors == 0,
        "a multiple of scale.actors={1}",
    ),
    Rule(
        ("env.workers", "env.num_envs", "scale.actors"),
        lambda workers, envs, actors: not workers or actors == 0 or envs >= 2 * actors,
        "False, or at least two of env.num_envs={1} for each of scale.actors={2}",
    ),
    Rule(
        ("train.total_frames", "train.frames_per_batch", "train.warmup_frames"),
        lambda total, batch, warmup: max(total // batch, 1) * batch >= warmup,
        "enough for train.warmup_frames={2} in whole collections of train.frames_per_batch={1}, "
        "or no update would be made",
    ),
    Rule(
        ("replay.capacity", "train.frames_per_batch"),
        lambda capacity, frames: capacity >= frames,
        "room for a collection of train.frames_per_batch={1}",
    ),
    Rule(
        ("replay.slice_len", "replay.slices"),
        lambda length, slices: length * slices <= MOST_STEPS,
        f"at most {MOST_STEPS:,} steps in a batch of replay.slices={{1}}",
    ),
    Rule(
        ("replay.period", "replay.slice_len"),
        lambda period, length: period <= length,
        "at most replay.slice_len={1}, or the steps between slices would never be drawn",
    ),
    Rule(
        ("replay.shift", "env.image_size", "env.observation"),
        lambda shift, size, seen: seen != "pixels" or shift < size,
        "less than env.image_size={1}",
    ),
    Rule(
        ("loss.burn_in", "replay.slice_len"),
        lambda burn_in, length: burn_in < length,
        "less than replay.slice_len={1}, or no step would be left to learn from",
    ),
    *(
        Rule(
            (f"env.{name}", "env.observation", "env.visible"),
            _fits_entries,
            "1 entry, or one for each of env.visible={2}",
        )
        for name in ("loc", "scale")
    ),
)
