"""Copies of the parts, and a context that restores the random number generators."""

from __future__ import annotations

import contextlib
import copy
import random
import threading
import types
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer
from torchrl.envs import SerialEnv, TransformedEnv
from torchrl.envs.batched_envs import BatchedEnvBase
from torchrl.envs.common import EnvBase

LOCKS: dict[type, Callable[[], Any]] = {
    type(threading.Lock()): threading.Lock,
    type(threading.RLock()): threading.RLock,
}


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


def copy_part(part: Any, memo: dict[int, Any] | None = None) -> Any:
    """Copy a policy, a loss or an updater; on the CPU if it is a module.

    ``deepcopy`` returns a function as it is. Here a function, a ``partial`` or a bound method is made again,
    with copies of the modules and functions that it refers to.
    """
    memo = {} if memo is None else memo
    if isinstance(part, types.FunctionType):
        part = _copy_function(part, memo)
    elif isinstance(part, types.MethodType):
        part = types.MethodType(part.__func__, copy_part(part.__self__, memo))
    elif isinstance(part, partial):
        words = {name: _copy_value(value, memo, "") for name, value in part.keywords.items()}
        part = partial(copy_part(part.func, memo), *(_copy_value(v, memo, "") for v in part.args), **words)
    else:
        part = copy.deepcopy(part, memo)
    return part.to("cpu") if isinstance(part, nn.Module) else part


def reachable_modules(part: Any) -> list[nn.Module]:
    """Return the modules of a loss: itself, or what a function, ``partial`` or bound method refers to."""
    found: list[nn.Module] = []
    pending: list[Any] = [part]
    seen: set[int] = set()
    while pending:
        value = pending.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, nn.Module):
            found.append(value)
        elif isinstance(value, types.FunctionType):
            pending += [value.__globals__.get(name) for name in value.__code__.co_names]
            for cell in value.__closure__ or ():
                with contextlib.suppress(ValueError):  # an empty cell
                    pending.append(cell.cell_contents)
        elif isinstance(value, types.MethodType):
            pending.append(value.__self__)
        elif isinstance(value, partial):
            pending += [value.func, *value.args, *value.keywords.values()]
        elif isinstance(value, list | tuple) and len(value) < 100:
            pending += value
        elif callable(value) and not isinstance(value, type):
            pending += vars(value).values() if hasattr(value, "__dict__") else ()
    return found


def _copy_function(function: types.FunctionType, memo: dict[int, Any]) -> types.FunctionType:
    if id(function) in memo:
        found: types.FunctionType = memo[id(function)]
        return found
    names = {**function.__globals__}
    cells = tuple(types.CellType() for _ in function.__closure__ or ())
    twin = types.FunctionType(
        function.__code__, names, function.__name__, function.__defaults__, cells or None
    )
    twin.__kwdefaults__ = function.__kwdefaults__
    twin.__dict__.update(function.__dict__)
    memo[id(function)] = twin
    for cell, old in zip(cells, function.__closure__ or (), strict=True):
        with contextlib.suppress(ValueError):  # an empty cell
            cell.cell_contents = _copy_value(old.cell_contents, memo, function.__module__)
    for name in function.__code__.co_names:
        if name in names:
            names[name] = _copy_value(names[name], memo, function.__module__)
    return twin


def _copy_value(value: Any, memo: dict[int, Any], module: str) -> Any:
    """Copy what a function refers to: modules, tensors, lists of them, and functions of the same module."""
    if isinstance(value, types.FunctionType):
        return _copy_function(value, memo) if value.__module__ == module else value
    inside = (
        list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else [value]
    )
    if any(isinstance(part, nn.Module | Tensor | torch.optim.Optimizer) for part in inside):
        with contextlib.suppress(TypeError, RuntimeError):
            return copy.deepcopy(value, memo)
    return value


def copy_env(env: EnvBase) -> EnvBase:
    """Copy an environment with its transforms, state and random generators.

    A batched environment is built anew, as a ``SerialEnv``; what its functions return is copied too, since
    they may return environments that are in use.
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
    """Make ``deepcopy`` skip objects that cannot be copied, such as a pygame surface, and make locks anew."""
    if id(value) in seen or isinstance(value, type | Tensor | str | int | float | None):
        return
    seen.add(id(value))
    if type(value) in LOCKS:
        memo[id(value)] = LOCKS[type(value)]()
        return
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
