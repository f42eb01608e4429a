"""Follow one hidden state through a rollout, moment by moment (chapter 3)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from tensordict import NestedKey, TensorDictBase, unravel_key
from tensordict.nn import TensorDictModule
from torch import Tensor
from torchrl.envs.common import EnvBase
from torchrl.modules import GRUModule, LSTMModule

from recdqn.errors import ConfigError, UserError

BEFORE, POLICY, STEP, MOVE, RESET = (
    "before the policy",
    "after the policy",
    "after env.step",
    "after step_mdp",
    "after maybe_reset",
)
MOMENTS = (BEFORE, POLICY, STEP, MOVE, RESET)


@dataclass(frozen=True)
class Places:
    """The entries that held one state at one moment; ``None`` where there was no such entry (chapter 3).

    Attributes:
        root: the entry ``key``, ``[*batch, layers, hidden]``.
        next: the entry ``("next", key)``, of the same shape.
    """

    root: Tensor | None
    next: Tensor | None


@dataclass(frozen=True)
class Step:
    """One step of :func:`trace` (chapter 3).

    Attributes:
        is_init: whether the step begins an episode, ``[*batch]``.
        done: whether the step ends an episode, ``[*batch]``.
        written: what the recurrent layer wrote, whatever name it has, ``[*batch, layers, hidden]``.
        places: where the state was, for each of ``MOMENTS``.
        data: what ``env.rollout`` stores for this step.
    """

    is_init: Tensor
    done: Tensor
    written: Tensor
    places: dict[str, Places]
    data: TensorDictBase


def recurrent_keys(policy: TensorDictModule) -> list[tuple[NestedKey, NestedKey]]:
    """Return, for each recurrent state of ``policy``, the key it is read from and the key it is written to.

    Example:
        >>> recurrent_keys(make_policy(cfg.policy, env))[0]
        ('recurrent_state_h', ('next', 'recurrent_state_h'))
    """
    pairs: list[tuple[NestedKey, NestedKey]] = []
    for module in policy.modules():
        if isinstance(module, LSTMModule | GRUModule):
            # The first key in and the first key out are the value; is_init, the last key in, has no partner.
            pairs += zip(module.in_keys[1:], module.out_keys[1:], strict=False)
    return pairs


@torch.no_grad()
def walk(env: EnvBase, policy: TensorDictModule) -> Iterator[tuple[str, TensorDictBase]]:
    """Run ``env`` with ``policy`` as ``env.rollout`` does, for ever, and stop at each of ``MOMENTS``.

    Yields:
        The moment and the TensorDict as it is then. A batched environment writes the next step into the same
        memory: clone what you keep.
    """
    td = env.reset()
    while True:
        yield BEFORE, td
        td = policy(td)
        yield POLICY, td
        td = env.step(td)
        yield STEP, td
        td = env.step_mdp(td)
        yield MOVE, td
        td = env.maybe_reset(td)
        yield RESET, td


@torch.no_grad()
def trace(env: EnvBase, policy: TensorDictModule, steps: int) -> list[Step]:
    """Run ``env`` with ``policy`` as ``env.rollout`` does, and note after each call where the state is.

    The loop resets where an episode is done and goes on; the state followed is the policy's first.
    The stored steps equal ``env.rollout(steps, policy, break_when_any_done=False)`` with the same seeds.

    Args:
        env: one environment or a batch of them, with ``InitTracker`` and the primer of ``policy``.
        policy: holds an ``LSTMModule`` or a ``GRUModule``.
        steps: how many, for each environment of the batch.

    Raises:
        ConfigError: if ``steps`` is not a positive number.
        UserError: if ``policy`` has no recurrent layer.
    """
    if steps < 1:
        raise ConfigError(f"steps={steps!r}: expected a number of at least 1")
    pairs = recurrent_keys(policy)
    if not pairs:
        raise UserError("policy has no memory to follow: put an LSTMModule or a GRUModule in it")
    read, write = pairs[0]

    def look(td: TensorDictBase) -> Places:
        return Places(*(_copy(td.get(key, None)) for key in (read, unravel_key(("next", read)))))

    records, places, written, data = [], {}, None, None
    for moment, td in walk(env, policy):
        places[moment] = look(td)
        if moment == POLICY:
            written = _copy(td.get(write))
        elif moment == STEP:
            data = td.clone()
        elif moment == RESET:
            is_init, done = data["is_init"].squeeze(-1), data["next", "done"].squeeze(-1)
            records.append(Step(is_init, done, written, places, data))
            places = {}
            if len(records) == steps:
                break
    return records


def norms(steps: Sequence[Step], moment: str, place: str) -> Tensor:
    """Return the state's length at one moment of every step, ``[*batch, steps]``; NaN where there was none.

    Args:
        steps: from :func:`trace`.
        moment: one of ``MOMENTS``.
        place: ``"root"`` or ``"next"``.
    """
    values = [getattr(step.places[moment], place) for step in steps]
    gone = torch.full_like(steps[0].done, torch.nan, dtype=torch.float)
    return torch.stack([gone if v is None else torch.linalg.vector_norm(v, dim=(-2, -1)) for v in values], -1)


def table(step: Step, row: int = 0) -> str:
    """Write one step as a table: a line for each moment, the state's length at the root and under ``"next"``.

    Args:
        step: from :func:`trace`.
        row: which environment of a batch.
    """
    lines = [f"{'moment':<20}{'root':>8}{'next':>8}"]
    for moment in MOMENTS:
        found = [norms([step], moment, place).reshape(-1)[row].item() for place in ("root", "next")]
        lines.append(f"{moment:<20}" + "".join(f"{'-':>8}" if x != x else f"{x:8.4f}" for x in found))
    return "\n".join(lines)


def _copy(value: Tensor | None) -> Tensor | None:
    # Batched environments write every step into the same memory.
    return None if value is None else value.clone()
