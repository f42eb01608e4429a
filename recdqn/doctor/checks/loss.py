"""Checks of the loss and its target network."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn

from recdqn.doctor import internals
from recdqn.doctor.checks.common import TOLERANCE, Found, leaves, name_of
from recdqn.doctor.slices import perturb, valid_steps
from recdqn.doctor.subject import Skip, Subject


def slice_independence(subject: Subject) -> Found:
    """Change the observations of one slice; the errors of the other slices must not change."""
    slices = [indices for indices in subject.slices if len(indices)]
    if len(slices) < 2:
        raise Skip("the batch has only one slice")
    for k in (0, len(slices) - 1):
        cause = torch.zeros(subject.batch.numel(), dtype=torch.bool)
        cause[slices[k]] = True
        moved, _ = _influence(subject, cause, ~cause & valid_steps(subject.batch))
        if moved > TOLERANCE:
            yield (
                "target-leak",
                f"{name_of(subject.loss)}: changing slice {k} of {len(slices)} moved the errors of others "
                f"by up to {moved:.2g} of the mean error",
            )
            return


def temporal_dependence(subject: Subject) -> Found:
    """Change the first observation of every slice; the errors of later steps must change."""
    if subject.policy_observations and not subject.state_keys:
        raise Skip("the policy has no recurrent state")
    longer = [indices for indices in subject.slices if len(indices) > 1]
    if not longer:
        raise Skip("every slice of the batch has only one step")
    cause, effect = (torch.zeros(subject.batch.numel(), dtype=torch.bool) for _ in range(2))
    for indices in longer:
        cause[indices[0]] = True
        effect[indices[1:]] = True
    moved, rounding = _influence(subject, cause, effect)
    if moved <= rounding:
        yield (
            "recurrent-mode-off",
            f"{name_of(subject.loss)}: changing the first observation of {len(longer)} slices moved no later "
            "error",
        )


def _influence(subject: Subject, cause: Tensor, effect: Tensor) -> tuple[float, float]:
    """Return how far changed observations at ``cause`` move the errors at ``effect``, and the rounding error.

    ``cause`` and ``effect`` are masks ``[N]``; both results are relative to the mean error. A loss that is a
    single number cannot be compared step by step. Its steps are independent if changing the observations at
    ``cause`` and the rewards at ``effect`` together has the sum of the two effects; the first result is then
    the distance from that sum, relative to the loss.
    """
    changed = perturb(subject.batch, cause, subject.batch_observations)
    baseline = subject.baseline_errors
    if baseline is not None:
        if not baseline.any():
            raise Skip("no step of the batch has an error")
        errors = subject.step_errors(changed)
        assert errors is not None  # as for the unchanged batch
        moved = (errors - baseline)[effect].abs().max()
        return float(moved / baseline.mean()), 1e-7
    both, rewards = (perturb(td, effect, ["reward"]) for td in (changed, subject.batch))
    totals = [subject.total_loss(td) for td in (both, changed, rewards, subject.batch)]
    if totals[2] == totals[3]:
        raise Skip("the loss gives one number, and does not read the reward")
    interaction = totals[0] - totals[1] - totals[2] + totals[3]
    return abs(interaction) / max(map(abs, totals)), 1e-5


def separate_target(subject: Subject) -> Found:
    """Compare the addresses of the target network's parameters with those of the online network."""
    loss = subject.given["loss"]
    for name in _target_names(loss):
        if _shared(loss, name):
            yield "target-is-online", f"{name_of(loss)}: {name} and {_online(name)} share memory"


def target_updates(subject: Subject) -> Found:
    """Change the online network and step a copy of the updater; the target network must change.

    Without an updater, only a target network that never had one can be recognised.
    """
    loss, updater = subject.given["loss"], subject.given.get("updater")
    names = [name for name in _target_names(loss) if not _shared(loss, name)]
    if not names:
        raise Skip("the loss has no target network of its own")
    if updater is None:
        if not (names := [name for name in names if _never_updated(loss, name)]):
            raise Skip("no updater given")
        reason = "no SoftUpdate or HardUpdate was made for it"
    elif updater.loss_module is not loss:
        reason = f"the {name_of(updater)} was made for another loss"
    else:
        names = _unmoved(subject, names)
        reason = f"step() of the {name_of(updater)} does not change it"
    for name in names:
        yield "target-frozen", f"{name_of(loss)}: nothing moves {name}; {reason}"


def _target_names(loss: nn.Module) -> list[str]:
    """Return the attributes of a TorchRL loss that hold a target network's parameters."""
    if not {"delay_value", "delay_qvalue"} & getattr(loss, "__dict__", {}).keys():
        raise Skip("the loss has no target network of TorchRL's kind")
    return [f"target_{n}" for n in dir(loss) if n.endswith("value_network_params") and n[0] in "vq"]


def _online(name: str) -> str:
    return name.removeprefix("target_")


def _shared(loss: nn.Module, name: str) -> bool:
    pairs = zip(leaves(getattr(loss, _online(name))), leaves(getattr(loss, name)), strict=True)
    return any(online.data_ptr() == target.data_ptr() for online, target in pairs)


def _never_updated(loss: nn.Module, name: str) -> bool:
    """Return whether TorchRL warns that the target network has no updater."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        getattr(loss, name)
    return any(str(warning.message) == loss.TARGET_NET_WARNING for warning in caught)


def _unmoved(subject: Subject, names: list[str]) -> list[str]:
    """Return the target networks that stay as they are while a copy of the updater steps."""
    updater = subject.updater
    online, target = internals.updated_parameters(updater)
    before = target.clone()
    for leaf in leaves(online):
        leaf.data.add_(1)
    for _ in range(getattr(updater, "value_network_update_interval", 0) + 2):
        updater.step()
    moved = [name for name in target.keys() if bool((target[name] != before[name]).any())]
    return [name for name in names if name not in moved]
