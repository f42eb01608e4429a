"""Checks of a batch of environments: they must differ in their random numbers, and in nothing else."""

from __future__ import annotations

from typing import Any

import torch
from tensordict import NestedKey, TensorDictBase
from torch import Tensor
from torchrl.envs import Transform, TransformedEnv
from torchrl.envs.batched_envs import BatchedEnvBase
from torchrl.envs.common import EnvBase

from recdqn.doctor.checks.common import Found, name_of, transforms_of
from recdqn.doctor.copies import copy_env
from recdqn.doctor.internals import worker_envs
from recdqn.doctor.probe import Skip
from recdqn.doctor.stored import episode_starts, vectors
from recdqn.doctor.subject import Subject

RESETS = 3
LEARNT = 20  # steps from which running statistics learn


def workers(subject: Subject) -> Found:
    """Compare the resets of the environments of a batch, and the numbers that their transforms hold."""
    given = _batched(subject.given["env"])
    if given is None or given.num_workers < 2:
        raise Skip("the environment is not a batch of environments")
    if (number := _one_environment(given)) > 1:
        yield (
            "workers-alike",
            f"{number} of {given.num_workers} workers step the same environment object",
            None,
            f"let each function make a new environment: {name_of(given)}({given.num_workers}, make_env)",
        )
        return
    envs = worker_envs(given)
    yield from _different_statistics(envs or _fresh_workers(subject))
    keys = _observations(subject)
    if envs and keys:
        yield from _same_resets([copy_env(env) for env in envs], keys)
    if subject.has("buffer") and keys:
        yield from _same_stored_starts(subject, keys)


def _one_environment(env: BatchedEnvBase) -> int:
    """Return how many of the first two functions that make environments return the same one."""
    made = [make() for make in list(env.create_env_fn)[:2]]
    inner = [e.base_env if isinstance(e, TransformedEnv) else e for e in made]
    return len(inner) if len(inner) > 1 and all(e is inner[0] for e in inner) else 1


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
    keys = [k for k in keys if "recurrent_state" not in str(k) and "mask" not in str(k)]
    return [k for k in keys if isinstance(td.get(k, None), Tensor)]


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
    """Look for first observations of stored episodes that occur once for each environment."""
    keys = [k for k in keys if subject.rows[0].get(k, None) is not None]
    if not keys:
        return
    starts = []
    for row in subject.rows:
        first = episode_starts(row)
        starts.append(torch.cat([vectors(row[k][first]).double() for k in keys], -1))
    shortest, number = min(map(len, starts)), sum(map(len, starts))
    each = len(starts) == subject.env.numel()
    if each and shortest >= 3 and len(starts[0].unique(dim=0)) > 1:
        if all(torch.equal(start[:shortest], starts[0][:shortest]) for start in starts):
            yield (
                "workers-alike",
                f"{shortest} stored episodes of each of the {len(starts)} environments begin with the same "
                f"{keys[0]!r}",
            )
            return
    if not all(subject.rows[0][k].is_floating_point() for k in keys):
        return  # few different starts are equal by chance
    different, counts = torch.cat(starts).unique(dim=0, return_counts=True)
    repeated = counts > 1
    if len(different) > 3 and repeated.sum() >= 3 and counts[repeated].sum() > 0.7 * number:
        yield (
            "workers-alike",
            f"{int(counts[repeated].sum())} of {number} stored episodes begin with the same {keys[0]!r} as "
            "another: the environments have the same seed",
        )


def _different_statistics(envs: list[EnvBase]) -> Found:
    """Compare the transforms inside the workers, entry by entry."""
    if any(hasattr(t, "frozen_copy") for worker in envs[:1] for t in transforms_of(worker)):
        envs = [copy_env(worker) for worker in envs[:2]]
        for worker in envs:  # fresh statistics are alike
            worker.rollout(LEARNT, break_when_any_done=False)
    chains = [transforms_of(worker) for worker in envs]
    for alike in zip(*chains, strict=False):
        states = [_numbers_of(transform) for transform in alike]
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


def _numbers_of(transform: Transform) -> dict[str, Any]:
    """Return the numbers that a transform holds; of a running normalisation its mean and deviation."""
    if not hasattr(transform, "frozen_copy"):
        return dict(transform.state_dict())
    values = {"loc": transform.loc, "scale": transform.scale}
    return {
        f"{name} of {key!r}": value
        for name, td in values.items()
        if isinstance(td, TensorDictBase)
        for key, value in td.items(True, True)
    }


def _numbers(value: Tensor) -> str:
    return (
        "["
        + ", ".join(f"{float(v):.3g}" for v in value.flatten()[:3])
        + ("]" if value.numel() < 4 else ", ...]")
    )
