"""Find silent bugs of a recurrent pipeline by running its parts.

The checks do not look at class names: they run copies of the parts, change something, and observe the effect.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from tensordict import TensorDictBase
from tensordict.nn import TensorDictModule, TensorDictModuleBase
from torch import nn
from torchrl.data import ReplayBuffer
from torchrl.envs.common import EnvBase
from torchrl.objectives.utils import TargetNetUpdater

from recdqn.doctor import internals
from recdqn.doctor.bugs import BUGS
from recdqn.doctor.choices import chosen_codes, require_steps, require_types
from recdqn.doctor.copies import isolated
from recdqn.doctor.examine import examine
from recdqn.doctor.report import Bug, Finding, Report
from recdqn.doctor.subject import Subject
from recdqn.errors import UserError

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
    *,
    frames: int | None = None,
    only: Iterable[str] = (),
    ignore: Iterable[str] = (),
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
        frames: environment steps that training will take, to compare with the course of epsilon.
        only: codes to look for; all by default.
        ignore: codes to leave out.

    Returns:
        The findings, errors first, and what was not checked and why. A part that does not run, or that takes
        too long, ends the checks that need it, and not the others.

    Raises:
        UserError: if no part is given, an argument has the wrong type or no steps, there is no such code, or
            every code is ignored.

    Example:
        >>> cfg = Config.preset("masked-cartpole")
        >>> env = make_env(cfg.env)
        >>> policy = make_policy(cfg.policy, env)
        >>> print(diagnose(env=add_primers(env, policy), policy=policy).headline)
        0 errors, 0 warnings; 28 of 68 checks ran
    """
    given = {"env": env, "policy": policy, "buffer": buffer, "batch": batch, "loss": loss, "updater": updater}
    given = {name: part for name, part in given.items() if part is not None}
    if not given:
        raise UserError(f"nothing to check: give at least one of {', '.join(PARTS)}")
    require_types(given, PARTS)
    require_steps(batch, frames)
    codes = chosen_codes(only, ignore)
    with isolated(None if buffer is None else internals.random_generator(buffer)):
        return examine(Subject(frames, **given), codes)
