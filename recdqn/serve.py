"""Serve an agent over HTTP and WebSocket: each client has a session with its own recurrent state.

The server is Starlette on uvicorn: both are small and widely kept. A step of these agents takes less than a
tenth of a millisecond, so there is nothing to batch or to distribute. Frameworks for serving models, such as
BentoML or Ray Serve, would add more time to a call than the agent takes. Messages are JSON, without pickles.
"""

from __future__ import annotations

import json
import math
import secrets
import time
from collections import OrderedDict
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium.spaces import Box, Dict, Tuple

from recdqn.agent import Agent, State
from recdqn.envs import declared_spaces
from recdqn.errors import UserError, first_line
from recdqn.run.folder import load_agent

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import HTMLResponse, JSONResponse
    from starlette.websockets import WebSocket

SECONDS = 600.0  # after which an unused session expires
SESSIONS = 10_000  # at the same time
RATE = 1_000  # steps of a session in a second, at most
BYTES = 1_000_000  # of a message


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
        rate: steps of a session in a second, at most; as many may come at once.
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
                its previous step also needs ``"reward"``.

        Returns:
            ``{"action": ...}``.

        Raises:
            Refused: if there is no such session, it is used too fast, or the message cannot be used; the
                state is then as before.
        """
        session = self._find(name)
        given, is_init, reward = _read(message)
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
            action, state = self.agent.act(observation, state, reward)
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


def _read(message: Any) -> tuple[Any, bool, float]:
    """Check a message, and return observation, start of an episode, and reward."""
    if not isinstance(message, dict) or "observation" not in message:
        raise Refused(422, 'expected an object like {"observation": [0.0, 0.0], "is_init": true}')
    if unknown := sorted(message.keys() - {"observation", "is_init", "reward"}):
        raise Refused(422, f"unknown entry {unknown[0]!r}: expected observation, is_init and reward")
    is_init, reward = message.get("is_init", False), message.get("reward", 0.0)
    if not isinstance(is_init, bool):
        raise Refused(422, f"is_init={is_init!r}: expected true or false")
    if isinstance(reward, bool) or not isinstance(reward, int | float) or not math.isfinite(reward):
        raise Refused(422, "reward: expected a finite number")
    return message["observation"], is_init, float(reward)


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


def make_app(sessions: Sessions, about: dict[str, Any]) -> Starlette:
    """Return the ASGI application.

    ``POST /sessions`` begins a session, ``POST /sessions/NAME/step`` acts in it, ``DELETE /sessions/NAME``
    ends it; a WebSocket to ``/ws`` is a session of its own. ``GET /health``, ``/openapi.json`` and ``/docs``
    describe the server.

    Args:
        sessions: with the agent.
        about: what ``/health`` says of the agent.
    """
    from starlette.applications import Starlette
    from starlette.responses import HTMLResponse, JSONResponse
    from starlette.routing import Route, WebSocketRoute
    from starlette.websockets import WebSocketDisconnect

    description = openapi(sessions)

    async def begin(request: Request) -> JSONResponse:
        return JSONResponse({"session": sessions.begin()}, 201)

    async def end(request: Request) -> JSONResponse:
        sessions.end(request.path_params["name"])
        return JSONResponse({"ended": True})

    async def step(request: Request) -> JSONResponse:
        return JSONResponse(sessions.step(request.path_params["name"], _parse(await _body(request))))

    async def health(request: Request) -> JSONResponse:
        return JSONResponse({"status": "ok", "sessions": len(sessions), **about})

    async def spec(request: Request) -> JSONResponse:
        return JSONResponse(description)

    async def docs(request: Request) -> HTMLResponse:
        return HTMLResponse(page(description))

    async def refused(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"error": str(error)}, getattr(error, "status", 500))

    async def websocket(socket: WebSocket) -> None:
        await socket.accept()
        try:
            name = sessions.begin()
        except Refused as error:
            await socket.close(1013, str(error))
            return
        try:
            while True:
                text = await socket.receive_text()
                try:
                    answer = sessions.step(name, _parse(text.encode()))
                except Refused as error:
                    answer = {"error": str(error), "status": error.status}
                await socket.send_text(json.dumps(answer))
        except (WebSocketDisconnect, KeyError):  # gone, or sent bytes
            pass
        finally:
            sessions.drop(name)

    return Starlette(
        routes=[
            Route("/sessions", begin, methods=["POST"]),
            Route("/sessions/{name}", end, methods=["DELETE"]),
            Route("/sessions/{name}/step", step, methods=["POST"]),
            Route("/health", health),
            Route("/openapi.json", spec),
            Route("/docs", docs),
            WebSocketRoute("/ws", websocket),
        ],
        exception_handlers={Refused: refused},
    )


async def _body(request: Request) -> bytes:
    content = b""
    async for part in request.stream():
        content += part
        if len(content) > BYTES:
            raise Refused(413, f"the message is longer than {BYTES:,} bytes")
    return content


def _parse(content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise Refused(422, f"expected JSON; {first_line(error)}") from None


def openapi(sessions: Sessions) -> dict[str, Any]:
    """Return the server's description in the format OpenAPI 3.1."""
    message = {
        "type": "object",
        "required": ["observation"],
        "additionalProperties": False,
        "properties": {
            "observation": {"description": "as the environment returns it, arrays as nested lists"},
            "is_init": {"type": "boolean", "default": False, "description": "whether an episode begins"},
            "reward": {"type": "number", "default": 0, "description": "for the action before"},
        },
    }
    answer = {
        "type": "object",
        "properties": {"action": {"description": "as the environment's step takes it"}},
    }
    errors = {"404": "no such session", "413": "too long", "422": "unusable", "429": "too many or too fast"}

    def operation(summary: str, status: str, schema: dict[str, Any], **more: Any) -> dict[str, Any]:
        good = {"description": "done", "content": {"application/json": {"schema": schema}}}
        bad = {code: {"description": text} for code, text in errors.items()}
        return {"summary": summary, "responses": {status: good, **bad}, **more}

    name = [{"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}]
    body = {"required": True, "content": {"application/json": {"schema": message}}}
    begun = {"type": "object", "properties": {"session": {"type": "string"}}}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "recdqn serve",
            "version": version("recdqn"),
            "description": f"A session expires after {sessions.seconds:g} s without a step. "
            "A WebSocket to /ws is a session: send the messages of a step, receive its answers.",
        },
        "paths": {
            "/sessions": {"post": operation("Begin a session", "201", begun)},
            "/sessions/{name}": {
                "delete": operation("End a session", "200", {"type": "object"}, parameters=name)
            },
            "/sessions/{name}/step": {
                "post": operation("Act", "200", answer, parameters=name, requestBody=body)
            },
            "/health": {"get": operation("Whether the server works", "200", {"type": "object"})},
        },
    }


def page(description: dict[str, Any]) -> str:
    """Return the description as a page without scripts."""
    rows = "".join(
        f"<li><code>{method.upper()} {path}</code>: {what['summary']}</li>"
        for path, methods in description["paths"].items()
        for method, what in methods.items()
    )
    text = json.dumps(description, indent=1).replace("&", "&amp;").replace("<", "&lt;")
    info = description["info"]
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{info["title"]}</title>'
        f"<h1>{info['title']}</h1><p>{info['description']}</p><ul>{rows}</ul><pre>{text}</pre></html>"
    )


def serve(run: str | Path, host: str = "127.0.0.1", port: int = 8000, seconds: float = SECONDS) -> None:
    """Serve the agent of a run until the process is stopped; running requests are answered first.

    Args:
        run: its folder.
        host: address to listen on; by default only this machine can reach it. There is no encryption and no
            password: put a proxy that has both in front of it before others can reach it.
        port: 0 takes a free one.
        seconds: after which an unused session expires.

    Raises:
        UserError: if the run cannot be loaded, a package is missing, or the port is in use.
    """
    import socket

    import torch

    if missing := [name for name in ("starlette", "uvicorn", "websockets") if find_spec(name) is None]:
        raise UserError(f"serving needs the package {missing[0]}: pip install 'recdqn[serve]'")
    import uvicorn

    torch.set_num_threads(1)
    agent = load_agent(run)
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(1024)
    except (OSError, OverflowError) as error:
        listener.close()
        raise UserError(
            f"cannot listen on {host}:{port}: {first_line(error)}; choose another --port"
        ) from None
    print(f"http://{host}:{listener.getsockname()[1]}", flush=True)
    app = make_app(Sessions(agent, seconds), {"environment": str(agent.cfg.id)})
    config = uvicorn.Config(
        app,
        log_level="warning",
        ws="websockets-sansio",
        ws_max_size=BYTES,
        timeout_graceful_shutdown=5,
    )
    uvicorn.Server(config).run(sockets=[listener])
