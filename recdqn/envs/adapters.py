"""Memory tasks of POPGym and MiniGrid, with observations as vectors; the extra ``envs`` installs them.

They are registered as ``recdqn/NAME-v0``, each with a twin ``recdqn/NAMEShown-v0`` that appends to the
observation what must be remembered, one-hot; see :mod:`recdqn.envs.memory`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Discrete

from recdqn.errors import UserError, installed

CARDS = 4  # suits
OBJECTS = ("unseen", "empty", "wall", "key", "ball")  # all that the memory task of MiniGrid has
SIZES = (7, 9, 11, 13)

Env = gym.Env[Any, Any]


class Vectors(gym.Wrapper[np.ndarray, np.int64, Any, Any]):
    """Turn observations into vectors of zeros and ones, float32, and drop ``info``.

    Args:
        env: the environment.
        encode: returns the vector ``[size]`` of an observation.
        size: its length.
        actions: how many actions are kept, from the first on.
        kinds: number of values of ``secret``.
        secret: returns the value that the right action depends on, read from the state of the unwrapped
            environment, or ``None``. It is appended one-hot, or as zeros: the vector is ``[size + kinds]``.
    """

    def __init__(
        self,
        env: Env,
        encode: Callable[[Any], np.ndarray],
        size: int,
        actions: int,
        kinds: int = 0,
        secret: Callable[[Any], int | None] | None = None,
    ) -> None:
        super().__init__(env)
        self._encode, self._kinds, self._secret = encode, kinds, secret
        self.observation_space = Box(0.0, 1.0, (size + (kinds if secret else 0),), np.float32)
        self.action_space = Discrete(actions)

    def reset(self, **kwargs: Any) -> tuple[np.ndarray, dict[str, Any]]:
        """Reset, and encode the observation."""
        observation, _ = self.env.reset(**kwargs)
        return self._seen(observation), {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Step, and encode the observation."""
        observation, reward, terminated, truncated, _ = self.env.step(action)
        return self._seen(observation), float(reward), terminated, truncated, {}

    def _seen(self, observation: Any) -> np.ndarray:
        seen = self._encode(observation).astype(np.float32)
        if self._secret is None:
            return seen
        shown = np.zeros(self._kinds, np.float32)
        value = self._secret(self.unwrapped)
        if value is not None:
            shown[value] = 1.0
        return np.concatenate([seen, shown])


def repeat_previous(shown: bool = False) -> Env:
    """Make POPGym's RepeatPreviousEasy: name the suit of the card of three steps ago.

    Each card must be remembered for three steps. The 48 answers of an episode of 51 steps give 1/48 each, or
    -1/48 where they are wrong: the mean return is 1 with memory and about -0.5 without
    (:cite:t:`morad2023popgym`).

    Args:
        shown: show the card of three steps ago as well.

    Raises:
        UserError: if POPGym is not installed.
    """
    _need("popgym")
    from popgym.envs.repeat_previous import RepeatPreviousEasy

    def secret(env: Any) -> int | None:
        hand = env.deck["player"]
        return int(env.deck.suits_idx[hand[-env.k]]) if len(hand) >= env.k else None

    return _flat(RepeatPreviousEasy(), CARDS, secret if shown else None)


def autoencode(shown: bool = False) -> Env:
    """Make POPGym's AutoencodeEasy: watch a deck of 52 cards, then name their suits in reverse order.

    The first card must be remembered for 102 steps, and the last one is still in view when it is asked for.
    Each of the 52 answers gives 1/52, or -1/52 where it is wrong: the mean return is 1 with memory and about
    -0.5 without.

    Args:
        shown: show the card that is to be named as well.

    Raises:
        UserError: if POPGym is not installed.
    """
    _need("popgym")
    from popgym.envs.autoencode import AutoencodeEasy, Mode

    def secret(env: Any) -> int | None:
        cards = env.deck["system"]
        return int(env.deck.suits_idx[cards[-1]]) if cards and env.mode == Mode.PLAY else None

    return _flat(AutoencodeEasy(), CARDS, secret if shown else None)


def count_recall(shown: bool = False) -> Env:
    """Make POPGym's CountRecallEasy: say how many cards of a colour, red or black, have been dealt so far.

    The two counts must be kept for the 51 steps of an episode. Each answer, from 0 to 26, gives 1/51, or
    -1/51 where it is wrong: the mean return is 1 with memory.

    Args:
        shown: show the count that is asked for as well.

    Raises:
        UserError: if POPGym is not installed.
    """
    _need("popgym")
    from popgym.envs.count_recall import CountRecallEasy

    def secret(env: Any) -> int | None:
        return int(env.counts[env.query])

    env = CountRecallEasy()
    return _flat(env, int(env.action_space.n), secret if shown else None)


def minigrid_memory(size: int = 7, shown: bool = False, render_mode: str | None = None) -> Env:
    """Make MiniGrid's memory task: go to that object, key or ball, that also lies in the start room.

    The agent walks through a corridor to a junction with a key on one side and a ball on the other. The right
    one gives ``1 - 0.9 * steps / max_steps``, with a limit of ``5 * size ** 2`` steps. The wrong one gives 0,
    and either ends the episode. The agent starts somewhere on the way to the junction, and often has to turn
    around to see the object in the start room (:cite:t:`chevalierboisvert2023minigrid`).

    The view has 7 x 7 squares, the agent in the middle of its near side. **In sizes 7 and 9 it is enough to
    remember one observation**: an agent at the junction that looks back has all three objects in one view,
    and turns to the right one. From size 11 on the start room is too far away, and the object must be
    remembered for at least ``size - 7`` steps, to turn around and walk to the junction.

    The observation is one-hot for each square: unseen, empty, wall, key or ball. The actions are left,
    right and forward.

    Args:
        size: height and width of the grid, odd, at least 7.
        shown: show the object of the start room at every step, as key or ball.
        render_mode: ``"rgb_array"`` draws the grid from above.

    Raises:
        UserError: if MiniGrid is not installed.
    """
    _need("minigrid")
    from minigrid.core.constants import OBJECT_TO_IDX
    from minigrid.envs.memory import MemoryEnv

    rows = np.zeros((256, len(OBJECTS)), np.float32)  # of every byte that a square may have
    for k, name in enumerate(OBJECTS):
        rows[OBJECT_TO_IDX[name], k] = 1.0

    def encode(observation: Any) -> np.ndarray:
        return rows[observation["image"][..., 0]].ravel()

    def secret(env: Any) -> int:
        return int(env.grid.get(1, env.height // 2 - 1).type == "ball")

    env = MemoryEnv(size=size, render_mode=render_mode)
    squares = env.agent_view_size**2
    return Vectors(env, encode, squares * len(OBJECTS), 3, 2, secret if shown else None)


def _flat(env: Env, kinds: int, secret: Callable[[Any], int | None] | None) -> Env:
    """Encode observations as Gymnasium flattens them: ``Discrete`` parts become one-hot."""
    space, actions = env.observation_space, env.action_space
    assert isinstance(actions, Discrete)

    def encode(observation: Any) -> np.ndarray:
        return np.asarray(gym.spaces.flatten(space, observation))

    return Vectors(env, encode, gym.spaces.flatdim(space), int(actions.n), kinds, secret)


def _need(package: str) -> None:
    if not installed(package):
        raise UserError(f"{package} is not installed: pip install 'recdqn[envs]'")


def register() -> None:
    """Register the tasks with Gymnasium, and their twins; no package is imported before one is made."""
    tasks: dict[str, tuple[str, dict[str, Any]]] = {
        "RepeatPreviousEasy": ("repeat_previous", {}),
        "AutoencodeEasy": ("autoencode", {}),
        "CountRecallEasy": ("count_recall", {}),
        **{f"MiniGridMemoryS{size}": ("minigrid_memory", {"size": size}) for size in SIZES},
    }
    for name, (function, kwargs) in tasks.items():
        for twin, shown in {"": False, "Shown": True}.items():
            where = f"{__name__}:{function}"
            gym.register(f"recdqn/{name}{twin}-v0", where, kwargs=kwargs | {"shown": shown})
