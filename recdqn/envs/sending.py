"""Send to other processes what only this program knows about its environments."""

from __future__ import annotations

import contextlib
import pickle
import sys
from collections.abc import Sequence
from typing import Any

import cloudpickle
import gymnasium as gym
from gymnasium.envs.registration import EnvSpec

from recdqn.errors import UserError, first_line

BUILT_IN = ("gymnasium.", "recdqn.")  # modules whose environments every process has


def pack(name: str) -> list[bytes]:
    """Return what another process needs to make the environments ``name``; :func:`unpack` reads it there.

    That is the function or class, if the program's own file or a notebook defines it, and every environment
    that the program has registered with Gymnasium. So the other process need not run the program's file.

    Raises:
        UserError: if the function or class uses something that cannot be sent.
    """
    specs = [spec for spec in gym.registry.values() if not str(spec.entry_point).startswith(BUILT_IN)]
    places = [name, *(str(spec.entry_point) for spec in specs)]
    main = vars(sys.modules["__main__"])
    things: dict[str, Any] = {place: main.get(_attribute(place)) for place in places if _attribute(place)}
    things |= {spec.id: spec for spec in specs}
    packed = []
    for key, thing in things.items():
        try:
            packed.append(cloudpickle.dumps((key, thing)))
        except Exception as error:
            if key == name:
                raise UserError(
                    f"env.id={name!r} cannot be sent to another process ({first_line(error)}): put it into a "
                    "module of its own, and name it 'module:function'"
                ) from error
    return packed


def unpack(packed: Sequence[bytes]) -> None:
    """Let this process know what :func:`pack` has packed in another one."""
    for data in packed:
        with contextlib.suppress(Exception):  # a module that is not here; its environments may not be needed
            key, thing = pickle.loads(data)
            if isinstance(thing, EnvSpec):
                gym.registry.setdefault(thing.id, thing)
            else:
                setattr(sys.modules["__main__"], _attribute(key), thing)


def _attribute(place: str) -> str:
    """Return ``"Walk"`` for ``"__main__:Walk.make"``, and nothing for a place in another module."""
    module, _, path = place.partition(":")
    return path.partition(".")[0] if module == "__main__" else ""
