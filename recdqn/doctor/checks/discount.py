"""The discount of the bootstrap, measured with networks whose every value is the same number."""

from __future__ import annotations

import torch
from tensordict import TensorDictBase
from torch import Tensor, nn

from recdqn.doctor.checks.common import Found, name_of
from recdqn.doctor.copies import copy_part, reachable_modules
from recdqn.doctor.probe import LossProbe, Skip
from recdqn.doctor.slices import valid_steps
from recdqn.doctor.subject import Subject

AHEAD, ORIGINAL = "steps_to_next_obs", ("next", "original_reward")  # MultiStepTransform writes them
GRID = torch.linspace(0.8, 1.0, 401, dtype=torch.float64)
FAR = 0.004  # from the discount of the stored rewards


def bootstrap_discount(subject: Subject) -> Found:
    """Compare the discount of the bootstrap with that of the stored sums of rewards."""
    flat = subject.batch.reshape(-1)
    ahead, original = flat.get(AHEAD, None), flat.get(ORIGINAL, None)
    if ahead is None or original is None:
        raise Skip(f"the batch has no {AHEAD!r} and {ORIGINAL!r}: its rewards are not known to be sums")
    steps = int(ahead.max())
    used = (ahead.reshape(-1) == steps) & ~flat["next", "terminated"].reshape(-1) & valid_steps(flat)
    gamma = _stored_discount(flat, original.reshape(-1).double(), used, steps)
    measured = _measured(subject)[used]
    if not len(measured):
        raise Skip("no step of the batch has a full sum of rewards")
    middle = float(measured.median())
    if abs(middle - gamma**steps) > FAR:
        yield (
            "n-step-discount",
            f"{name_of(subject.loss)}: stored rewards are sums of {steps} with gamma {gamma:.4g}, so that "
            "the bootstrap "
            f"needs {gamma:.4g} ** {steps} = {gamma**steps:.4g}; the loss multiplies it by {middle:.4g}",
            None,
            f"bootstrap with gamma ** batch[{AHEAD!r}]: {gamma:.4g} ** {steps}",
        )


def _stored_discount(flat: TensorDictBase, original: Tensor, used: Tensor, steps: int) -> float:
    """Return the discount with which the stored rewards are sums of the original ones."""
    sums = flat["next", "reward"].reshape(-1).double()
    done = flat["next", "done"].reshape(-1)
    first = used.nonzero().squeeze(-1)
    first = first[first + steps <= len(sums)]
    window = first[:, None] + torch.arange(steps)
    whole = ~done[window[:, :-1]].any(-1)
    window, first = window[whole], first[whole]
    if not len(first):
        raise Skip("no sum of rewards lies inside one slice")
    powers = GRID[:, None] ** torch.arange(steps, dtype=torch.float64)
    errors = (original[window] @ powers.T - sums[first][:, None]).square().mean(0)
    if errors.min() > 1e-6:
        raise Skip("the stored rewards are not discounted sums of the original ones")
    return float(GRID[errors.argmin()])


def _measured(subject: Subject) -> Tensor:
    """Return the discount of each step's bootstrap, ``[N]``.

    With networks that always give the value b, and without rewards, the error of a step is b (1 - discount).
    """
    batch = subject.probe.batch
    batch = batch.clone().set(subject.probe.reward, torch.zeros_like(batch.get(subject.probe.reward)))
    found = []
    for value in (1.0, 2.0):
        loss = copy_part(subject.loss)
        make_constant(loss, value)
        errors = LossProbe.errors_of(loss, batch)
        if errors is None:
            raise Skip("the errors of single steps are unknown")
        found.append(errors.double())
    ratio = float(found[1].sum() / found[0].sum().clamp_min(1e-12))
    if abs(ratio - 4) < 0.01:
        found = [e.sqrt() for e in found]
    elif abs(ratio - 2) > 0.01:
        raise Skip("the errors do not grow with the values, or with their squares")
    return 1 - found[0]


def make_constant(loss: object, value: float) -> None:
    """Set the weights of all networks to 0 and their biases to ``value``."""
    for module in reachable_modules(loss):
        named = [*module.named_parameters(), *((n, b) for n, b in module.named_buffers() if "target" in n)]
        for _, tensor in named:
            if tensor.is_floating_point():
                nn.init.constant_(tensor, 0.0 if tensor.ndim > 1 else value)
