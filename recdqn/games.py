"""Games that can be put down and taken up again, so that a stopped run goes on exactly (chapter 5)."""

from __future__ import annotations

from functools import partial
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.envs.registration import EnvSpec
from tensordict import TensorDict
from torchrl.collectors import Collector
from torchrl.envs import TransformedEnv

# What an environment holds and does not change while it is played. pygame's objects are drawn anew.
FIXED = (
    gym.Space,
    EnvSpec,
    np.dtype,
    type,
    ModuleType,
    FunctionType,
    MethodType,
    BuiltinFunctionType,
    partial,
)


class Game(gym.Wrapper):
    """The outermost wrapper of one environment: gives and takes the state of its game.

    The state is what the environment and its wrappers keep in attributes: numbers, strings, arrays, random
    generators, and lists, tuples and dictionaries of these. All of Gymnasium's classic control environments
    keep nothing else. Where another object is found, such as a physics engine's world, the state cannot be
    known to be complete, and :attr:`game` is ``None``. What an environment keeps outside of itself, in a
    class, a module or a function, is not looked at.

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
        saver, saved, layers = _Saver(), [], self._layers()
        for layer, inner in zip(layers, [*layers[1:], None], strict=True):
            if any(getattr(cls, "__slots__", ()) for cls in type(layer).__mro__):
                return None
            state = {k: v for k, v in vars(layer).items() if not _fixed(v)}
            if inner is not None:
                state.pop("env")
                state.pop("_saved_kwargs", None)  # how Gymnasium remembers what made a wrapper
            try:
                saved.append({k: saver.save(v) for k, v in state.items()})
            except TypeError:
                return None
        return saved

    @game.setter
    def game(self, saved: list[dict[str, Any]]) -> None:
        loader = _Loader()
        for layer, values in zip(self._layers(), saved, strict=True):
            for name, value in values.items():
                setattr(layer, name, loader.load(value))

    def _layers(self) -> list[gym.Env]:
        layers = [self.env]
        while isinstance(layers[-1], gym.Wrapper):
            layers.append(layers[-1].env)
        return layers


def _fixed(value: Any) -> bool:
    """Whether a value is no part of the game."""
    return isinstance(value, FIXED) or type(value).__module__.partition(".")[0] == "pygame"


class _Saver:
    """Turns values into what ``torch.load(..., weights_only=True)`` reads; TypeError where it cannot.

    A thing that is found twice stays one thing: where it is found again, its number stands.
    """

    def __init__(self) -> None:
        self._numbers: dict[int, int] = {}
        self._arrays: list[np.ndarray] = []

    def save(self, value: Any) -> Any:
        kind = type(value)  # exactly: a subclass may hold more
        if value is None or kind in (bool, int, float, str):
            return value
        if isinstance(value, np.generic) and value.dtype != object:
            return {"scalar": torch.from_numpy(np.array(value))}
        if kind is tuple:
            return {"tuple": [self.save(item) for item in value]}
        if id(value) in self._numbers:
            return {"same": self._numbers[id(value)]}
        self._numbers[id(value)] = len(self._numbers)
        if kind in (np.ndarray, torch.Tensor) and value.dtype != object:
            array = value if kind is np.ndarray else value.detach().numpy()
            if any(np.may_share_memory(array, other) for other in self._arrays):
                raise TypeError("two arrays share memory")
            self._arrays.append(array)
            return {kind.__name__: torch.from_numpy(np.array(array))}
        if kind is np.random.Generator:
            seed = value.bit_generator.seed_seq
            names = ("entropy", "spawn_key", "pool_size", "n_children_spawned")
            return {"generator": value.bit_generator.state, "seed": {k: getattr(seed, k) for k in names}}
        if kind is list:
            return {"list": [self.save(item) for item in value]}
        if kind is dict:
            return {"dict": [(self.save(k), self.save(v)) for k, v in value.items()]}
        raise TypeError(f"a {kind.__name__} cannot be saved")


class _Loader:
    """The way back."""

    def __init__(self) -> None:
        self._things: list[Any] = []  # by number

    def load(self, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        ((kind, content), *seed) = value.items()
        if kind == "scalar":
            return content.numpy()[()]
        if kind == "tuple":
            return tuple(self.load(item) for item in content)
        if kind == "same":
            return self._things[content]
        made = {"list": list, "dict": dict}.get(kind, lambda: None)()
        self._things.append(made)
        number = len(self._things) - 1
        if kind == "list":
            made.extend(self.load(item) for item in content)
        elif kind == "dict":
            made.update((self.load(k), self.load(v)) for k, v in content)
        elif kind == "generator":
            bits = getattr(np.random, content["bit_generator"])
            made = np.random.Generator(bits(np.random.SeedSequence(**seed[0][1])))
            made.bit_generator.state = content
        else:
            made = content.numpy().copy() if kind == "ndarray" else content.clone()
        self._things[number] = made
        return made


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
