"""Whether the environment, the policy and the loss run at all, with finite numbers."""

from __future__ import annotations

from collections.abc import Mapping

from tensordict import TensorDictBase, unravel_key
from torch import Tensor
from torch.nn.parameter import UninitializedBuffer

from recdqn.doctor.checks.common import Found, name_of, transforms_of
from recdqn.doctor.limits import TimeUp, was_cut_off
from recdqn.doctor.probe import Skip
from recdqn.doctor.subject import Subject
from recdqn.errors import first_line


def runs(subject: Subject) -> Found:
    """Step the environment with random actions, with the policy beside, and call the loss with a batch."""
    if subject.has("env"):
        buffers = [b for t in transforms_of(subject.env) for b in t.buffers(recurse=False)]
        if not any(isinstance(b, UninitializedBuffer) for b in buffers):  # that is a bug of its own
            yield from _environment(subject)
    if subject.has("loss") and subject.has("batch"):
        batch = subject.batch.clone()
        try:
            out = subject.loss(batch)
        except (Exception, SystemExit) as error:
            if was_cut_off(error):
                raise TimeUp from None
            yield "does-not-run", f"{name_of(subject.loss)} fails with a sampled batch: {first_line(error)}"
        else:
            if not isinstance(out, Tensor | TensorDictBase | Mapping | tuple | list):
                yield (
                    "does-not-run",
                    f"{name_of(subject.loss)} returns a {type(out).__name__}: expected the loss, a tensor",
                )


def _environment(subject: Subject) -> Found:
    try:
        error, step = subject.rollout.env_error, len(subject.rollout.steps)
    except Skip as skip:
        yield "does-not-run", f"{skip}"
        return
    if error is not None:
        yield "does-not-run", f"step {step} of the environment fails, with a random action: {error}"
    elif (error := subject.rollout.policy_error) is not None:
        yield "does-not-run", f"the policy fails in the environment: {error}"
    elif subject.has("policy") and subject.action_key not in subject.steps[0].after.keys(True):
        wrote = ", ".join(map(repr, subject.policy.out_keys)) or "nothing"
        yield "does-not-run", f"the policy writes {wrote}, and not {subject.action_key!r}"


def finite_values(subject: Subject) -> Found:
    """Look for observations of the environment, and a loss of finite steps, that are not finite."""
    if subject.has("env"):
        reads = subject.policy_observations if subject.has("policy") else None
        for key in subject.env.observation_spec.keys(True, True):
            if reads is not None and unravel_key(key) not in reads:
                continue
            values = [step.before.get(key, None) for step in subject.steps]
            values = [v for v in values if isinstance(v, Tensor) and v.is_floating_point()]
            if bad := sum(not bool(value.isfinite().all()) for value in values):
                yield (
                    "not-finite",
                    f"{unravel_key(key)!r} of the environment is not finite at {bad} of {len(values)} steps",
                    None,
                    "find the transform, or the division by zero in the environment, that writes it",
                )
                return
    if subject.has("loss") and subject.has("batch"):
        values = [v for v in subject.batch.values(True, True) if isinstance(v, Tensor)]
        if not all(v.isfinite().all() for v in values if v.is_floating_point()):
            return  # the loss may be right
        if not (loss := subject.probe.total(subject.batch)).isfinite():
            yield (
                "not-finite",
                f"{name_of(subject.loss)} is {float(loss):g} for a batch of finite numbers",
                None,
                "find the division, the root or the logarithm of zero in it",
            )
