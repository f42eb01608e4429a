"""Games that can be put down and taken up again, so that a stopped run goes on exactly (chapter 5)."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.envs.registration import EnvSpec
from tensordict import TensorDict
from torchrl.collectors import Collector
from torchrl.envs import TransformedEnv

# What an environment holds and does not change while it is played. pygame's objects are drawn anew.
FIXED = (gym.Space, gym.Env, EnvSpec, ModuleType, type, np.dtype, Callable)


class Game(gym.Wrapper):
    """The outermost wrapper of one environment: gives and takes the state of its game.

    The state is what the environment and its wrappers keep in attributes: numbers, strings, arrays, random
    generators, and lists, tuples and dictionaries of these. All of Gymnasium's classic control environments
    keep nothing else. Where another object is found, such as a physics engine's world, the state cannot be
    known to be complete, and :attr:`game` is ``None``.

    Example:
        >>> env = Game(gym.make("CartPole-v1"))
        >>> _ = env.reset(seed=0)
        >>> saved = env.game
        >>> first = env.step(0)[0]
        >>> env.game = saved
        >>> bool((env.step(0)[0] == first).all())
        True
    """

    @property
    def game(self) -> list[dict[str, Any]] | None:
        """The attributes of each wrapper and of the environment, from the outside in."""
        saved = []
        for layer in self._layers():
            try:
                saved.append({k: _plain(v) for k, v in vars(layer).items() if not _fixed(v)})
            except TypeError:
                return None
        return saved

    @game.setter
    def game(self, saved: list[dict[str, Any]]) -> None:
        for layer, values in zip(self._layers(), saved, strict=True):
            for name, value in values.items():
                setattr(layer, name, _unplain(value))

    def _layers(self) -> list[gym.Env]:
        layers = [self.env]
        while isinstance(layers[-1], gym.Wrapper):
            layers.append(layers[-1].env)
        return layers


def _fixed(value: Any) -> bool:
    return isinstance(value, FIXED) or type(value).__module__.partition(".")[0] == "pygame"


def _plain(value: Any) -> Any:
    """Turn a value into what ``torch.load(..., weights_only=True)`` reads; TypeError where it cannot."""
    if isinstance(value, np.ndarray | np.generic) and value.dtype != object:
        return {"array": torch.from_numpy(np.array(value)), "scalar": isinstance(value, np.generic)}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.random.Generator):
        return {"generator": value.bit_generator.state}
    if isinstance(value, torch.Tensor):
        return value.clone()
    if isinstance(value, list | tuple):
        return {type(value).__name__: [_plain(item) for item in value]}
    if isinstance(value, dict):
        return {"dict": [(_plain(k), _plain(v)) for k, v in value.items()]}
    raise TypeError(f"a {type(value).__name__} cannot be saved")


def _unplain(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    if "generator" in value:
        generator = np.random.Generator(getattr(np.random, value["generator"]["bit_generator"])())
        generator.bit_generator.state = value["generator"]
        return generator
    if "array" in value:
        array = value["array"].numpy().copy()
        return array[()] if value["scalar"] else array
    if "list" in value:
        return [_unplain(item) for item in value["list"]]
    if "tuple" in value:
        return tuple(_unplain(item) for item in value["tuple"])
    return {_unplain(k): _unplain(v) for k, v in value["dict"]}


class Collection:
    """What ``torchrl.checkpoint`` needs to save and load a collector in the middle of its episodes.

    TorchRL 0.14.1's ``Collector.state_dict()`` holds counters, but neither the step at which each environment
    stands (observation, recurrent state, number of the episode) nor the games; after a load it begins new
    episodes. Here they go on, where every game's state is known; ``exact`` says whether it is.

    Args:
        collector: as :func:`recdqn.replay.make_collector` builds it.
        env: its environment, as :func:`recdqn.envs.make_env` builds it.
    """

    def __init__(self, collector: Collector, env: TransformedEnv) -> None:
        self.collector = collector
        self.games = env.base_env._env  # a vectorised Gymnasium environment, or one Game
        self.many = isinstance(self.games, gym.vector.VectorEnv)
        self.exact = True

    def state_dict(self) -> dict[str, Any]:
        """Return the collector's state, where each environment stands, and the games."""
        games = list(self.games.call("game")) if self.many else [self.games.game]
        return {
            "collector": self.collector.state_dict(),
            "carrier": self.collector._carrier.clone().to_dict(),
            "games": None if None in games else games,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put the collector back to where it was; where the games are not known, at new episodes."""
        self.collector.load_state_dict(state["collector"])
        self.exact = state["games"] is not None
        if not self.exact:
            return
        # Loading has given numbers to new episodes that do not begin now.
        self.collector._traj_pool.load_state_dict(state["collector"]["traj_pool"])
        carrier = self.collector._carrier
        self.collector._carrier = TensorDict(state["carrier"], carrier.batch_size, carrier.device)
        if self.many:
            self.games.set_attr("game", state["games"])
        else:
            self.games.game = state["games"][0]
