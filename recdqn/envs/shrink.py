"""Make pictures small and grey."""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor

GREY = np.array([0.2989, 0.587, 0.114], dtype=np.float32)  # weights of red, green and blue (ITU-R BT.601)


def small_grey(picture: np.ndarray, size: int) -> np.ndarray:
    """Resize a picture, ``[height, width]`` with no channel or 1 or 3 behind, to grey ``[1, size, size]``."""
    height, width = picture.shape[:2]
    frame = np.array(picture, order="C").reshape(height, width, -1)  # a copy: it may be read-only
    return grey(resize(torch.from_numpy(frame).permute(2, 0, 1), size))


def grey(small: Tensor) -> np.ndarray:
    """Turn the channels ``[1 or 3, size, size]``, bytes, into grey ``[1, size, size]``, uint8."""
    picture: np.ndarray = small.numpy()
    if len(picture) == 3:
        picture = (np.tensordot(GREY, picture, 1) + 0.5).astype(np.uint8)[None]
    return picture


def resize(image: Tensor, size: int) -> Tensor:
    """Resize ``[channels, height, width]`` to ``[channels, size, size]``, as TorchRL's ``Resize`` does."""
    interpolate = torch.nn.functional.interpolate
    return interpolate(image[None], (size, size), mode="bilinear", antialias=True)[0]


@functools.cache
def filter_matrix(length: int, size: int) -> np.ndarray:
    """Return the matrix ``[size, length]`` by which :func:`resize` shrinks one side of a picture."""
    interpolate = torch.nn.functional.interpolate
    eye = torch.eye(length)[None, None]
    matrix: np.ndarray = interpolate(eye, (size, length), mode="bilinear", antialias=True)[0, 0].numpy()
    matrix.flags.writeable = False  # shared by all who ask for it
    return matrix
