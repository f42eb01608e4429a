"""Follow a recurrent state through a rollout, stage by stage."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from tensordict import NestedKey, TensorDictBase, unravel_key
from tensordict.nn import TensorDictModule
from torch import Tensor
from torchrl.envs.common import EnvBase
from torchrl.modules import GRUModule, LSTMModule

from recdqn.errors import ConfigError, UserError

BEFORE, POLICY, STEP, STEP_MDP, RESET = STAGES = (
    "before the policy",
    "after the policy",
    "after env.step",
    "after step_mdp",
    "after maybe_reset",
)


@dataclass(frozen=True)
class StateEntries:
    """The two entries of a recurrent state at one stage of a step; ``None`` for an entry that is missing.

    Attributes:
        root: the entry ``key``, ``[*batch, layers, hidden]``.
        next: the entry ``("next", key)``, of the same shape.
    """

    root: Tensor | None
    next: Tensor | None


@dataclass(frozen=True)
class Step:
    """One step of :func:`trace`.

    Attributes:
        is_init: whether the step begins an episode, ``[*batch]``.
        done: whether the step ends an episode, ``[*batch]``.
        written: the state written by the recurrent layer, under whichever key, ``[*batch, layers, hidden]``.
        state: the entries of the state, for each of ``STAGES``.
        data: the step as ``env.rollout`` stores it.
    """

    is_init: Tensor
    done: Tensor
    written: Tensor
    state: dict[str, StateEntries]
    data: TensorDictBase


def recurrent_keys(policy: TensorDictModule) -> list[tuple[NestedKey, NestedKey]]:
    """Return the key to read and the key to write each recurrent state of ``policy``.

    Example:
        >>> recurrent_keys(make_policy(cfg.policy, env))[0]
        ('recurrent_state_h', ('next', 'recurrent_state_h'))
    """
    pairs: list[tuple[NestedKey, NestedKey]] = []
    for module in policy.modules():
        if isinstance(module, LSTMModule | GRUModule):
            # The first keys are input and output; is_init, the last of in_keys, has no counterpart.
            pairs += zip(module.in_keys[1:], module.out_keys[1:], strict=False)
    return pairs


@torch.no_grad()
def walk(env: EnvBase, policy: TensorDictModule) -> Iterator[tuple[str, TensorDictBase]]:
    """Run ``env`` with ``policy`` as ``env.rollout`` does, without an end, and yield at each of ``STAGES``.

    Yields:
        The stage and the TensorDict at that stage. A batched environment writes the next step into the same
        memory, so clone what you keep.
    """
    td = env.reset()
    while True:
        yield BEFORE, td
        td = policy(td)
        yield POLICY, td
        td = env.step(td)
        yield STEP, td
        td = env.step_mdp(td)
        yield STEP_MDP, td
        td = env.maybe_reset(td)
        yield RESET, td


@torch.no_grad()
def trace(env: EnvBase, policy: TensorDictModule, steps: int) -> list[Step]:
    """Run ``env`` with ``policy`` as ``env.rollout`` does, and record the state after each call.

    The environment is reset when an episode is done. If the policy has several states, the first is recorded.
    The stored steps equal ``env.rollout(steps, policy, break_when_any_done=False)`` with the same seeds.

    Args:
        env: a single or a batched environment, with ``InitTracker`` and the primer of ``policy``.
        policy: contains an ``LSTMModule`` or a ``GRUModule``.
        steps: number of steps, in each environment of the batch.

    Raises:
        ConfigError: if ``steps`` is less than 1.
        UserError: if ``policy`` has no recurrent layer.
    """
    if steps < 1:
        raise ConfigError(f"steps={steps!r}: expected a number of at least 1")
    pairs = recurrent_keys(policy)
    if not pairs:
        raise UserError("policy has no memory to follow: put an LSTMModule or a GRUModule in it")
    read, write = pairs[0]
    records, stages = [], walk(env, policy)
    for _ in range(steps):
        state = {}
        for stage, td in islice(stages, len(STAGES)):
            state[stage] = StateEntries(_clone(td, read), _clone(td, unravel_key(("next", read))))
            if stage == POLICY:
                written = td[write].clone()
            elif stage == STEP:
                data = td.clone()
        is_init, done = data["is_init"].squeeze(-1), data["next", "done"].squeeze(-1)
        records.append(Step(is_init, done, written, state, data))
    return records


def norms(steps: Sequence[Step], stage: str, entry: str) -> Tensor:
    """Return the norm of the state at one stage of each step, ``[*batch, steps]``; NaN where it is missing.

    Args:
        steps: from :func:`trace`.
        stage: one of ``STAGES``.
        entry: ``"root"`` or ``"next"``.
    """
    states = [getattr(step.state[stage], entry) for step in steps]
    missing = torch.full_like(steps[0].done, torch.nan, dtype=torch.float32)
    return torch.stack(
        [missing if x is None else torch.linalg.vector_norm(x, dim=(-2, -1)) for x in states], -1
    )


def table(step: Step, row: int = 0) -> str:
    """Return a Markdown table of the norms of a step's state: a row for each stage, a column for each entry.

    Args:
        step: from :func:`trace`.
        row: index of the environment in the batch.
    """
    lines = ["| stage | root | next |", "|---|---|---|"]
    for stage in STAGES:
        found = [norms([step], stage, entry).reshape(-1)[row].item() for entry in ("root", "next")]
        lines.append(f"| {stage} | " + " | ".join("–" if x != x else f"{x:.4f}" for x in found) + " |")
    return "\n".join(lines)


def _clone(td: TensorDictBase, key: NestedKey) -> Tensor | None:
    value = td.get(key, None)
    return None if value is None else value.clone()
