"""The names that entries have in a reader's own pipeline, for the corrections that are printed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from tensordict import NestedKey, unravel_key

from recdqn.doctor.probe import REWARD
from recdqn.doctor.slices import MASKS
from recdqn.doctor.stored import TRAJECTORY, connected
from recdqn.doctor.subject import Subject


class Names(dict[str, Any]):
    """Names by the fields of a correction, such as ``"{observation!r}"``: found when a correction has them.

    A name that the parts do not show is the one that TorchRL gives by default.

    Args:
        subject: the parts; ``None`` for TorchRL's names.
        key: the entry that a finding is about: the fields ``key``, ``next_key``, and ``root`` without "next".
    """

    def __init__(self, subject: Subject | None = None, key: NestedKey | None = None) -> None:
        super().__init__()
        self.subject = subject
        if key is not None:
            root = _unprefixed(key)
            self |= {"key": unravel_key(key), "root": root, "next_key": unravel_key(("next", root))}

    def __missing__(self, name: str) -> Any:
        """Look for a name in the parts."""
        find, usual = NAMES[name]
        try:
            found = None if self.subject is None else find(self.subject)
        except Exception:  # the parts do not run, or lack what shows the name
            found = None
        self[name] = usual if found is None else found
        return self[name]


def _next_observation(subject: Subject) -> NestedKey:
    return unravel_key(("next", subject.batch_observations[0]))


def _trajectory(subject: Subject) -> NestedKey | None:
    """Return the key of the sampler, or an entry that changes where episodes begin and nowhere else."""
    row = subject.rows[0]
    told = (getattr(subject.buffer.sampler, "traj_key", None), TRAJECTORY)
    if found := [key for key in told if key is not None and row.get(key, None) is not None]:
        return found[0]
    inside = connected(row, subject.batch_observations) & ~row["next", "done"].reshape(-1)[:-1]
    for key in map(unravel_key, row.keys(True, True)):
        value = row.get(key)
        whole = not value.is_floating_point() and value.dtype != torch.bool and value.numel() == len(row)
        if whole and not inside.all() and torch.equal(value.reshape(-1).diff() == 0, inside):
            return key
    return None


def _reward(subject: Subject) -> NestedKey:
    """Return the key of the environment's rewards, in the next step."""
    if subject.has("env"):
        return unravel_key(("next", subject.env.reward_keys[0]))
    keys = [unravel_key(("next", key)) for key in subject.batch["next"].keys(True, True)]
    return next(key for key in keys if "reward" in key[-1])


def _unprefixed(key: NestedKey) -> NestedKey:
    """Return a key without its "next"."""
    key = unravel_key(key)
    return unravel_key(key[1:]) if isinstance(key, tuple) and key[0] == "next" else key


def _mask(subject: Subject) -> NestedKey | None:
    return next((key for key in MASKS if subject.batch.get(key, None) is not None), None)


def _primer(subject: Subject) -> str:
    """Return code that makes the primer of the policy's states."""
    states = set(subject.state_inputs)
    modules = list(getattr(subject.policy, "module", ()))
    for number, module in enumerate(modules):
        if hasattr(module, "make_tensordict_primer") and states <= set(map(unravel_key, module.in_keys)):
            return f"policy[{number}].make_tensordict_primer()"
    primed = [m.in_keys for m in subject.policy.modules() if hasattr(m, "make_tensordict_primer")]
    if states <= {unravel_key(key) for keys in primed for key in keys}:
        return "get_primers_from_module(policy)"
    step, specs = subject.steps[0], []
    for read, write in subject.state_keys:
        shape = tuple(step.after.get(write).shape[step.after.ndim :])
        specs.append(f"{read!r}: Unbounded({shape})")
    return f"TensorDictPrimer({{{', '.join(specs)}}})"


NAMES: dict[str, tuple[Callable[[Subject], Any], Any]] = {  # how a name is found, and TorchRL's
    "next_observation": (_next_observation, ("next", "observation")),
    "action": (lambda subject: subject.action_key, "action"),
    "reward": (_reward, REWARD),
    "reward_key": (lambda subject: _unprefixed(_reward(subject)), "reward"),
    "trajectory": (_trajectory, TRAJECTORY),
    "mask": (_mask, MASKS[0]),
    "primer": (_primer, "module.make_tensordict_primer()"),
}
