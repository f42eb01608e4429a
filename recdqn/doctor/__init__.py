"""Find the silent bugs of a recurrent pipeline by running its parts (each chapter's bug; the field guide).

``bugs`` lists what can be found, ``patient`` copies the parts and runs them, ``checks`` looks at what
happens. No check asks for the name of a class: a part is judged by what it does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tensordict import TensorDictBase
from tensordict.nn import TensorDictModule, TensorDictModuleBase
from torch import nn
from torchrl.data import ReplayBuffer
from torchrl.envs.common import EnvBase

from recdqn.doctor.bugs import BUGS, Bug, Finding, Report
from recdqn.doctor.checks import CHECKS
from recdqn.doctor.patient import Patient, Skip, nothing_changed
from recdqn.errors import UserError

__all__ = ["BUGS", "Bug", "Finding", "Report", "diagnose"]


def diagnose(
    env: EnvBase | None = None,
    policy: TensorDictModule | None = None,
    buffer: ReplayBuffer | None = None,
    batch: TensorDictBase | None = None,
    loss: nn.Module | Callable[[TensorDictBase], Any] | None = None,
) -> Report:
    """Run every check that the given parts allow, on copies of them.

    Parameters, buffers, random numbers and the environment's own state are afterwards what they were. A
    ``ParallelEnv`` is checked as a ``SerialEnv`` of the same environments, in this process.

    Args:
        env: the environment that the collector steps, with its transforms.
        policy: the policy that acts in it, exploration included.
        buffer: the replay buffer, after some steps were written into it.
        batch: what the loss reads, ``[N]`` or ``[B, T]``; sampled from ``buffer`` if not given.
        loss: the loss; any callable that takes ``batch``. Losses that write ``"td_error"`` are checked step
            by step, others by whether two changes together have the sum of their effects.

    Returns:
        The findings, errors first, and what was not checked and why.

    Raises:
        UserError: if nothing is given, or a part is not of its kind.

    Example:
        >>> cfg = Config.preset("masked-cartpole")
        >>> env = make_env(cfg.env)
        >>> print(diagnose(env=env, policy=make_policy(cfg.policy, env)).headline)
        0 errors, 0 warnings; 16 of 29 checks ran
    """
    given = {"env": env, "policy": policy, "buffer": buffer, "batch": batch, "loss": loss}
    given = {name: part for name, part in given.items() if part is not None}
    if not given:
        raise UserError("nothing to check: give at least one of env, policy, buffer, batch, loss")
    kinds = {"env": EnvBase, "policy": TensorDictModuleBase, "buffer": ReplayBuffer, "batch": TensorDictBase}
    for name, part in given.items():
        if not isinstance(part, kinds.get(name, Callable)):
            wanted = kinds[name].__name__ if name in kinds else "something that can be called"
            raise UserError(f"{name} is a {type(part).__name__}: expected {wanted}")

    found: dict[str, Finding] = {}
    checked: dict[str, None] = {}
    skipped: dict[str, str] = {}
    with nothing_changed():
        patient = Patient(**given)
        for check, needs, codes in CHECKS:
            missing = [name for name in needs if not patient.has(name)]
            if missing:
                skipped |= dict.fromkeys(codes, f"no {' and no '.join(missing)} given")
                continue
            try:
                for code, message in check(patient):
                    found.setdefault(code, Finding(code, BUGS[code].severity, message, BUGS[code].fix))
                checked |= dict.fromkeys(codes)
            except Skip as reason:
                skipped |= dict.fromkeys(codes, str(reason))
            except Exception as error:  # a part that does not run must not hide what is wrong with the others
                reason = (str(error).strip() or "no message").splitlines()[0]
                skipped |= dict.fromkeys(codes, f"running it failed with {type(error).__name__}: {reason}")
    checked |= dict.fromkeys(found)
    findings = sorted(found.values(), key=lambda f: (f.severity, list(BUGS).index(f.code)))
    return Report(tuple(findings), tuple(checked), {c: why for c, why in skipped.items() if c not in checked})
