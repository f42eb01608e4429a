"""Sessions of a server: each client has its own recurrent state, which expires."""

from __future__ import annotations

import secrets
import sys
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Dict, Tuple

from recdqn.agent import Agent, State
from recdqn.envs import declared_spaces
from recdqn.errors import UserError, first_line

SECONDS = 600.0  # after which an unused session expires
SESSIONS = 10_000  # at the same time
RATE = 1_000  # steps of a session in a second, on average


class Refused(Exception):
    """An answer with an HTTP status and one line."""

    def __init__(self, status: int, line: str) -> None:
        super().__init__(line)
        self.status = status


@dataclass
class Session:
    """The state of a client, when it was last used, and how many steps it may make now."""

    state: State
    used: float
    allowed: float


class Sessions:
    """Sessions by their random names, the one that was used last at the end.

    Args:
        agent: shared by all sessions; it keeps no state.
        seconds: after which an unused session expires.
        most: sessions at the same time.
        rate: steps of a session in a second, on average; as many may come at once.
        clock: returns seconds.
    """

    def __init__(
        self,
        agent: Agent,
        seconds: float = SECONDS,
        most: int = SESSIONS,
        rate: float = RATE,
        clock: Any = time.monotonic,
    ) -> None:
        self.agent, self.seconds, self.most, self.rate, self.clock = agent, seconds, most, rate, clock
        cfg = agent.cfg
        picture = Box(0, 255, (1, cfg.image_size, cfg.image_size), np.uint8)
        self.space = picture if cfg.observation == "pixels" else declared_spaces(cfg)[0]
        self._sessions: OrderedDict[str, Session] = OrderedDict()

    def __len__(self) -> int:
        self._expire()
        return len(self._sessions)

    def begin(self) -> str:
        """Begin a session and return its name."""
        self._expire()
        if len(self._sessions) >= self.most:
            raise Refused(429, f"all {self.most} sessions are in use: end one, or try again later")
        name = secrets.token_urlsafe(16)
        self._sessions[name] = Session(self.agent.initial_state(), self.clock(), self.rate)
        return name

    def end(self, name: str) -> None:
        """End a session."""
        self._find(name)
        self.drop(name)

    def drop(self, name: str) -> None:
        """Forget a session, if it is still there."""
        self._sessions.pop(name, None)

    def step(self, name: str, message: Any) -> dict[str, Any]:
        """Act in a session.

        Args:
            name: of the session.
            message: ``{"observation": numbers}``; ``"is_init": true`` begins an episode. An agent that sees
                its previous step also needs ``"reward"``, and one whose environment tells the legal actions
                in ``info`` needs ``"mask"``, zeros and ones.

        Returns:
            ``{"action": ...}``.

        Raises:
            Refused: if there is no such session, it is used too fast, or the message cannot be used; the
                state is then as before.
        """
        session = self._find(name)
        given, is_init, reward, mask = _read(message)
        try:
            observation = _converted(self.space, given)
        except (ValueError, TypeError, OverflowError, KeyError) as error:
            raise Refused(422, f"observation: expected {_short(self.space)}; {first_line(error)}") from None
        now = self.clock()
        session.allowed = min(self.rate, session.allowed + (now - session.used) * self.rate)
        session.used = now
        if session.allowed < 1:
            raise Refused(429, f"more than {self.rate:g} steps a second: slow down")
        state = self.agent.initial_state() if is_init else session.state
        try:
            action, state = self.agent.act(observation, state, reward, mask=mask)
        except UserError as error:
            raise Refused(422, str(error)) from None
        session.allowed -= 1
        session.state = state
        return {"action": np.asarray(action).tolist()}

    def _find(self, name: str) -> Session:
        self._expire()
        if name not in self._sessions:
            raise Refused(404, "there is no such session, or it has expired: begin one by POST /sessions")
        self._sessions.move_to_end(name)
        return self._sessions[name]

    def _expire(self) -> None:
        while self._sessions:
            name, session = next(iter(self._sessions.items()))
            if self.clock() - session.used < self.seconds:
                break
            del self._sessions[name]


def _read(message: Any) -> tuple[Any, bool, float, np.ndarray | None]:
    """Check a message, and return observation, start of an episode, reward, and mask."""
    if not isinstance(message, dict) or "observation" not in message:
        raise Refused(422, 'expected an object like {"observation": [0.0, 0.0], "is_init": true}')
    if unknown := sorted(message.keys() - {"observation", "is_init", "reward", "mask"}):
        raise Refused(422, f"unknown entry {unknown[0]!r}: expected observation, is_init, reward and mask")
    is_init, reward, mask = message.get("is_init", False), message.get("reward", 0.0), message.get("mask")
    if not isinstance(is_init, bool):
        raise Refused(422, f"is_init={is_init!r}: expected true or false")
    if type(reward) not in (int, float) or not abs(reward) <= sys.float_info.max:
        raise Refused(422, "reward: expected a finite number")
    if mask is not None and not (isinstance(mask, list) and all(one in (0, 1) for one in mask)):
        raise Refused(422, "mask: expected a list of zeros and ones, one for each action")
    return message["observation"], is_init, float(reward), None if mask is None else np.array(mask, bool)


def _converted(space: Any, given: Any) -> Any:
    """Return an observation of a space, from JSON."""
    if isinstance(space, Dict):
        if not isinstance(given, dict) or given.keys() != space.spaces.keys():
            raise ValueError(f"an object with the entries {', '.join(space.spaces)}")
        return {key: _converted(part, given[key]) for key, part in space.spaces.items()}
    if isinstance(space, Tuple):
        return tuple(_converted(part, one) for part, one in zip(space.spaces, given, strict=True))
    if isinstance(given, str):
        raise ValueError("a text")
    values = np.asarray(given, space.dtype)
    if not np.isfinite(values).all():
        raise ValueError("a number that is not finite")
    return values


def _short(space: Any) -> str:
    return f"{type(space).__name__} of shape {space.shape} in nested lists"
