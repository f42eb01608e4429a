"""Checks of the environment alone."""

from __future__ import annotations

import torch
from tensordict import NestedKey, TensorDictBase
from torch import Tensor
from torch.nn.parameter import UninitializedBuffer
from torchrl.envs import Compose, Transform, TransformedEnv, UnaryTransform

from recdqn.doctor.checks.common import Evidence, Found, is_image, name_of, transforms_of
from recdqn.doctor.internals import gymnasium_env
from recdqn.doctor.probe import Skip
from recdqn.doctor.rollout import STEPS
from recdqn.doctor.subject import Subject
from recdqn.envs.statistics import learned

SHOWN = 0.9999  # squared correlation of an element with itself, scaled and shifted
REVEALED = 0.5  # share of a hidden element's unexplained variance that an entry must explain to be a leak
VECTOR_SIZE = 64  # largest number of elements of an entry that is read as a vector
RAW = "doctor_raw"  # entry for the observation of the base environment


def statistics(subject: Subject) -> Found:
    """Reset the environment; if that fails, look for transforms without statistics."""
    try:
        subject.env.reset()
    except Skip:
        raise
    except Exception:
        for transform in transforms_of(subject.env):
            if any(isinstance(b, UninitializedBuffer) for b in transform.buffers(recurse=False)):
                keys = ", ".join(map(repr, transform.in_keys))
                yield "norm-uninitialised", f"{name_of(transform)} of {keys} has no statistics: reset() "
                "fails"


def image_statistics(subject: Subject) -> Found:
    """Feed each transform a constant image; the result must be constant, or vary in both directions."""
    td = subject.steps[0].before
    for transform in transforms_of(subject.env):
        for key in transform.in_keys:
            image = td.get(key, None)
            if image is None or not is_image(image, td.ndim) or not image.is_floating_point():
                continue
            out = _transformed(transform, td, key, torch.full_like(image, 0.5))
            if out is None or out.shape != image.shape:
                continue
            rows, columns = (float((out.amax(dim) - out.amin(dim)).abs().max()) for dim in (-2, -1))
            if (rows > 1e-6) != (columns > 1e-6):
                which = "column" if columns > rows else "row"
                yield (
                    "norm-per-column",
                    f"{name_of(transform)} makes a constant image in {key!r} vary by "
                    f"{max(rows, columns):.2g} from {which} to {which}: its statistics differ by {which}",
                )


def learning_wrappers(subject: Subject) -> Found:
    """Look for wrappers with running statistics around the Gymnasium environment."""
    for name, _, _ in learned(gymnasium_env(subject.env)):
        yield (
            "norm-learns",
            f"{name.partition(' ')[2]} changes at every step: each copy of the environment, and so each "
            "evaluation, has statistics of its own",
        )
    yield from _learning_transforms(subject)


def _learning_transforms(subject: Subject) -> Found:
    for transform in transforms_of(subject.env):
        if hasattr(transform, "frozen_copy") and not getattr(transform, "frozen", False):
            yield Evidence(
                "norm-learns",
                f"{name_of(transform)} learns at every step, also in an evaluation of the same environment",
                "note",
                "evaluate in an environment with its frozen_copy()",
            )


def _transformed(transform: Transform, td: TensorDictBase, key: NestedKey, image: Tensor) -> Tensor | None:
    """Return what ``transform`` makes of an image; ``None`` if it does not apply to this one."""
    try:
        out = transform(td.clone(recurse=False).set(key, image))
        return out.get(transform.out_keys[transform.in_keys.index(key)])
    except Exception:  # it reads other images, or works only inside an environment
        return None


def episode_starts(subject: Subject) -> Found:
    """Compare ``"is_init"`` with the steps at which episodes began."""
    steps = subject.steps
    if steps[0].before.get("is_init", None) is None:
        yield "no-init-tracker", "env.reset() returns no 'is_init'"
        return
    began = torch.ones_like(steps[0].done)
    missed = starts = false = others = 0
    for step in steps:
        marked = step.before["is_init"].reshape(began.shape)
        missed, starts = missed + int((began & ~marked).sum()), starts + int(began.sum())
        false, others = false + int((marked & ~began).sum()), others + int((~began).sum())
        began = step.done
    if missed:
        yield "init-never-true", f"'is_init' is false at {missed} of {starts} first steps of episodes"
    if false:
        yield "init-false-start", f"'is_init' is true at {false} of {others} steps inside episodes"


def hidden_values(subject: Subject) -> Found:
    """Predict the base environment's hidden values from the observations, by linear regression."""
    env = subject.env
    if not isinstance(env, TransformedEnv):
        raise Skip("the environment has no transforms that hide anything")
    spec, dims = env.base_env.observation_spec, env.ndim
    vectors = [k for k in spec.keys(True, True) if spec[k].dtype.is_floating_point]
    vectors = [k for k in vectors if spec[k].shape[dims:].numel() <= VECTOR_SIZE]
    if not vectors:
        raise Skip("the base environment returns no vector")
    record = UnaryTransform(in_keys=vectors[:1], out_keys=[RAW], fn=torch.clone)
    recorded = TransformedEnv(env.base_env, Compose(record, *(t.clone() for t in transforms_of(env))))
    data = recorded.rollout(max(50, STEPS // max(1, env.numel())), break_when_any_done=False).reshape(-1)
    truth = data[RAW].reshape(len(data), -1).double()

    keys = [k for k in recorded.observation_spec.keys(True, True) if k not in (RAW, "is_init", "step_count")]
    if subject.has("policy"):
        keys = [k for k in keys if k in subject.policy_observations]
    values = {k: data[k].reshape(len(data), -1) for k in keys}
    values = {
        k: v.double() for k, v in values.items() if v.is_floating_point() and v.shape[-1] <= VECTOR_SIZE
    }
    for key, value in values.items():
        # Elements of the truth that are in this entry
        shown = (_squared_correlation(value, truth).amax(0) > SHOWN) | _ordered_as(value, truth).any(0)
        if not shown.any() or shown.all():
            continue
        expected = _explained(truth[:, shown], truth)
        for other in values:
            share = _explained(values[other], truth)
            for i in (~shown).nonzero().flatten().tolist():
                if share[i] - expected[i] > REVEALED * (1 - expected[i]):
                    source = f"the rest of {key!r}" if other == key else repr(other)
                    yield Evidence(
                        "masked-leak",
                        f"element {i} of the base environment's {vectors[0]!r} is hidden in {key!r}, "
                        f"but {source} reveals it: R2 {share[i]:.2f}, from the visible elements alone "
                        f"{expected[i]:.2f}",
                        key=other,
                    )


def _ordered_as(value: Tensor, truth: Tensor) -> Tensor:
    """Return whether each column of ``value`` rises or falls with each of ``truth``."""
    result = torch.zeros(value.shape[1], truth.shape[1], dtype=torch.bool)
    for i, column in enumerate(truth.T):
        steps = value[column.argsort()].diff(dim=0)
        result[:, i] = ((steps >= -1e-6).all(0) | (steps <= 1e-6).all(0)) & (steps.abs() > 1e-6).any(0)
    return result


def _squared_correlation(value: Tensor, truth: Tensor) -> Tensor:
    """Return the squared correlation of each column of ``value`` with each of ``truth``."""
    value, truth = value - value.mean(0), truth - truth.mean(0)
    sizes = value.norm(dim=0)[:, None] * truth.norm(dim=0)
    return ((value.T @ truth) / sizes.clamp_min(1e-12)).square()


def _explained(value: Tensor, truth: Tensor) -> Tensor:
    """Return the share of variance in each column of ``truth`` that is linear in ``value`` (R2)."""
    value, truth = value - value.mean(0), truth - truth.mean(0)
    value = value[:, value.std(0) > 1e-9]
    rest = truth - value @ torch.linalg.lstsq(value, truth, driver="gelsd").solution
    return 1 - (rest.norm(dim=0) / truth.norm(dim=0).clamp_min(1e-12)).square()
