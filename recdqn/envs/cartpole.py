"""Draw the small grey picture of Gymnasium's CartPole where it changes."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pygame
from gymnasium.envs.classic_control.cartpole import CartPoleEnv
from pygame import gfxdraw

from recdqn.envs.shrink import GREY, filter_matrix

WIDTH, HEIGHT = 600, 400  # of the frame, in pixels
HALF_TRACK, HALF_POLE = 2.4, 0.5  # metres
REACH = 40  # pixels from the middle of the cart to the sides of the part that is drawn
LOW, HIGH = 84, 230  # rows of the part that is drawn, counted from the bottom of the frame
FARTHEST, STEEPEST = 2.6, 0.27  # metres and radians: from there on, shapes leave the part that is drawn
TRACK, AXLE = 100, 107.5  # heights above the bottom of the frame, in pixels
CART = ((-25, -15), (-25, 15), (25, 15), (25, -15))  # corners, from the cart's middle
POLE = ((-5, -5), (-5, 120), (5, 120), (5, -5))  # corners of the upright pole, from the axle
BLACK = (0, 0, 0)
BROWN, BLUE = ((round(float(np.dot(colour, GREY))),) * 3 for colour in ((202, 152, 101), (129, 132, 203)))


class CartPolePainter:
    """Draw the picture of a CartPole without its frame.

    Only the surroundings of the cart differ from one picture to the next. The painter draws Gymnasium's
    shapes, in their grey levels, on a surface of 80 by 146 pixels, and shrinks that by two matrix products,
    with the filter of :func:`~recdqn.envs.shrink.resize`. All around is the empty track.

    Args:
        env: the environment, whose ``state`` is drawn.
        size: height and width of the picture, in pixels.
    """

    def __init__(self, env: CartPoleEnv, size: int) -> None:
        self._env, self._size = env, size
        self._surface = pygame.Surface((2 * REACH, HIGH - LOW), depth=32)
        self._pixels = np.asarray(self._surface.get_buffer()).reshape(HIGH - LOW, 2 * REACH, 4)
        green = self._surface.get_shifts()[1] // 8
        self._levels = self._pixels[::-1, :, green]  # the highest row first

        track = np.full((HEIGHT, 1), 255, np.float32)  # any column of the frame without the cart
        track[HEIGHT - 1 - TRACK] = 0
        down, part = filter_matrix(HEIGHT, size), slice(HEIGHT - HIGH, HEIGHT - LOW)
        self._rows = _nonzero(down[:, part])  # rows of the picture that the part reaches
        self._down = down[self._rows, part].copy()
        self._track = track[part]
        self._around = (down @ track)[self._rows] + 0.5  # to round it
        self._empty = np.repeat((down @ track + 0.5).astype(np.uint8), size, axis=1)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._env, self._size)  # a copy draws on a surface of its own

    def __call__(self) -> np.ndarray | None:
        """Return the picture ``[1, size, size]``, uint8, or ``None`` in a state that it cannot draw."""
        env = self._env
        measures = env.screen_width, env.screen_height, env.x_threshold, env.length
        if env.state is None or measures != (WIDTH, HEIGHT, HALF_TRACK, HALF_POLE) or self._size > HEIGHT:
            return None
        x, angle = env.state[0], env.state[2]
        if not (abs(x) < FARTHEST and abs(angle) < STEEPEST):
            return None
        middle = float(x) * (WIDTH / (2 * HALF_TRACK)) + WIDTH / 2
        left = int(middle) - REACH
        self._draw(middle, float(angle), left)
        columns, across = _across(self._size, left)
        picture = self._empty.copy()
        picture[self._rows, columns] = self._around + self._down @ (self._levels - self._track) @ across
        return picture[None]

    def _draw(self, middle: float, angle: float, left: int) -> None:
        """Draw the cart at ``middle``; ``left`` is the column of the frame where the surface begins."""
        surface, axle = self._surface, (int(middle) - left, int(AXLE) - LOW)
        surface.set_clip((-left, 0, WIDTH, HIGH - LOW))  # lines end where the frame ends
        self._pixels.fill(255)  # surface.fill would write past the processor's cache
        body = [(int(x + middle) - left, y + TRACK - LOW) for x, y in CART]
        gfxdraw.aapolygon(surface, body, BLACK)
        gfxdraw.filled_polygon(surface, body, BLACK)
        turned = [pygame.math.Vector2(corner).rotate_rad(-angle) for corner in POLE]
        pole = [(int(x + middle) - left, int(y + AXLE) - LOW) for x, y in turned]
        gfxdraw.aapolygon(surface, pole, BROWN)
        gfxdraw.filled_polygon(surface, pole, BROWN)
        gfxdraw.aacircle(surface, *axle, 5, BLUE)
        gfxdraw.filled_circle(surface, *axle, 5, BLUE)
        gfxdraw.hline(surface, 0, 2 * REACH, TRACK - LOW, BLACK)


@functools.cache
def _across(size: int, left: int) -> tuple[slice, np.ndarray]:
    """Return the columns of the picture that the part reaches, and the matrix that shrinks it sideways."""
    matrix = np.zeros((size, 2 * REACH), np.float32)
    first, last = max(left, 0), min(left + 2 * REACH, WIDTH)  # columns of the frame
    matrix[:, first - left : last - left] = filter_matrix(WIDTH, size)[:, first:last]
    columns = _nonzero(matrix)
    return columns, matrix[columns].T.copy()


def _nonzero(matrix: np.ndarray) -> slice:
    """Return the rows of ``matrix`` between its first and its last that are not all zero, both included."""
    rows = np.flatnonzero(matrix.any(axis=1))
    return slice(rows[0], rows[-1] + 1)
