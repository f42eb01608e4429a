"""All uses of other libraries' private attributes in the doctor."""

from __future__ import annotations

import copy
from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor
from torchrl.data import ReplayBuffer
from torchrl.data.replay_buffers.samplers import Sampler
from torchrl.envs import EnvBase, TransformedEnv
from torchrl.envs.batched_envs import BatchedEnvBase
from torchrl.objectives.utils import TargetNetUpdater

from recdqn.envs import GymnasiumEnv


def copy_buffer(buffer: ReplayBuffer) -> ReplayBuffer:
    """Return a buffer that reads the same storage through copies of the sampler and the transforms.

    It does not prefetch. TorchRL 0.14.1 has no public way: a new buffer would lose what a subclass adds and
    attach itself to the storage, and ``copy.copy`` gives the shared storage another generator.
    """
    twin = object.__new__(type(buffer))
    twin.__dict__.update(vars(buffer))
    twin._sampler = _copy_sampler(buffer.sampler, random_generator(buffer))
    twin._transform = copy.deepcopy(buffer.transform)
    twin._prefetch = False
    return twin


def random_generator(buffer: ReplayBuffer) -> torch.Generator | None:
    """Return the generator from which ``buffer`` draws; ``None`` if it draws from the global one.

    TorchRL 0.14.1 has ``set_rng``, but no public way to read it.
    """
    return buffer._rng


def gymnasium_env(env: EnvBase) -> Any:
    """Return the Gymnasium environment below ``env``, the first of several; ``None`` if there is none.

    TorchRL 0.14.1's ``GymWrapper`` has it as ``_env``.
    """
    base = env.base_env if isinstance(env, TransformedEnv) else env
    inner = base.gym if isinstance(base, GymnasiumEnv) else getattr(base, "_env", None)
    return next(iter(getattr(inner, "envs", [])), inner)


def priorities_of(buffer: ReplayBuffer) -> Tensor | None:
    """Return the priorities of the stored steps, ``[len(buffer)]``, if the sampler has a sum tree.

    TorchRL 0.14.1 has no public way.
    """
    tree = getattr(buffer.sampler, "_sum_tree", None)
    if tree is None:
        return None
    return torch.as_tensor(tree[torch.arange(len(buffer))])


def shares_priorities(first: ReplayBuffer, second: ReplayBuffer) -> bool:
    """Return whether the samplers of two buffers have one tree of priorities, which could not be copied."""
    others = vars(second.sampler)
    return any("tree" in name and value is others[name] for name, value in vars(first.sampler).items())


def worker_envs(env: BatchedEnvBase) -> list[EnvBase]:
    """Return the environments of a batch in this process that has been started; none of others.

    TorchRL 0.14.1 has no public way.
    """
    return list(vars(env).get("_envs", ()))


def updated_parameters(updater: TargetNetUpdater) -> tuple[TensorDictBase, TensorDictBase]:
    """Return the parameters from which ``updater`` computes the target networks, and those of the targets.

    TorchRL 0.14.1 has them in the updater's loss as well, but in a deep copy of an updater the two differ.
    """
    return updater._sources, updater._targets


def _copy_sampler(sampler: Sampler, generator: torch.Generator | None) -> Sampler:
    try:
        return copy.deepcopy(sampler, {id(generator): generator})  # generators cannot be copied
    except Exception:  # nor can compiled parts, such as sum trees; sampling does not change those
        return copy.copy(sampler)
