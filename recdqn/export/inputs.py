"""Describe the inputs of an exported file, and draw random ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from recdqn.envs.arrays import bounds
from recdqn.envs.entries import MASK


def described(name: str, space: Any) -> dict[str, Any]:
    """Describe an entry of an observation: name, type, shape, and the range of its numbers if it is small."""
    result: dict[str, Any] = {"name": name, "dtype": space.dtype.name, "shape": list(space.shape)}
    low, high = (np.broadcast_to(limit, space.shape).astype(float) for limit in bounds(space))
    with np.errstate(invalid="ignore"):
        small = bool(np.all(high - low < 1e6))
    if small:
        for limit, values in (("low", low), ("high", high)):
            result[limit] = values.min() if values.min() == values.max() else values.tolist()
    return result


def random_inputs(
    inputs: Iterable[Mapping[str, Any]], batch: int, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Return random inputs of a batch, each in memory of its own.

    Args:
        inputs: name, type and shape of each, and for some the range.
        batch: its size.
        rng: generator.
    """
    made = {}
    for one in inputs:
        shape, dtype = (batch, *one["shape"]), np.dtype(one["dtype"])
        drawn: np.ndarray
        if dtype.kind == "b" or one["name"] == MASK:
            drawn = rng.integers(2, size=shape)
        elif "low" in one:
            low, high = np.asarray(one["low"]), np.asarray(one["high"])
            drawn = rng.uniform(low, high, shape)
            if dtype.kind in "iu":
                drawn = rng.integers(low.astype(int), high.astype(int) + 1, shape)
        else:
            drawn = np.abs(rng.normal(size=shape)) if dtype.kind == "u" else rng.normal(size=shape)
        made[one["name"]] = drawn.astype(dtype)
    return made
