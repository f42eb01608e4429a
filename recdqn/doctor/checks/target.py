"""Checks of the target network."""

from __future__ import annotations

import gc
import warnings

from torch import nn
from torchrl.objectives.utils import TargetNetUpdater

from recdqn.doctor import internals
from recdqn.doctor.checks.common import Evidence, Found, leaves, name_of
from recdqn.doctor.probe import Skip
from recdqn.doctor.report import Severity
from recdqn.doctor.subject import Subject


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
    severity: Severity | None = None
    if updater is None:
        if not (names := [name for name in names if _never_updated(loss, name)]):
            raise Skip("no updater given")
        others = {name_of(u) for u in _updaters() if type(u.loss_module) is type(loss)}
        if others:
            reason = f"there is a {' and a '.join(sorted(others))}, but of another {name_of(loss)} object"
        else:
            reason = "no SoftUpdate or HardUpdate was made for it, unless you copy it yourself"
            severity = "warning"
    elif updater.loss_module is not loss:
        reason = f"the {name_of(updater)} was made for another loss"
    else:
        names = _unmoved(subject, names)
        reason = f"step() of the {name_of(updater)} does not change it"
    for name in names:
        yield Evidence("target-frozen", f"{name_of(loss)}: nothing moves {name}; {reason}", severity)


def _updaters() -> list[TargetNetUpdater]:
    """Return all updaters of this process."""
    return [value for value in gc.get_objects() if isinstance(value, TargetNetUpdater)]


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


def target_speed(subject: Subject) -> Found:
    """Look for updaters that move the target network by most of its distance at each step."""
    loss, updater = subject.given["loss"], subject.given.get("updater")
    updaters = [updater] if updater is not None else [u for u in _updaters() if u.loss_module is loss]
    shares = [u for u in updaters if hasattr(u, "eps")]
    if not shares:
        raise Skip("the loss has no SoftUpdate")
    for soft in shares:
        tau = 1 - float(soft.eps)
        if tau > 0.5:
            yield (
                "target-at-once",
                f"{name_of(soft)} moves the target network by {tau:.0%} of its distance at each step: eps "
                "is the share "
                "that stays",
                None,
                f"SoftUpdate(loss, tau={float(soft.eps):g})" if soft.eps else None,
            )
