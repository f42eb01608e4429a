"""Find silent bugs of a recurrent pipeline by running its parts.

The checks do not look at class names: they run copies of the parts, change something, and observe the effect.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tensordict import TensorDictBase
from tensordict.nn import TensorDictModule, TensorDictModuleBase
from torch import nn
from torchrl.data import ReplayBuffer
from torchrl.envs.common import EnvBase
from torchrl.objectives.utils import TargetNetUpdater

from recdqn.doctor import internals
from recdqn.doctor.bugs import BUGS
from recdqn.doctor.checks import CHECKS
from recdqn.doctor.copies import isolated
from recdqn.doctor.report import Bug, Finding, Report
from recdqn.doctor.subject import Skip, Subject
from recdqn.errors import UserError, first_line

__all__ = ["BUGS", "Bug", "Finding", "Report", "diagnose"]

PARTS: dict[str, Any] = {
    "env": EnvBase,
    "policy": TensorDictModuleBase,
    "buffer": ReplayBuffer,
    "batch": TensorDictBase,
    "loss": Callable,
    "updater": TargetNetUpdater,
}


def diagnose(
    env: EnvBase | None = None,
    policy: TensorDictModule | None = None,
    buffer: ReplayBuffer | None = None,
    batch: TensorDictBase | None = None,
    loss: nn.Module | Callable[[TensorDictBase], Any] | None = None,
    updater: TargetNetUpdater | None = None,
) -> Report:
    """Run every check that the given parts allow, on copies of them.

    The parts and all random number generators are left as they were. A ``ParallelEnv`` is checked as a
    ``SerialEnv`` of the same environments, in this process.

    Args:
        env: environment that the collector steps, with its transforms.
        policy: policy that acts in ``env``, with exploration.
        buffer: replay buffer with some steps in it.
        batch: input of the loss, ``[N]`` or ``[B, T]``; sampled from ``buffer`` by default.
        loss: any callable that takes ``batch``. A loss that writes ``"td_error"`` is checked step by step;
            for another, two changes together must have the sum of their effects.
        updater: ``SoftUpdate`` or ``HardUpdate`` of ``loss``. Without it, a frozen target network is found
            only if no updater was ever made for it.

    Returns:
        The findings, errors first, and what was not checked and why.

    Raises:
        UserError: if no part is given, or a part has the wrong type.

    Example:
        >>> cfg = Config.preset("masked-cartpole")
        >>> env = make_env(cfg.env)
        >>> policy = make_policy(cfg.policy, env)
        >>> print(diagnose(env=add_primers(env, policy), policy=policy).headline)
        0 errors, 0 warnings; 16 of 29 checks ran
    """
    given = {"env": env, "policy": policy, "buffer": buffer, "batch": batch, "loss": loss, "updater": updater}
    given = {name: part for name, part in given.items() if part is not None}
    if not given:
        raise UserError(f"nothing to check: give at least one of {', '.join(PARTS)}")
    for name, part in given.items():
        if not isinstance(part, PARTS[name]):
            raise UserError(f"{name} is a {type(part).__name__}: expected {PARTS[name].__name__}")
    with isolated(None if buffer is None else internals.random_generator(buffer)):
        return _examine(Subject(**given))


def _examine(subject: Subject) -> Report:
    found: dict[str, Finding] = {}
    checked: dict[str, None] = {}
    skipped: dict[str, str] = {}
    for check in CHECKS:
        missing = [names for names in check.needs if not subject.has(names)]
        if missing:
            skipped |= dict.fromkeys(check.codes, f"no {' and no '.join(missing)} given")
            continue
        try:
            for code, message in check.run(subject):
                found.setdefault(code, Finding(code, BUGS[code].severity, message, BUGS[code].fix))
            checked |= dict.fromkeys(check.codes)
        except Skip as skip:
            skipped |= dict.fromkeys(check.codes, str(skip))
        except Exception as error:  # a part that does not run must not hide the bugs of the others
            skipped |= dict.fromkeys(check.codes, f"running it failed with {first_line(error)}")
    checked |= dict.fromkeys(found)
    findings = sorted(found.values(), key=lambda f: (f.severity, list(BUGS).index(f.code)))
    return Report(tuple(findings), tuple(checked), {c: why for c, why in skipped.items() if c not in checked})
