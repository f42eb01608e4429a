"""Save environments in mid-episode, and restore them by replaying their actions."""

from __future__ import annotations

import json
import math
import random
import struct
import time
import zlib
from collections.abc import Sequence
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch
from torchrl.checkpoint import GlobalRNGState

from recdqn.envs.processes import Workers
from recdqn.envs.statistics import Statistics, freeze, pool, restore, snapshot, statistics_of
from recdqn.errors import UserError

Envs = gym.Env | gym.vector.SyncVectorEnv | Workers
Outcome = Literal["exact", "different", "late"]  # of a replay


class Replayable(gym.Wrapper):
    """Record how the current episode came about, so that it can be restored in another process.

    That is the state of the random generators at the last reset, the seed, and the actions since. A replay
    resets the environment and takes the same actions. Then it compares a checksum of everything that the
    environment returned in the episode, and of its random generators at the end.

    The random generators are the NumPy generators that the environment and its wrappers keep as attributes,
    and those of their spaces. A replay is exact if nothing but these and the actions decides what an episode
    returns, and the comparison fails if something else does. It cannot notice a state that outlives an
    episode and has not changed anything in the current one.

    Args:
        env: an environment with discrete actions.
        alone: whether it has a process of its own, whose global random generators then belong to it.

    Example:
        >>> env, other = (Replayable(gym.make("CartPole-v1")) for _ in range(2))
        >>> _ = env.reset(seed=0)
        >>> _ = env.step(1)
        >>> other.restore(env.episode)
        'exact'
        >>> bool((env.step(0)[0] == other.step(0)[0]).all())
        True
    """

    def __init__(self, env: gym.Env, alone: bool = False) -> None:
        super().__init__(env)
        self._alone = alone
        self._start: dict[str, Any] = {}
        self._actions: list[int] = []
        self._checksum = 0

    def reset(self, *, seed: int | None = None, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """Reset; a seed also seeds the process, where the environment has one of its own."""
        self._start = {"seed": seed, "random": self._random_state(), "statistics": snapshot(self.env)}
        self._actions = []
        if self._alone and seed is not None:
            seed_globals(seed)
        observation, info = self.env.reset(seed=seed, **kwargs)
        self._checksum = checksum(observation)
        return observation, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step, and note the action."""
        self._actions.append(int(action))
        observation, reward, terminated, truncated, info = self.env.step(action)
        rest = struct.pack("d??", reward, terminated, truncated)
        self._checksum = zlib.crc32(rest, checksum(observation, self._checksum))
        return observation, reward, terminated, truncated, info

    @property
    def episode(self) -> dict[str, Any]:
        """The episode so far, as values that ``torch.load(..., weights_only=True)`` reads."""
        return self._start | {
            "actions": list(self._actions),
            "checksum": checksum(self._random_state(), self._checksum),
        }

    def statistics(self) -> Statistics:
        """Return the statistics that wrappers have learned of observations."""
        return statistics_of(self.env)

    def freeze(self, statistics: Statistics) -> None:
        """Let wrappers use these statistics, learn no longer, and leave rewards as they are."""
        freeze(self.env, statistics)

    def restore(self, episode: dict[str, Any], seconds: float = math.inf) -> Outcome:
        """Replay an episode.

        Args:
            episode: :attr:`episode` of another environment that was made in the same way.
            seconds: time limit. It is checked before each step.

        Returns:
            ``"exact"`` if the environment is now in the saved state; ``"different"`` if it returned something
            else or failed, and ``"late"`` if the time was up: then it needs a reset.
        """
        end = time.monotonic() + seconds
        over = False
        try:
            self._set_random_state(episode["random"])
            restore(self.env, episode.get("statistics", []))
            self.reset(seed=episode["seed"])
            for action in map(np.int64, episode["actions"]):
                if time.monotonic() >= end:
                    return "late"
                if over:
                    return "different"
                _, _, terminated, truncated, _ = self.step(action)
                over = terminated or truncated
            return "exact" if self.episode["checksum"] == episode["checksum"] else "different"
        except Exception:  # of an environment that is in another state, or of a damaged episode
            return "different"

    def _random_state(self) -> dict[str, Any]:
        states = {name: generator.bit_generator.state for name, generator in self._generators().items()}
        return {
            "generators": json.dumps(states, default=np.ndarray.tolist),
            "globals": GlobalRNGState().state_dict() if self._alone else None,
        }

    def _set_random_state(self, state: dict[str, Any]) -> None:
        generators = self._generators()
        for name, saved in json.loads(state["generators"]).items():
            if name in generators:  # a reset may make others
                generators[name].bit_generator.state = saved
        if self._alone:
            GlobalRNGState().load_state_dict(state["globals"])

    def _generators(self) -> dict[str, np.random.Generator]:
        found, layer, depth = {}, self.env, 0
        while True:
            for name, value in vars(layer).items():
                if isinstance(value, np.random.Generator):
                    found[f"{depth} {name}"] = value
                elif isinstance(value, gym.Space):
                    for k, part in enumerate(_parts(value)):
                        found[f"{depth} {name} {k}"] = part.np_random
            if not isinstance(layer, gym.Wrapper):
                return found
            layer, depth = layer.env, depth + 1


def get_episodes(env: Envs) -> list[dict[str, Any]]:
    """Return the current :attr:`~Replayable.episode` of one environment, or of each of a vector."""
    if not isinstance(env, gym.Env):
        return list(env.call("episode"))
    return [env.get_wrapper_attr("episode")]


def get_statistics(env: Envs) -> Statistics:
    """Return the statistics that the wrappers of all copies have learned of observations."""
    if not isinstance(env, gym.Env):
        return pool(env.call("statistics"))
    return env.get_wrapper_attr("statistics")()


def freeze_statistics(env: Envs, statistics: Statistics | None, name: str) -> None:
    """Let all copies use these statistics, and learn no longer.

    Raises:
        UserError: if wrappers need statistics, and none are given.
    """
    needed = get_statistics(env)
    if needed and not statistics:
        raise UserError(
            f"{name} has a wrapper that learns statistics ({', '.join(needed)}): "
            "expected those of its training, statistics=run.statistics"
        )
    if isinstance(env, gym.Env):
        env.get_wrapper_attr("freeze")(statistics or {})
    else:
        env.call("freeze", statistics or {})


def restore_episodes(env: Envs, episodes: Sequence[dict[str, Any]], seconds: float) -> Outcome:
    """Replay the episodes of one environment, or of each of a vector.

    Args:
        env: as for :func:`get_episodes`.
        episodes: what that returned.
        seconds: time limit for all environments together.

    Returns:
        ``"exact"`` if all are restored. Otherwise all environments need a reset.
    """
    if isinstance(env, Workers):
        outcomes = env.call_each("restore", [(episode, seconds) for episode in episodes], seconds)
        return next((outcome for outcome in outcomes if outcome != "exact"), "exact")
    end = time.monotonic() + seconds
    copies = env.envs if isinstance(env, gym.vector.SyncVectorEnv) else [env]
    for copy, episode in zip(copies, episodes, strict=True):
        outcome: Outcome = copy.get_wrapper_attr("restore")(episode, end - time.monotonic())
        if outcome != "exact":
            return outcome
    return "exact"


def checksum(value: Any, start: int = 0) -> int:
    """Return the CRC-32 of arrays and numbers, in dictionaries, tuples and lists of any depth."""
    if isinstance(value, dict):
        value = [*value, *value.values()]
    if isinstance(value, tuple | list):
        for item in value:
            start = checksum(item, start)
        return start
    if isinstance(value, np.ndarray) or type(value) is torch.Tensor:  # isinstance takes longer than the rest
        return zlib.crc32(np.asarray(value).tobytes(), start)
    return zlib.crc32(repr(value).encode(), start)


def seed_globals(seed: int) -> None:
    """Seed the global random generators of PyTorch, NumPy and Python."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)


def _parts(space: gym.Space[Any]) -> list[gym.Space[Any]]:
    """Return a space and those inside it."""
    inside = getattr(space, "spaces", ())
    inside = inside.values() if isinstance(inside, dict) else inside
    return [space, *(part for one in inside for part in _parts(one))]
