"""How single entries of an observation are read: as numbers, pictures or codes."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete

from recdqn.envs.shrink import small_grey
from recdqn.errors import LONGEST, ConfigError

Space = gym.Space[Any]
LIMIT = 100_000  # numbers of one entry, and values of one code


class WrongObservation(TypeError):
    """An observation that does not match the environment's ``observation_space``."""


class Entry(NamedTuple):
    """One way to read one entry.

    Attributes:
        key: ``"observation"``, ``"pixels"`` or ``"codes"``.
        size: numbers, pictures or codes that it gives.
        codes: how many values a code may have; 0 for other kinds.
        read: turns a checked array into ``[size]`` numbers or codes, or ``[size, height, width]`` bytes.
    """

    key: str
    size: int
    codes: int
    read: Callable[[np.ndarray], np.ndarray]


def numbers(space: Any, image_size: int) -> Entry:
    """Every number as it is."""
    return Entry("observation", int(np.prod(space.shape)), 0, lambda x: x.astype(np.float32).ravel())


def one_hot(sizes: np.ndarray, start: np.ndarray, image_size: int = 0) -> Entry:
    """Zeros and a one for each choice, side by side."""
    places = np.cumsum(sizes) - sizes

    def read(value: np.ndarray) -> np.ndarray:
        result = np.zeros(int(sizes.sum()), np.float32)
        result[places + value.ravel() - start] = 1.0
        return result

    return Entry("observation", int(sizes.sum()), 0, read)


def _grid(space: Box, image_size: int) -> Entry:
    """Codes from 0 on; each position of the last axis of three has codes of its own."""
    low, high = int(space.low.min()), int(space.high.max())
    count, channels = high - low + 1, space.shape[-1] if len(space.shape) == 3 else 1
    if not np.issubdtype(space.dtype, np.integer) or count * channels > LIMIT:
        raise ConfigError(f"expected whole numbers of at most {LIMIT:,} values")
    shift = np.arange(channels) * count - low

    def read(value: np.ndarray) -> np.ndarray:
        codes = value.astype(np.int64).reshape(-1, channels) + shift
        return codes.ravel().astype(np.int32)

    return Entry("codes", int(np.prod(space.shape)), count * channels, read)


def _picture(space: Box, image_size: int) -> Entry:
    """One picture, in grey."""
    turned = colours_last(space.shape)
    return Entry("pixels", 1, 0, lambda x: small_grey(_bytes(x, space).transpose(turned), image_size))


def _frames(space: Box, image_size: int) -> Entry:
    """Several pictures in the first axis, or in the last one if that is shorter."""
    if len(space.shape) == 4:
        count, axis, turned = space.shape[0], 0, colours_last(space.shape[1:])
    else:
        if len(space.shape) != 3:
            raise ConfigError("expected three or four axes")
        axis = 0 if space.shape[0] <= space.shape[-1] else -1
        count, turned = space.shape[axis], (0, 1)

    def read(value: np.ndarray) -> np.ndarray:
        frames = np.moveaxis(_bytes(value, space), axis, 0)
        return np.concatenate([small_grey(frame.transpose(turned), image_size) for frame in frames])

    return Entry("pixels", count, 0, read)


READERS: dict[str, Callable[[Box, int], Entry]] = {
    "numbers": numbers,
    "picture": _picture,
    "frames": _frames,
    "grid": _grid,
}


def colours_last(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the axes in the order height, width, colours."""
    if len(shape) == 2:
        return (0, 1)
    if len(shape) == 3 and shape[2] in (1, 3):
        return (0, 1, 2)
    if len(shape) == 3 and shape[0] in (1, 3):
        return (1, 2, 0)
    raise ConfigError("expected 1 or 3 colours in the first or the last axis; 'frames' keeps every plane")


def _bytes(value: np.ndarray, space: Box) -> np.ndarray:
    """Scale a picture from its declared range to 0 to 255."""
    if space.dtype == np.uint8 and space.low.min() == 0 and space.high.max() == 255:
        return value
    low, high = float(space.low.min()), float(space.high.max())
    share = (value.astype(np.float64) - low) / max(high - low, 1e-12)
    if not np.isfinite(share).all():
        raise WrongObservation("a picture has a number that is not finite")
    return (share.clip(0, 1) * 255 + 0.5).astype(np.uint8)


def as_declared(value: Any, shape: tuple[int, ...], dtype: np.dtype[Any], where: str = "") -> np.ndarray:
    """Return a value as an array, and raise :class:`WrongObservation` if its shape or type is another one."""
    array = np.asarray(value)
    if array.shape != shape or not (array.dtype == dtype or np.can_cast(array.dtype, dtype, "same_kind")):
        raise WrongObservation(
            f"an observation of shape {array.shape} and type {array.dtype}, "
            f"and declared {shape} and {dtype}{where}"
        )
    return array


def checker(space: Any, name: str = "") -> Callable[[Any], np.ndarray]:
    """Return a function that returns one entry as an array of the declared type.

    It raises :class:`WrongObservation` if the entry has another shape or type, or if a choice or a code is
    out of its range.
    """
    dtype = np.dtype(np.int64) if isinstance(space, Discrete) else space.dtype
    shape, where = space.shape, f" for {name}" if name else ""
    low, high = bounds(space)
    every = dtype == np.uint8 and np.min(low) == 0 and np.max(high) == 255
    whole = np.issubdtype(dtype, np.integer) and not every

    def check(value: Any) -> np.ndarray:
        array = as_declared(value, shape, dtype, where)
        if whole and (outside := (array < low) | (array > high)).any():
            raise WrongObservation(f"{array[outside].flat[0]}{where}, and declared {short(space)}")
        return array.astype(dtype, copy=False)

    return check


def bounds(space: Any) -> tuple[Any, Any]:
    """Return the smallest and the largest value of each number, of spaces that are no Dict or Tuple."""
    if isinstance(space, Box):
        return space.low, space.high
    if isinstance(space, MultiBinary):
        return 0, 1
    sizes = space.nvec if isinstance(space, MultiDiscrete) else space.n
    return space.start, space.start + sizes - 1


def short(space: object) -> str:
    """Describe a space in one line."""
    return textwrap.shorten(str(space), LONGEST, placeholder=" ...")
