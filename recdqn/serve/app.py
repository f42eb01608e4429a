"""The ASGI application: sessions over HTTP and WebSocket."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from recdqn.errors import first_line
from recdqn.serve.openapi import openapi, page
from recdqn.serve.sessions import Refused, Sessions

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import HTMLResponse, JSONResponse
    from starlette.websockets import WebSocket

BYTES = 1_000_000  # of a message


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

    description = openapi(sessions.seconds)

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
