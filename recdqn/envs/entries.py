"""Observations of any Gymnasium space, read as numbers, pictures and codes.

Each entry is read in one of the ways of ``READERS`` in :mod:`recdqn.envs.arrays`. Entries of the same kind
lie side by side, so that an agent sees at most one vector, one stack of pictures and one list of codes, each
with an encoder of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple

from recdqn.config import EnvConfig
from recdqn.envs.arrays import (
    LIMIT,
    READERS,
    Entry,
    Space,
    WrongObservation,
    checker,
    numbers,
    one_hot,
    short,
)
from recdqn.errors import ConfigError

KEYS = ("observation", "pixels", "codes")  # of what an agent sees, in this order
MASK = "action_mask"
KNOWN = (Box, Discrete, MultiBinary, MultiDiscrete)


def leaves(space: Space, name: str = "") -> Iterator[tuple[str, Space]]:
    """Yield the name and the space of every entry inside Dict and Tuple spaces: ``"arm.angles"``."""
    if isinstance(space, Dict | Tuple):
        inside = space.spaces.items() if isinstance(space, Dict) else enumerate(space.spaces)
        for key, part in inside:
            yield from leaves(part, f"{name}.{key}" if name else str(key))
    else:
        yield name, space


def values(space: Space, observation: Any) -> Iterator[Any]:
    """Yield the entries of an observation in the order of :func:`leaves`."""
    if isinstance(space, Dict):
        for key, part in space.spaces.items():
            yield from values(part, observation[key])
    elif isinstance(space, Tuple):
        for part, value in zip(space.spaces, observation, strict=True):
            yield from values(part, value)
    else:
        yield observation


def batch_size(space: Space, observation: Any) -> int | None:
    """Return how many observations lie side by side in every entry; ``None`` for one observation."""
    for (_, part), value in zip(leaves(space), values(space, observation), strict=True):
        if isinstance(part, KNOWN) and np.ndim(value) == len(part.shape or ()) + 1:
            return len(value)
    return None


def element(space: Space, observation: Any, k: int) -> Any:
    """Return one observation of a batch."""
    if isinstance(space, Dict):
        return {key: element(part, observation[key], k) for key, part in space.spaces.items()}
    if isinstance(space, Tuple):
        return tuple(element(part, value, k) for part, value in zip(space.spaces, observation, strict=True))
    return observation[k]


class Reader:
    """Turn observations of any space into what an agent sees.

    Args:
        space: as the environment declares it.
        cfg: which entries are read, and how.
        actions: number of actions, for a mask.

    Attributes:
        space: a ``Box`` vector, or a ``Dict`` with some of ``"observation"``, ``"pixels"``, ``"codes"`` and
            ``"action_mask"``.
        masks: whether it reads a mask of legal actions.

    Raises:
        ConfigError: if an entry cannot be read, naming it and what to do.
    """

    def __init__(self, space: Any, cfg: EnvConfig, actions: int) -> None:
        self._declared, self._cfg, self._actions = space, cfg, actions
        found = list(leaves(space)) if isinstance(space, gym.Space) else []
        self.masks = cfg.mask != "none"
        self._mask_place = next((k for k, (name, _) in enumerate(found) if name == cfg.mask), None)
        names = [name for name, _ in found]
        if not self.masks and "action_mask" in names:
            raise ConfigError(
                f"env.id={cfg.id!r} shows its legal actions in 'action_mask': expected env.mask='action_mask'"
            )
        self._entries: list[tuple[int, Callable[[Any], np.ndarray], Entry]] = []
        if cfg.observation != "pixels":
            for place in self._chosen(names):
                name, part = found[place]
                entry = self._entry(name, part, found)
                self._entries.append((place, checker(part, name), entry))
        self.spaces = self._spaces()
        vector = list(self.spaces) == ["observation"]
        self.space: Space = self.spaces["observation"] if vector else Dict(self.spaces)

    def __call__(self, observation: Any, info: dict[str, Any]) -> Any:
        """Return the observation as an element of :attr:`space`, in new arrays.

        Raises:
            WrongObservation: if it is not what the environment declares.
        """
        given = list(values(self._declared, observation))
        read: dict[str, list[np.ndarray]] = {}
        before = 0
        for place, check, entry in self._entries:
            value = entry.read(check(given[place]))
            read.setdefault(entry.key, []).append(value + before if entry.codes else value)
            before += entry.codes  # each array of codes has codes of its own
        seen = {key: np.concatenate(read[key]) for key in KEYS if key in read}
        if self.masks:
            shown = self._mask_place is not None
            seen[MASK] = self.legal(given[self._mask_place or 0] if shown else info.get(self._cfg.mask))
        return seen["observation"] if isinstance(self.space, Box) else seen

    def chosen(self) -> Iterator[tuple[str, Space, str | None]]:
        """Yield name, space and ``env.arrays`` of each entry that is read, in their order."""
        found = list(leaves(self._declared))
        for place, *_ in self._entries:
            name, space = found[place]
            yield name, space, self._how(name)

    def legal(self, mask: Any) -> np.ndarray:
        """Return a mask as booleans; one that forbids everything, at the end of an episode, allows all."""
        if mask is None or np.shape(mask) != (self._actions,):
            raise WrongObservation(
                f"no {self._cfg.mask!r} with one number for each of {self._actions} actions, neither in the "
                f"observation nor in info{'' if mask is None else f', but one of shape {np.shape(mask)}'}"
            )
        legal = np.asarray(mask).astype(bool)
        return legal if legal.any() else np.ones_like(legal)  # at the end of an episode there may be none

    def _chosen(self, names: list[str]) -> list[int]:
        """Return the places of the entries that are read."""
        cfg, places = self._cfg, range(len(names))
        for wanted in cfg.entries:
            if wanted != "all" and not any(_inside(name, wanted) for name in names):
                raise ConfigError(
                    f"env.entries={cfg.entries}: there is no {wanted!r} in {cfg.id}, expected some of {names}"
                )
        return [
            k
            for k in places
            if k != self._mask_place
            and any(wanted == "all" or _inside(names[k], wanted) for wanted in cfg.entries)
        ]

    def _entry(self, name: str, space: Any, found: list[tuple[str, Any]]) -> Entry:
        cfg, how = self._cfg, self._how(name)
        match space:
            case Discrete() if space.n <= LIMIT:
                return one_hot(np.array([space.n]), np.array([space.start]))
            case MultiDiscrete() if space.nvec.size and space.nvec.sum() <= LIMIT:
                return one_hot(space.nvec.ravel(), space.start.ravel())
            case MultiBinary() if 0 < np.prod(space.shape) <= LIMIT:
                return numbers(space, 0)
            case Box() if 0 not in space.shape:
                if len(space.shape) < 2 and how is None:
                    how = "numbers"
                if how is None:
                    raise ConfigError(
                        f"env.id={cfg.id!r} shows {_called(name)}an array {short(space)}, a picture or "
                        "codes: expected env.arrays, one of 'picture', 'frames' (several pictures), 'grid' "
                        f"(codes) and 'numbers'{f', for example {name}=picture' if name else ''}"
                    )
                return self._array(name, space, how)
        no_use = {name, cfg.mask, "action_mask"}
        others = tuple(other for other, part in found if other not in no_use and isinstance(part, KNOWN))
        cure = f"leave it out by env.entries={others!r}" if others else "wrap it so that it returns a Box"
        raise ConfigError(f"env.id={cfg.id!r} has {_called(name)}observations {short(space)}: {cure}")

    def _how(self, name: str) -> str | None:
        """Return how an array is to be read: by its own name, or as all are."""
        general = None
        for setting in self._cfg.arrays:
            entry, equals, how = setting.rpartition("=")
            if how not in (*READERS, "ask") or (equals and not entry):
                raise ConfigError(
                    f"env.arrays={self._cfg.arrays}: expected one of {', '.join(READERS)}, "
                    "or entry=one of them"
                )
            if equals and _inside(name, entry):
                return how
            if not equals and how != "ask":
                general = how
        return general

    def _array(self, name: str, space: Box, how: str) -> Entry:
        picture = how in ("picture", "frames")
        bounded = np.isfinite([float(space.low.min()), float(space.high.max())]).all()
        try:
            if (picture and len(space.shape) < 2) or ((picture or how == "grid") and not bounded):
                raise ConfigError("expected two axes or more, and bounds" if picture else "expected bounds")
            return READERS[how](space, self._cfg.image_size)
        except ConfigError as error:
            raise ConfigError(
                f"env.arrays={self._cfg.arrays}: {self._cfg.id} shows {_called(name)}an array "
                f"{short(space)}, no {how} ({error}); 'numbers' reads any array"
            ) from None

    def _spaces(self) -> dict[str, Any]:
        spaces: dict[str, Any] = {}
        size = {key: sum(e.size for *_, e in self._entries if e.key == key) for key in KEYS}
        if size["observation"]:
            spaces["observation"] = Box(-np.inf, np.inf, (size["observation"],), np.float32)
        if size["pixels"]:
            side = self._cfg.image_size
            spaces["pixels"] = Box(0, 255, (size["pixels"], side, side), np.uint8)
        if size["codes"]:
            most = sum(e.codes for *_, e in self._entries)
            spaces["codes"] = Box(0, most - 1, (size["codes"],), np.int32)
        if not spaces and self._cfg.observation != "pixels":
            raise ConfigError(
                f"env.id={self._cfg.id!r} has observations {short(self._declared)}: expected at least one "
                "number"
            )
        if self.masks:
            spaces[MASK] = Box(0, 1, (self._actions,), np.bool_)
        return spaces


def _inside(name: str, entry: str) -> bool:
    return name == entry or name.startswith(f"{entry}.")


def _called(name: str) -> str:
    return f"in {name!r} " if name else ""
