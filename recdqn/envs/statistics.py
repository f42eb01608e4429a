"""Wrappers that learn statistics while they run, such as Gymnasium's ``NormalizeObservation``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.wrappers import NormalizeReward

Statistics = dict[str, dict[str, Any]]  # "mean", "var" and "count" of each, as plain numbers and lists


def learned(env: gym.Env[Any, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Yield a name, the wrapper and its running statistics for each wrapper that learns.

    Running statistics are an attribute with a ``mean``, a ``var`` and a ``count``, as Gymnasium's
    ``RunningMeanStd``.
    """
    layer: Any = env
    depth = 0
    while isinstance(layer, gym.Wrapper):
        for name, value in vars(layer).items():
            if all(hasattr(value, part) for part in ("mean", "var", "count")):
                yield f"{depth} {type(layer).__name__}.{name}", layer, value
        layer, depth = layer.env, depth + 1


def statistics_of(env: gym.Env[Any, Any]) -> Statistics:
    """Return the statistics of observations; those of rewards are not needed in an evaluation."""
    return {
        name: {part: np.asarray(getattr(values, part), float).tolist() for part in ("mean", "var", "count")}
        for name, layer, values in learned(env)
        if not isinstance(layer, NormalizeReward)
    }


def freeze(env: gym.Env[Any, Any], statistics: Statistics) -> None:
    """Set the statistics and stop learning; rewards are no longer normalised."""
    for name, layer, values in learned(env):
        layer.update_running_mean = False
        if isinstance(layer, NormalizeReward):
            values.var, layer.epsilon = np.ones_like(values.var), 0.0
            continue
        for part, value in statistics[name].items():
            old = np.asarray(getattr(values, part))
            setattr(values, part, np.asarray(value, old.dtype).reshape(old.shape)[()])


def pool(several: Sequence[Statistics]) -> Statistics:
    """Return the statistics of all observations that several copies of an environment have seen."""
    pooled: Statistics = {}
    for name in several[0]:
        mean, var, count = (
            np.array([copy[name][part] for copy in several]) for part in ("mean", "var", "count")
        )
        share = (count / count.sum()).reshape(-1, *(1,) * (mean.ndim - 1))
        whole = (share * mean).sum(0)
        spread = (share * (var + (mean - whole) ** 2)).sum(0)
        pooled[name] = {"mean": whole.tolist(), "var": spread.tolist(), "count": float(count.sum())}
    return pooled


def snapshot(env: gym.Env[Any, Any]) -> list[dict[str, Any]]:
    """Return all numbers that learning wrappers hold, as tensors and numbers, to :func:`restore` them."""
    return [_numbers(layer) | {"": _numbers(values)} for _, layer, values in learned(env)]


def restore(env: gym.Env[Any, Any], saved: list[dict[str, Any]]) -> None:
    """Set what :func:`snapshot` returned."""
    for (_, layer, values), numbers in zip(learned(env), saved, strict=True):
        for target, found in ((values, numbers[""]), (layer, numbers)):
            for name, value in found.items():
                if name:
                    setattr(target, name, value.numpy()[()] if isinstance(value, torch.Tensor) else value)


def _numbers(holder: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in vars(holder).items():
        if isinstance(value, np.ndarray | np.number):
            found[name] = torch.from_numpy(np.array(value))
        elif isinstance(value, bool | int | float):
            found[name] = value
    return found
