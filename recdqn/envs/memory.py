"""Tasks that need memory: each hides something that a right action depends on.

They are Gymnasium environments, registered as ``recdqn/NAME-v0``, and can be used as ``env.id``. Each has a
twin that hides nothing, ``recdqn/NAMEShown-v0`` (of FlickeringCartPole, ``CartPole-v1``): what an agent
without memory reaches in the twin and not in the task is what memory is worth.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Discrete

CELL = 24  # pixels: a square of the pictures
WHITE, GREY, BLACK, BLUE, ORANGE = (
    (255, 255, 255),
    (200, 200, 200),
    (0, 0, 0),
    (0, 114, 178),
    (230, 159, 0),
)

Step = tuple[np.ndarray, float, bool, bool, dict[str, Any]]


class Corridor(gym.Env[np.ndarray, int]):
    """A corridor with a sign at its entrance, and a junction at its end.

    The sign is shown in the first step only, and must be remembered for ``length`` steps: at the junction,
    turning to its side gives 1 and turning to the other side -1. Either turn ends the episode. Without
    memory the mean return is 0. The task goes back to :cite:t:`bakker2001reinforcement`.

    The observation is ``[sign, at the entrance, at the junction]``, float32; the sign is -1 or 1, and 0 where
    it cannot be seen.

    Args:
        length: steps from the entrance to the junction.
        active: the agent walks by itself, with the actions ahead, left and right; an action that does not
            fit costs a step. This T-maze also asks for exploration: nothing rewards the way to the
            junction. Otherwise each step goes ahead, and the two actions, left and right, count at the
            junction only.
        shown: show the sign at every step.
        render_mode: ``"rgb_array"`` draws the corridor from above.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 8}

    def __init__(
        self, length: int, active: bool = False, shown: bool = False, render_mode: str | None = None
    ) -> None:
        self.length, self.active, self.shown, self.render_mode = length, active, shown, render_mode
        self.observation_space = Box(-1.0, 1.0, (3,), np.float32)
        self.action_space = Discrete(3 if active else 2)  # type: ignore[assignment]  # of numpy integers
        self.side, self.place, self.moved = 0, 0, False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Put up a sign, and go to the entrance."""
        super().reset(seed=seed)
        self.side, self.place, self.moved = int(self.np_random.integers(2)), 0, False
        return self._seen(), {}

    def step(self, action: int) -> Step:
        """Walk ahead or turn."""
        turn = int(action) - self.active  # 0: left, 1: right
        self.moved = True
        if self.place == self.length and turn >= 0:
            return self._seen(), 1.0 if turn == self.side else -1.0, True, False, {}
        if self.place < self.length and (turn < 0 or not self.active):
            self.place += 1
        return self._seen(), 0.0, False, False, {}

    def render(self) -> np.ndarray:
        """Draw the last 16 steps of the corridor: the sign where it is seen, the agent, the junction."""
        columns = min(self.length, 16) + 1
        picture = _squares(3, columns, GREY)
        first = max(0, self.place - columns + 1)
        for column in range(columns):
            _fill(picture, 1, column, WHITE)
        if self.length - first < columns:
            for row in range(3):
                _fill(picture, row, self.length - first, WHITE)
        if self._seen()[0]:
            _fill(picture, 2 * self.side, self.place - first, ORANGE)
        _fill(picture, 1, self.place - first, BLUE)
        return picture

    def _seen(self) -> np.ndarray:
        sign = 2.0 * self.side - 1.0 if self.shown or not self.moved else 0.0
        return np.array([sign, self.place == 0, self.place == self.length], np.float32)


class Copy(gym.Env[np.ndarray, int]):
    """See a list of symbols, wait, and repeat it in the same order.

    Each symbol is shown for one step and must be remembered for ``symbols + delay`` steps. Each one that is
    repeated rightly gives ``1 / symbols``; nothing else is rewarded, and actions before the repetition do not
    count. Without memory the mean return is ``1 / kinds``. :cite:t:`arjovsky2016unitary` compare
    recurrent layers by such a task.

    The observation is one-hot, float32, ``[kinds + 2]``: a symbol, or waiting, or the call to repeat.

    Args:
        symbols: length of the list.
        delay: steps between the list and its repetition.
        kinds: number of different symbols, and of actions.
        shown: show the symbol also where it is to be repeated.
        render_mode: ``"rgb_array"`` draws what is shown.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 4}

    def __init__(
        self,
        symbols: int,
        delay: int,
        kinds: int = 4,
        shown: bool = False,
        render_mode: str | None = None,
    ) -> None:
        self.symbols, self.delay, self.kinds = symbols, delay, kinds
        self.shown, self.render_mode = shown, render_mode
        self.observation_space = Box(0.0, 1.0, (kinds + 2,), np.float32)
        self.action_space = Discrete(kinds)  # type: ignore[assignment]  # of numpy integers
        self.list, self.time = np.zeros(symbols, int), 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Draw a list."""
        super().reset(seed=seed)
        self.list, self.time = self.np_random.integers(self.kinds, size=self.symbols), 0
        return self._seen(), {}

    def step(self, action: int) -> Step:
        """Take the symbol for an answer where one is asked for."""
        asked = self.time - self.symbols - self.delay  # position in the list; negative before the repetition
        right = asked >= 0 and action == self.list[asked]
        self.time += 1
        over = asked == self.symbols - 1
        return self._seen(), right / self.symbols, over, False, {}

    def render(self) -> np.ndarray:
        """Draw the observation as a row of squares, filled where it is 1."""
        seen = self._seen()
        picture = _squares(1, len(seen), WHITE)
        for column in np.flatnonzero(seen):
            _fill(picture, 0, int(column), ORANGE if column < self.kinds else BLUE)
        return picture

    def _seen(self) -> np.ndarray:
        seen = np.zeros(self.kinds + 2, np.float32)
        asked = self.time - self.symbols - self.delay
        if self.time < self.symbols:
            seen[self.list[self.time]] = 1.0
        elif asked < 0:
            seen[self.kinds] = 1.0
        else:
            seen[self.kinds + 1] = 1.0
            if self.shown and asked < self.symbols:
                seen[self.list[asked]] = 1.0
        return seen


class Flickering(gym.Wrapper[np.ndarray, int, np.ndarray, int]):
    """Hide half of all observations, at random: vectors become zeros, and frames black.

    What is hidden must be remembered for one step with probability 1/2, for two with 1/4, and so on. Deep
    recurrent Q-learning was first tested so (:cite:t:`hausknecht2015deep`).

    Args:
        env: any environment with vectors as observations, or one that draws.
        share: probability that an observation is hidden.
    """

    def __init__(self, env: gym.Env[Any, Any], share: float = 0.5) -> None:
        super().__init__(env)
        self.share = share
        self.hidden = False

    def reset(self, **kwargs: Any) -> tuple[np.ndarray, dict[str, Any]]:
        """Reset, and hide the first observation or not."""
        observation, info = self.env.reset(**kwargs)
        return self._seen(observation), info

    def step(self, action: int) -> Step:
        """Step, and hide the observation or not."""
        observation, *rest = self.env.step(action)
        return (self._seen(observation), *rest)  # type: ignore[return-value]

    def render(self) -> Any:
        """Return the frame, black where the observation is hidden."""
        frame = self.env.render()
        return np.zeros_like(frame) if self.hidden and isinstance(frame, np.ndarray) else frame

    def _seen(self, observation: np.ndarray) -> np.ndarray:
        self.hidden = bool(self.unwrapped.np_random.random() < self.share)
        return np.zeros_like(observation) if self.hidden else observation


def flickering_cartpole(render_mode: str | None = None) -> gym.Env[Any, Any]:
    """Make CartPole with half of its observations hidden; its twin is ``"CartPole-v1"``."""
    return Flickering(gym.make("CartPole-v1", render_mode=render_mode))


def _squares(rows: int, columns: int, color: tuple[int, int, int]) -> np.ndarray:
    picture = np.empty((rows * CELL, columns * CELL, 3), np.uint8)
    picture[:] = color
    picture[::CELL], picture[:, ::CELL] = BLACK, BLACK
    return picture


def _fill(picture: np.ndarray, row: int, column: int, color: tuple[int, int, int]) -> None:
    picture[row * CELL + 1 : (row + 1) * CELL, column * CELL + 1 : (column + 1) * CELL] = color


CORRIDORS = (10, 30, 100, 300, 1000)
MAZES = (10, 30, 100)
COPIES = {"Copy": (4, 4)}  # symbols and delay


def register() -> None:
    """Register the tasks with Gymnasium, and their twins."""
    for shown in (False, True):
        twin = "Shown" if shown else ""
        for n in CORRIDORS:
            kwargs = {"length": n, "shown": shown}
            gym.register(f"recdqn/Corridor{n}{twin}-v0", f"{__name__}:Corridor", kwargs=kwargs)
        for n in MAZES:
            gym.register(
                f"recdqn/TMaze{n}{twin}-v0",
                f"{__name__}:Corridor",
                max_episode_steps=3 * n + 10,
                kwargs={"length": n, "shown": shown, "active": True},
            )
        for name, (symbols, delay) in COPIES.items():
            kwargs = {"symbols": symbols, "delay": delay, "shown": shown}
            gym.register(f"recdqn/{name}{twin}-v0", f"{__name__}:Copy", kwargs=kwargs)
    gym.register("recdqn/FlickeringCartPole-v0", f"{__name__}:flickering_cartpole")
