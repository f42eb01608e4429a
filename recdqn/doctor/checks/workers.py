"""Checks of a batch of environments: they must differ in their random numbers, and in nothing else."""

from __future__ import annotations

import torch
from tensordict import NestedKey, TensorDictBase
from torch import Tensor
from torchrl.envs import TransformedEnv
from torchrl.envs.batched_envs import BatchedEnvBase
from torchrl.envs.common import EnvBase

from recdqn.doctor.checks.common import Found, name_of, transforms_of
from recdqn.doctor.copies import copy_env
from recdqn.doctor.internals import worker_envs
from recdqn.doctor.probe import Skip
from recdqn.doctor.subject import Subject

RESETS = 3


def workers(subject: Subject) -> Found:
    """Compare the resets of the environments of a batch, and the numbers that their transforms hold."""
    given = _batched(subject.given["env"])
    if given is None or given.num_workers < 2:
        raise Skip("the environment is not a batch of environments")
    envs = worker_envs(given)
    yield from _different_statistics(envs or _fresh_workers(subject))
    keys = _observations(subject)
    if envs and keys:
        yield from _same_resets([copy_env(env) for env in envs], keys)
    if subject.has("buffer") and keys:
        yield from _same_stored_starts(subject, keys)


def _batched(env: EnvBase) -> BatchedEnvBase | None:
    while isinstance(env, TransformedEnv):
        env = env.base_env
    return env if isinstance(env, BatchedEnvBase) else None


def _fresh_workers(subject: Subject) -> list[EnvBase]:
    copied = _batched(subject.env)
    assert copied is not None  # as in the given environment
    copied.reset()
    return worker_envs(copied)


def _observations(subject: Subject) -> list[NestedKey]:
    td = subject.steps[0].before
    keys = [k for k in subject.env.observation_spec.keys(True, True) if k not in ("is_init", "step_count")]
    return [k for k in keys if "recurrent_state" not in str(k) and td.get(k).dtype != torch.bool]


def _same_resets(envs: list[EnvBase], keys: list[NestedKey]) -> Found:
    """Reset copies of the workers as they are now; each must begin elsewhere."""
    starts = []
    for _ in range(RESETS):
        resets = [env.reset() for env in envs]
        keys = [k for k in keys if resets[0].get(k, None) is not None]
        if not keys:
            return
        starts.append(torch.stack([_vector(td, keys) for td in resets]))
    alike = all(bool((start == start[0]).all()) for start in starts)
    if alike and any(not torch.equal(start, starts[0]) for start in starts[1:]):
        yield (
            "workers-alike",
            f"in {RESETS} resets all {len(envs)} environments began with the same {keys[0]!r}, a different "
            "one each time: they have the same seed",
        )


def _vector(td: TensorDictBase, keys: list[NestedKey]) -> Tensor:
    return torch.cat([td.get(key).double().reshape(-1) for key in keys])


def _same_stored_starts(subject: Subject, keys: list[NestedKey]) -> Found:
    rows = subject.rows
    if len(rows) != subject.env.numel() or any(row.get("is_init", None) is None for row in rows):
        return
    keys = [k for k in keys if rows[0].get(k, None) is not None]
    first = [row[keys[0]][row["is_init"].reshape(-1)].flatten(1) for row in rows] if keys else []
    shortest = min(map(len, first), default=0)
    if shortest < 3 or len(first[0].unique(dim=0)) < 2:
        return
    if all(torch.equal(f[:shortest], first[0][:shortest]) for f in first):
        yield (
            "workers-alike",
            f"{shortest} stored episodes of each of the {len(rows)} environments begin with the same "
            f"{keys[0]!r}",
        )


def _different_statistics(envs: list[EnvBase]) -> Found:
    """Compare the transforms inside the workers, entry by entry."""
    chains = [transforms_of(worker) for worker in envs]
    for alike in zip(*chains, strict=False):
        states = [transform.state_dict() for transform in alike]
        for name, value in states[0].items():
            if not isinstance(value, Tensor) or not value.is_floating_point():
                continue
            other = states[1].get(name)
            if isinstance(other, Tensor) and other.shape == value.shape and not torch.equal(value, other):
                yield (
                    "workers-differ",
                    f"{name} of {name_of(alike[0])} is {_numbers(value)} in worker 0 and "
                    f"{_numbers(other)} in worker 1: "
                    "they show the same state with different numbers",
                )
                return


def _numbers(value: Tensor) -> str:
    return (
        "["
        + ", ".join(f"{float(v):.3g}" for v in value.flatten()[:3])
        + ("]" if value.numel() < 4 else ", ...]")
    )
