"""Sets of several choices as one choice among all combinations."""

from __future__ import annotations

import math
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Dict, Discrete, MultiBinary, MultiDiscrete, Tuple

MOST = 10_000  # combinations


def sizes(space: Any) -> list[int] | None:
    """Return how many values each choice of an action has; ``None`` if one of them has no finite number.

    Example:
        >>> sizes(MultiDiscrete([3, 2]))
        [3, 2]
    """
    match space:
        case Discrete():
            return [int(space.n)]
        case MultiDiscrete():
            return [int(n) for n in space.nvec.ravel()]
        case MultiBinary():
            return [2] * math.prod(space.shape)
        case Tuple() | Dict():
            inside = [sizes(part) for part in _parts(space)]
            return None if None in inside else [size for part in inside for size in part or []]
    return None


def decode(space: Any, action: Any) -> Any:
    """Return the action of ``space`` with a number, counted from 0; the last choice changes fastest.

    Example:
        >>> decode(MultiDiscrete([3, 2]), 3)
        array([1, 1])
    """
    counts = sizes(space)
    assert counts is not None
    return _build(space, iter(np.unravel_index(int(action), counts)))


def _build(space: Any, choices: Any) -> Any:
    match space:
        case Discrete():
            return next(choices) + space.start
        case MultiDiscrete() | MultiBinary():
            flat = np.array([next(choices) for _ in range(math.prod(space.shape))], space.dtype)
            start = space.start if isinstance(space, MultiDiscrete) else 0
            return (flat.reshape(space.shape) + start).astype(space.dtype)
        case Tuple():
            return tuple(_build(part, choices) for part in space.spaces)
    return {key: _build(part, choices) for key, part in space.spaces.items()}


def _parts(space: Any) -> list[Any]:
    return list(space.spaces.values() if isinstance(space, Dict) else space.spaces)


class OneChoice(gym.ActionWrapper[Any, Any, Any]):
    """Take one number, from 0 to the number of combinations less one, in place of several choices.

    Args:
        env: with actions of which :func:`sizes` knows the choices.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self.action_space = Discrete(math.prod(sizes(env.action_space) or []))

    def action(self, action: Any) -> Any:
        """Return the action of the environment below."""
        return decode(self.env.action_space, action)
