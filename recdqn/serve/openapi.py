"""The server's description: OpenAPI, and a page without scripts."""

from __future__ import annotations

import html
import json
from importlib.metadata import version
from typing import Any


def openapi(seconds: float) -> dict[str, Any]:
    """Return the server's description in the format OpenAPI 3.1.

    Args:
        seconds: after which an unused session expires.
    """
    message = {
        "type": "object",
        "required": ["observation"],
        "additionalProperties": False,
        "properties": {
            "observation": {
                "description": "as the environment returns it, arrays as nested lists; a rendered picture is "
                "[1, size, size], and several observations are [stack, n], the newest at the end"
            },
            "is_init": {"type": "boolean", "default": False, "description": "whether an episode begins"},
            "reward": {"type": "number", "default": 0, "description": "for the action before"},
            "mask": {"type": "array", "items": {"enum": [0, 1]}, "description": "which actions are legal"},
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
            "description": f"A session expires after {seconds:g} s without a step. "
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
    text = html.escape(json.dumps(description, indent=1), quote=False)
    info = description["info"]
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{info["title"]}</title>'
        f"<h1>{info['title']}</h1><p>{info['description']}</p><ul>{rows}</ul><pre>{text}</pre></html>"
    )
