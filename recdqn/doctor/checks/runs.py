"""Whether the environment and the loss run at all."""

from __future__ import annotations

from torch.nn.parameter import UninitializedBuffer

from recdqn.doctor.checks.common import Found, name_of, transforms_of
from recdqn.doctor.limits import TimeUp, was_cut_off
from recdqn.doctor.probe import Skip
from recdqn.doctor.subject import Subject
from recdqn.errors import first_line


def runs(subject: Subject) -> Found:
    """Step the environment with random actions, and call the loss with a sampled batch."""
    if subject.has("env"):
        buffers = [b for t in transforms_of(subject.env) for b in t.buffers(recurse=False)]
        if not any(isinstance(b, UninitializedBuffer) for b in buffers):  # that is a bug of its own
            yield from _environment(subject)
    if subject.has("loss") and subject.has("batch"):
        batch = subject.batch.clone()
        try:
            subject.loss(batch)
        except Exception as error:
            if was_cut_off(error):
                raise TimeUp from None
            yield "does-not-run", f"{name_of(subject.loss)} fails with a sampled batch: {first_line(error)}"


def _environment(subject: Subject) -> Found:
    try:
        error, step = subject.rollout.env_error, len(subject.rollout.steps)
    except Skip as skip:
        yield "does-not-run", f"{skip}"
        return
    if error is not None:
        yield "does-not-run", f"step {step} of the environment fails, with a random action: {error}"
