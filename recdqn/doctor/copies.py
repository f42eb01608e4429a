"""Copies of environments, and a context that restores the random number generators."""

from __future__ import annotations

import contextlib
import copy
import random
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.parameter import UninitializedBuffer
from torchrl.envs import SerialEnv, TransformedEnv
from torchrl.envs.batched_envs import BatchedEnvBase
from torchrl.envs.common import EnvBase


@contextlib.contextmanager
def isolated(generator: torch.Generator | None = None) -> Iterator[None]:
    """Restore all random number generators afterwards; inside, record no gradients and show no warnings.

    Args:
        generator: a generator of the caller's own, to be restored as well.
    """
    numpy_state, python_state = np.random.get_state(), random.getstate()
    state = None if generator is None else generator.get_state()
    try:
        with torch.random.fork_rng(), warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            torch.manual_seed(0)
            yield
    finally:
        np.random.set_state(numpy_state)
        random.setstate(python_state)
        if generator is not None and state is not None:
            generator.set_state(state)


def copy_env(env: EnvBase) -> EnvBase:
    """Copy an environment with its transforms, state and random generators.

    A batched environment is built anew, as a ``SerialEnv``.
    """
    if isinstance(env, TransformedEnv):
        transform = env.transform.clone()
        empty = [b for b in transform.buffers() if isinstance(b, UninitializedBuffer)]  # these refuse a copy
        return TransformedEnv(
            copy_env(env.base_env), copy.deepcopy(transform, {id(b): UninitializedBuffer() for b in empty})
        )
    if isinstance(env, BatchedEnvBase):
        return SerialEnv(env.num_workers, env.create_env_fn, create_env_kwargs=env.create_env_kwargs)
    try:
        return copy.deepcopy(env)
    except TypeError:
        memo: dict[int, Any] = {}
        _exclude_handles(env, memo, set())
        return copy.deepcopy(env, memo)


def _exclude_handles(value: Any, memo: dict[int, Any], seen: set[int]) -> None:
    """Make ``deepcopy`` skip objects that cannot be copied, such as a pygame surface."""
    if id(value) in seen or isinstance(value, type | Tensor | str | int | float | None):
        return
    seen.add(id(value))
    if isinstance(value, dict):
        parts = list(value.values())
    elif isinstance(value, list | tuple):
        parts = list(value)
    else:
        parts = list(getattr(value, "__dict__", {}).values())
    for part in parts:
        _exclude_handles(part, memo, seen)
    if not parts:
        try:
            copy.deepcopy(value)
        except TypeError:
            memo[id(value)] = value if callable(value) else None
