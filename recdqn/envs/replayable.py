"""Games that can be put down and taken up again, so that a stopped run goes on exactly (chapter 5)."""

from __future__ import annotations

import random
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import gymnasium as gym
import numpy as np
import pygame
import torch
from gymnasium.envs.registration import EnvSpec
from tensordict import TensorDict
from torchrl.checkpoint import GlobalRNGState
from torchrl.collectors import Collector
from torchrl.envs import TransformedEnv

# What an environment holds and does not change while it is played, as long as it is the same object.
FIXED = (gym.Space, ModuleType, type, np.dtype, FunctionType, MethodType, BuiltinFunctionType)
# What is no part of a game: how an environment was made, and what pygame draws anew.
SKIPPED = (EnvSpec, pygame.Surface, type(pygame.time.Clock()))


class Game(gym.Wrapper):
    """The outermost wrapper of one environment: gives and takes the state of its game.

    The state is what the environment and its wrappers keep in attributes: numbers, strings, arrays, random
    generators, and lists, tuples and dictionaries of these. All of Gymnasium's classic control environments
    keep nothing else. Where another object is found, such as a physics engine's world, the state cannot be
    known to be complete, and :attr:`game` is ``None``. What an environment keeps outside of itself, in a
    class or a module, is not looked at.

    Args:
        env: the environment, with all its other wrappers.
        alone: whether it has a process of its own, whose global random numbers are then part of the game.

    Example:
        >>> env = Game(gym.make("CartPole-v1"))
        >>> _ = env.reset(seed=0)
        >>> saved = env.game
        >>> first = env.step(0)[0]
        >>> env.game = saved
        >>> bool((env.step(0)[0] == first).all())
        True
    """

    def __init__(self, env: gym.Env, alone: bool = False) -> None:
        super().__init__(env)
        self._alone = alone
        self._first = [dict(vars(layer)) for layer in self._layers()]

    def reset(self, *, seed: int | None = None, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """Reset; a seed is also that of the process, where the environment has one of its own."""
        if self._alone and seed is not None:
            seed_globals(seed)
        return self.env.reset(seed=seed, **kwargs)

    @property
    def game(self) -> dict[str, Any] | None:
        """The attributes of each wrapper and of the environment, from the outside in."""
        saver, layers = _Saver(), self._layers()
        try:
            saved = [self._state(layer, k, layers, saver) for k, layer in enumerate(layers)]
        except (TypeError, ValueError):
            return None
        return {"layers": saved, "random": GlobalRNGState().state_dict() if self._alone else None}

    @game.setter
    def game(self, saved: dict[str, Any]) -> None:
        loader = _Loader()
        for layer, values in zip(self._layers(), saved["layers"], strict=True):
            for name, value in values.items():
                if isinstance(value, dict) and "space" in value:
                    for part, generator in zip(_parts(vars(layer)[name]), value["space"], strict=True):
                        part._np_random = loader.load(generator)
                else:
                    vars(layer)[name] = loader.load(value)
        if saved["random"] is not None:
            GlobalRNGState().load_state_dict(saved["random"])

    def _layers(self) -> list[gym.Env]:
        layers = [self.env]
        while isinstance(layers[-1], gym.Wrapper):
            layers.append(layers[-1].env)
        return layers

    def _state(self, layer: gym.Env, number: int, layers: list[gym.Env], saver: _Saver) -> dict[str, Any]:
        """Return the attributes of one layer; TypeError where one may hold more than can be seen."""
        if any(getattr(cls, "__slots__", ()) for cls in type(layer).__mro__):
            raise TypeError("slots are not looked at")
        state, inner = {}, layers[number + 1 :]
        for name, value in vars(layer).items():
            if isinstance(value, SKIPPED) or (inner and (value is inner[0] or name == "_saved_kwargs")):
                continue
            if isinstance(value, FIXED):
                if value is not self._first[number].get(name) or not _holds_nothing(value, layers):
                    raise TypeError(f"{name} may change")
                if isinstance(value, gym.Space):  # it draws random numbers of its own
                    state[name] = {"space": [saver.save(part._np_random) for part in _parts(value)]}
            else:
                state[name] = saver.save(value)
        return state


def seed_globals(seed: int) -> None:
    """Seed what PyTorch, NumPy and Python draw for everybody in this process."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)


def _parts(space: gym.Space) -> list[gym.Space]:
    """Return a space and those inside it."""
    inside = getattr(space, "spaces", ())
    inside = inside.values() if isinstance(inside, dict) else inside
    return [space, *(part for one in inside for part in _parts(one))]


def _holds_nothing(value: Any, layers: list[gym.Env]) -> bool:
    """Whether a function or a method holds nothing that may change."""
    if isinstance(value, MethodType):
        return any(value.__self__ is layer for layer in layers)
    if isinstance(value, FunctionType):
        return not value.__closure__
    return True


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
        if kind is torch.Tensor and value.requires_grad:
            raise TypeError("a tensor that belongs to a graph")
        if kind in (np.ndarray, torch.Tensor) and value.dtype != object:
            array = np.asarray(value)
            if any(np.may_share_memory(array, other) for other in self._arrays):
                raise TypeError("two arrays share memory")
            self._arrays.append(array)
            return {kind.__name__: torch.from_numpy(np.array(array))}
        if kind is np.random.Generator:
            bits = value.bit_generator
            if getattr(np.random, type(bits).__name__, None) is not type(bits):
                raise TypeError("a bit generator of somebody's own")
            seed = bits.seed_seq
            made = (seed.entropy, seed.spawn_key, seed.pool_size, seed.n_children_spawned)
            return {"generator": [self.save(bits.state), self.save(made)]}
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
        ((kind, content),) = value.items()
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
            state, (entropy, *seed) = map(self.load, content)
            names = ("spawn_key", "pool_size", "n_children_spawned")
            seeds = np.random.SeedSequence(entropy, **dict(zip(names, seed, strict=True)))
            made = np.random.Generator(getattr(np.random, state["bit_generator"])(seeds))
            made.bit_generator.state = state
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
